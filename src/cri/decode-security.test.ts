/** User namespaces, mappings of volumes and labels of security modules: what messages become, and what is refused with which path. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { MessageInitShape } from '@bufbuild/protobuf';
import { create } from '@bufbuild/protobuf';
import type { LinuxContainerSecurityContextSchema, LinuxSandboxSecurityContextSchema, MountSchema, NamespaceOptionSchema } from '#gen/cri-v1_pb.js';
import { ContainerConfigSchema, NamespaceMode, PodSandboxConfigSchema, SecurityProfile_ProfileType as ProfileType } from '#gen/cri-v1_pb.js';
import type { ContainerConfig, PodSandboxConfig } from '#pod';
import { decodeContainerConfig } from './decode-container.ts';
import { decodePodSandboxConfig } from './decode-pod.ts';

const at = 'config.linux.security_context';
const pod = (securityContext: MessageInitShape<typeof LinuxSandboxSecurityContextSchema>): PodSandboxConfig =>
  decodePodSandboxConfig('config', create(PodSandboxConfigSchema, { metadata: { name: 'p', uid: 'u', namespace: 'n' }, linux: { securityContext } }));
const container = (securityContext: MessageInitShape<typeof LinuxContainerSecurityContextSchema>, mounts: MessageInitShape<typeof MountSchema>[] = []): ContainerConfig =>
  decodeContainerConfig('config', create(ContainerConfigSchema, { metadata: { name: 'c' }, image: { image: 'i' }, linux: { securityContext }, mounts }));
const one = { containerId: 0, hostId: 1000, length: 65_536 };
const decoded = { containerId: 0, hostId: 1000, size: 65_536 };
const { POD, NODE, CONTAINER, TARGET } = NamespaceMode;

test("a user namespace is one range of users and one of groups, for pods and containers; the node's is said by empty lists", () => {
  const namespaceOptions = { usernsOptions: { mode: POD, uids: [one], gids: [{ ...one, hostId: 7 }] } };
  const user = { uids: [decoded], gids: [{ ...decoded, hostId: 7 }] };
  assert.deepEqual(pod({ namespaceOptions }).security.namespaces.user, user);
  assert.deepEqual(container({ namespaceOptions }).security.namespaces.user, user);
  assert.deepEqual(pod({ namespaceOptions: { usernsOptions: { mode: NODE } } }).security.namespaces.user, { uids: [], gids: [] });
  assert.equal(pod({ namespaceOptions: {} }).security.namespaces.user, undefined);
});

const refusals: readonly (readonly [title: string, options: MessageInitShape<typeof NamespaceOptionSchema>, message: string])[] = [
  ['no mappings', { usernsOptions: { mode: POD } }, 'userns_options.uids: required with mode POD'],
  ['no group mappings', { usernsOptions: { mode: POD, uids: [one] } }, 'userns_options.gids: required with mode POD'],
  ['two user mappings', { usernsOptions: { mode: POD, uids: [one, { ...one, hostId: 2000 }], gids: [one] } }, 'userns_options.uids: must be one mapping, not 2'],
  [
    'an unmapped root',
    { usernsOptions: { mode: POD, uids: [{ ...one, containerId: 1 }], gids: [one] } },
    "userns_options.uids[0].container_id: must be 0, not 1: the container's user and group 0 must be mapped",
  ],
  ['an empty mapping', { usernsOptions: { mode: POD, uids: [one], gids: [{ ...one, length: 0 }] } }, 'userns_options.gids[0].length: must be at least 1'],
  [
    'a mapping beyond all ids',
    { usernsOptions: { mode: POD, uids: [{ ...one, hostId: 4_294_967_000 }], gids: [one] } },
    'userns_options.uids[0].length: 65536 ids from host_id 4294967000 on are more than there are',
  ],
  ['mappings of the node', { usernsOptions: { mode: NODE, uids: [one] } }, 'userns_options.uids: must be empty with mode NODE'],
  ['a namespace per container', { usernsOptions: { mode: CONTAINER } }, 'userns_options.mode: must be one of POD, NODE, not CONTAINER'],
  ["a target's", { usernsOptions: { mode: TARGET } }, 'userns_options.mode: must be one of POD, NODE, not TARGET'],
  ["the node's processes beside it", { pid: NODE, usernsOptions: { mode: POD, uids: [one], gids: [one] } }, 'pid: must not be NODE with a user namespace'],
];

for (const [title, namespaceOptions, message] of refusals)
  test(`a user namespace with ${title} is refused`, () => {
    assert.throws(() => pod({ namespaceOptions }), { code: 'invalidArgument', message: `${at}.namespace_options.${message}` });
  });

test('mappings of a volume are ranges that do not overlap, of users and groups', () => {
  const mount = { containerPath: '/a', hostPath: '/a' };
  assert.deepEqual(container({}, [{ ...mount, uidMappings: [one], gidMappings: [one] }]).mounts[0]?.idMappings, { uids: [decoded], gids: [decoded] });
  assert.throws(() => container({}, [{ ...mount, uidMappings: [one] }]), { code: 'invalidArgument', message: 'config.mounts[0].gidMappings: required beside uidMappings' });
  assert.throws(() => container({}, [{ ...mount, gidMappings: [one] }]), { code: 'invalidArgument', message: 'config.mounts[0].uidMappings: required beside gidMappings' });
  const overlapping = [
    { containerId: 0, hostId: 5, length: 10 },
    { containerId: 20, hostId: 14, length: 1 },
  ];
  assert.throws(() => container({}, [{ ...mount, uidMappings: overlapping, gidMappings: [one] }]), {
    code: 'invalidArgument',
    message: 'config.mounts[0].uidMappings[1]: overlaps config.mounts[0].uidMappings[0]',
  });
});

test('an AppArmor profile has its name without the prefix, from the newer field where both are set', () => {
  const localhost = (localhostRef: string): object => ({ profileType: ProfileType.Localhost, localhostRef });
  assert.deepEqual(container({ apparmor: localhost('localhost/web'), apparmorProfile: 'localhost/other' }).security.apparmor, { kind: 'localhost', name: 'web' });
  assert.deepEqual(container({ apparmor: localhost('web') }).security.apparmor, { kind: 'localhost', name: 'web' });
  assert.deepEqual(container({ apparmorProfile: 'localhost/web' }).security.apparmor, { kind: 'localhost', name: 'web' });
  assert.deepEqual(container({ apparmorProfile: 'runtime/default' }).security.apparmor, { kind: 'runtimeDefault' });
  assert.deepEqual(container({ apparmorProfile: 'unconfined' }).security.apparmor, { kind: 'unconfined' });
  assert.deepEqual(pod({ apparmor: { profileType: ProfileType.Unconfined } }).security.apparmor, { kind: 'unconfined' });
  assert.equal(container({}).security.apparmor, undefined);
  const refused: readonly (readonly [MessageInitShape<typeof LinuxContainerSecurityContextSchema>, string])[] = [
    [{ apparmor: localhost('localhost/') }, 'apparmor.localhost_ref: required'],
    [{ apparmor: localhost('a\nchangehat b') }, 'apparmor.localhost_ref: must not contain a line break'],
    [{ apparmorProfile: 'what' }, 'apparmor_profile: unknown profile "what"'],
  ];
  for (const [context, message] of refused) assert.throws(() => container(context), { code: 'invalidArgument', message: `${at}.${message}` });
});

test('an SELinux label is taken in parts; separators that would forge others are refused', () => {
  const label = { user: 'system_u', role: 'system_r', type: 'container_t', level: 's0:c4,c5' };
  assert.deepEqual(container({ selinuxOptions: label }).security.selinux, label);
  assert.deepEqual(pod({ selinuxOptions: { level: 's0-s0:c0.c1023' } }).security.selinux, { user: '', role: '', type: '', level: 's0-s0:c0.c1023' });
  assert.equal(pod({ selinuxOptions: {} }).security.selinux, undefined);
  assert.throws(() => container({ selinuxOptions: { ...label, level: 's0,c4,c5' } }), { code: 'invalidArgument', message: `${at}.selinux_options.level: "s0,c4,c5" is no level` });
  assert.throws(() => pod({ selinuxOptions: { type: 'a:b' } }), { code: 'invalidArgument', message: `${at}.selinux_options.type: "a:b" is no part of a label` });
});
