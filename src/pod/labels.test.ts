/** User namespaces of containers, labels of security modules, failures in the words of a request. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { RuntimeError } from '#core';
import type { SpecMount } from '#oci';
import { explainCreateFailure } from './create-failure.ts';
import { apparmorOf, categoriesOf, checkPodLabels, selinuxOf } from './labels.ts';
import { containerConfig, podConfig } from './testing/doubles.ts';
import type { ContainerSecurity, Mount, PodSandboxConfig, UserMappings } from './types.ts';
import { containerUserNamespace, mountMappings, ownUserNamespace } from './user-namespace.ts';

const mappings: UserMappings = { uids: [{ containerId: 0, hostId: 1000, size: 10 }], gids: [{ containerId: 0, hostId: 2000, size: 10 }] };
const none: UserMappings = { uids: [], gids: [] };
const containerWith = (change: Partial<ContainerSecurity>): { readonly security: ContainerSecurity } => ({ security: { ...containerConfig().security, ...change } });
const podWith = (change: Partial<PodSandboxConfig['security']>): { readonly security: PodSandboxConfig['security'] } => ({ security: { ...podConfig().security, ...change } });
const withUser = <T extends { readonly namespaces: object }>(base: T, user: UserMappings | undefined): Pick<PodSandboxConfig['security'], 'namespaces'> => ({
  // SAFETY: the namespaces of both kinds of configuration have one type; the parameter only says that there are some.
  namespaces: { ...(base.namespaces as PodSandboxConfig['security']['namespaces']), ...(user === undefined ? {} : { user }) },
});

describe('the user namespace of a container', () => {
  const pod = podWith(withUser(podConfig().security, mappings));
  const own = (user: UserMappings | undefined): ReturnType<typeof containerWith> => containerWith(withUser(containerConfig().security, user));

  it("is the pod's, whether the container repeats it or says nothing", () => {
    assert.deepEqual(containerUserNamespace(pod, own(mappings)), mappings);
    assert.deepEqual(containerUserNamespace(pod, own(undefined)), mappings);
    assert.equal(containerUserNamespace(podWith(withUser(podConfig().security, none)), own(none)), undefined);
    assert.equal(ownUserNamespace({ user: none }), undefined);
  });

  it('is refused where it differs', () => {
    const path = 'config.linux.security_context.namespace_options.userns_options';
    assert.throws(() => containerUserNamespace(pod, own(none)), { code: 'invalidArgument', message: `${path}: must be the pod's` });
    assert.throws(() => containerUserNamespace(pod, own({ ...mappings, gids: mappings.uids })), { message: `${path}: must be the pod's` });
    assert.throws(() => containerUserNamespace(podWith({}), own(mappings)), { message: `${path}: the pod uses the user namespace of the node` });
  });

  it('decides over the mappings of its volumes', () => {
    const image = { image: 'i', subPath: '' };
    assert.deepEqual(mountMappings({ idMappings: mappings }, mappings, 'config.mounts[0]'), mappings);
    assert.equal(mountMappings({}, mappings, 'config.mounts[0]'), undefined);
    assert.deepEqual(mountMappings({ idMappings: mappings, image }, mappings, 'config.mounts[0]'), mappings);
    assert.throws(() => mountMappings({ idMappings: { ...mappings, uids: mappings.gids }, image }, mappings, 'config.mounts[0]'), {
      message: "config.mounts[0].uidMappings: must be the pod's for an image",
    });
    assert.throws(() => mountMappings({ idMappings: mappings }, undefined, 'config.mounts[2]'), { message: 'config.mounts[2].uidMappings: needs a pod with a user namespace' });
  });
});

describe('the AppArmor profile', () => {
  const apparmor = { defaultProfile: async () => 'berth-default' };
  const of = async (change: Partial<ContainerSecurity>, node: { readonly apparmor?: typeof apparmor } = { apparmor }): Promise<string | undefined> =>
    apparmorOf(containerWith(change).security, node);

  it('is the default one unless something else is said, and none for privileged containers', async () => {
    assert.equal(await of({}), 'berth-default');
    assert.equal(await of({ apparmor: { kind: 'runtimeDefault' } }), 'berth-default');
    assert.equal(await of({ apparmor: { kind: 'localhost', name: 'mine' } }), 'mine');
    assert.equal(await of({ apparmor: { kind: 'unconfined' } }), undefined);
    assert.equal(await of({ privileged: true }), undefined);
    assert.equal(await of({ privileged: true, apparmor: { kind: 'runtimeDefault' } }), 'berth-default');
    assert.equal(await of({ apparmor: { kind: 'runtimeDefault' } }, {}), undefined);
  });

  it('by name is refused on a node without AppArmor, for containers and for pods', async () => {
    const message = 'config.linux.security_context.apparmor: AppArmor is not enabled on this node';
    await assert.rejects(of({ apparmor: { kind: 'localhost', name: 'mine' } }, {}), { code: 'failedPrecondition', message });
    assert.throws(() => checkPodLabels({ apparmor: { kind: 'localhost', name: 'mine' } }, {}), { code: 'failedPrecondition', message });
    checkPodLabels({ apparmor: { kind: 'runtimeDefault' } }, {});
  });

  it('by name is none that confines nothing, whatever the kernel would make of it', async () => {
    for (const name of ['unconfined', ' unconfined', 'unconfined\t', ':root:unconfined', '&unconfined', ''])
      await assert.rejects(of({ apparmor: { kind: 'localhost', name } }), {
        code: 'invalidArgument',
        message: `config.linux.security_context.apparmor: ${JSON.stringify(name)} is no name of a profile`,
      });
    for (const name of ['unconfined-but-not', 'a//child', '/usr/bin/x']) assert.equal(await of({ apparmor: { kind: 'localhost', name } }), name);
  });

  it('that is the default one is left out where it cannot be loaded only for those who do not ask for it', async () => {
    const node = { apparmor: { defaultProfile: async () => undefined } };
    assert.equal(await apparmorOf(containerWith({}).security, node), undefined);
    await assert.rejects(apparmorOf(containerWith({ apparmor: { kind: 'runtimeDefault' } }).security, node), {
      code: 'failedPrecondition',
      message: 'config.linux.security_context.apparmor: the default profile cannot be loaded on this node',
    });
  });
});

describe('SELinux labels', () => {
  const selinux = { process: 'system_u:system_r:container_t:s0', mount: 'system_u:object_r:container_file_t:s0', privilegedType: 'spc_t' };
  const podId = '00000005000000090abc';
  const of = (container: Partial<ContainerSecurity>, pod: Partial<PodSandboxConfig['security']> = {}): ReturnType<typeof selinuxOf> =>
    selinuxOf({ pod: podWith(pod), container: containerWith(container), podId }, { selinux });

  it("are those of the policy with two categories of the pod's own", () => {
    assert.equal(categoriesOf(podId), 'c5,c15');
    assert.equal(categoriesOf('000003ff00000000'), 'c0,c1023');
    assert.deepEqual(of({}), { process: 'system_u:system_r:container_t:s0:c5,c15', mount: 'system_u:object_r:container_file_t:s0:c5,c15' });
    assert.deepEqual(of({ privileged: true }), { process: 'system_u:system_r:spc_t:s0', mount: 'system_u:object_r:container_file_t:s0:c5,c15' });
  });

  it('take the parts that container or pod name', () => {
    const options = { user: 'u', role: '', type: 't', level: 's0:c1,c2' };
    assert.deepEqual(of({ selinux: options }), { process: 'u:system_r:t:s0:c1,c2', mount: 'u:object_r:container_file_t:s0:c1,c2' });
    assert.deepEqual(of({}, { selinux: options }), of({ selinux: options }));
    assert.deepEqual(of({ selinux: { user: '', role: '', type: '', level: 's0' } }, { selinux: options })?.process, 'system_u:system_r:container_t:s0');
  });

  it('are refused on a node without SELinux, and absent where nothing is asked', () => {
    const options = { user: '', role: '', type: 't', level: '' };
    const message = 'config.linux.security_context.selinux_options: SELinux is not enabled on this node';
    assert.throws(() => selinuxOf({ pod: podWith({}), container: containerWith({ selinux: options }), podId }, {}), { code: 'failedPrecondition', message });
    assert.throws(() => checkPodLabels({ selinux: options }, {}), { code: 'failedPrecondition', message });
    assert.equal(selinuxOf({ pod: podWith({}), container: containerWith({}), podId }, {}), undefined);
  });
});

describe('a failed create', () => {
  const mounts: readonly Mount[] = [
    { containerPath: '/one', hostPath: '/srv/one', readonly: false, propagation: 'private' },
    { containerPath: '/two', hostPath: '/srv/two', readonly: false, propagation: 'bidirectional', idMappings: mappings },
  ];
  const planned = mounts.map(({ containerPath, hostPath }): SpecMount => ({
    destination: containerPath,
    source: hostPath,
    type: 'bind',
    options: [],
    idMapped: false,
    volume: true,
  }));
  const spec = { mounts: [{ destination: '/proc', type: 'proc', options: [], idMapped: false }, ...planned], process: { ...{ apparmorProfile: 'mine' } } };
  const explain = (message: string, errno: string, code: 'notFound' | 'unknown' | 'invalidArgument' = 'invalidArgument'): RuntimeError => {
    // SAFETY: only the profile of the process is read, and a RuntimeError comes back for a RuntimeError.
    return explainCreateFailure(new RuntimeError(code, message, { errno }), spec as unknown as Parameters<typeof explainCreateFailure>[1], mounts) as RuntimeError;
  };

  it('names the volume of the request, by its place and its path', () => {
    const error = explain('/mounts/1: clone the mount at /srv/one: EACCES', 'EACCES', 'unknown');
    assert.deepEqual([error.code, error.message], ['failedPrecondition', 'config.mounts[0]: mount "/srv/one": clone the mount at /srv/one: EACCES']);
    assert.equal(explain('/mounts/0: create a proc file system: EPERM', 'EPERM').message, '/mounts/0: create a proc file system: EPERM');
    assert.equal(explain('/mounts/9: what', 'EPERM').message, '/mounts/9: what');
  });

  it('says what a volume lacks', () => {
    assert.equal(
      explain('/mounts/2: verify that the mount at /srv/two is shared: EINVAL (/srv)', 'EINVAL').message,
      'config.mounts[1]: path "/srv/two" is mounted on "/srv" but it is not a shared mount',
    );
    const unmapped = explain('/mounts/2: set mount attributes of slot 80: set idmap, clear none, propagation none: EINVAL', 'EINVAL');
    assert.deepEqual([unmapped.code, unmapped.message], ['failedPrecondition', 'config.mounts[1]: path "/srv/two": its file system cannot map owners (EINVAL)']);
    assert.equal(explain('/mounts/1: make the directory /srv/one with mode 0755: EEXIST', 'EEXIST').message, 'config.mounts[0]: path "/srv/one" is a link that leads nowhere');
  });

  it('names a profile that the kernel does not know', () => {
    assert.equal(
      explain('/process/apparmorProfile: write "exec mine" to /proc/self/attr/apparmor/exec: ENOENT', 'ENOENT', 'notFound').message,
      'config.linux.security_context.apparmor: profile "mine" is not loaded in the kernel',
    );
    assert.equal(explainCreateFailure('text', spec as unknown as Parameters<typeof explainCreateFailure>[1], mounts), 'text');
  });
});
