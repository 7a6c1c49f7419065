/** Labels of security modules: what is written where, what is refused, what mounts get; and how a pod's volume is opened. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { RuntimeSpec } from '#oci';
import { type Step, describeStep } from '#plan';
import { planContainer } from './container.ts';
import { decodeSelinuxContexts } from './lsm-default.ts';
import { checkLabels, checkMountLabel, labelOptions, overlayLabel, planLabels } from './lsm.ts';
import { decodeRuntimeSpec } from '#oci';
import { v2Host } from './testdata/hosts.ts';

const label = 'system_u:system_r:container_t:s0:c1,c2';
const both = { securityModules: ['apparmor', 'selinux'] };

describe('labels', () => {
  it('are written to the own files of the process', () => {
    assert.deepEqual(
      planLabels({ apparmorProfile: 'mine', selinuxLabel: label }, 'process').map((step) => [describeStep(step), step.origin]),
      [
        ['write "exec mine" to /proc/self/attr/apparmor/exec', '/process/apparmorProfile'],
        [`write "${label}" to /proc/self/attr/exec`, '/process/selinuxLabel'],
      ],
    );
    assert.deepEqual(planLabels({ apparmorProfile: 'unconfined', selinuxLabel: '' }, 'process'), []);
  });

  it('are refused where the kernel lacks the module or where they would say more than a name', () => {
    checkLabels({ apparmorProfile: 'mine', selinuxLabel: label }, both, 'process');
    checkLabels({ apparmorProfile: 'unconfined' }, { securityModules: [] }, 'process');
    assert.throws(() => checkLabels({ apparmorProfile: 'a\nchangeprofile b' }, both, 'process'), {
      code: 'invalidArgument',
      message: 'process.apparmorProfile: is no name of a profile',
    });
    assert.throws(() => checkLabels({ selinuxLabel: 'a:b:c",x=y' }, both, 'process'), { message: 'process.selinuxLabel: "a:b:c\\",x=y" is no label of SELinux' });
    assert.throws(() => checkMountLabel('a:b:c"', both), { message: 'linux.mountLabel: "a:b:c\\"" is no label of SELinux' });
    assert.throws(() => checkMountLabel(label, { securityModules: [] }), { code: 'failedPrecondition', message: 'linux.mountLabel: SELinux is not enabled in this kernel' });
  });

  it('of mounts go to file systems that have none of their own', () => {
    assert.deepEqual(labelOptions('tmpfs', label), [`context=${label}`]);
    assert.deepEqual(labelOptions('proc', label), []);
    assert.deepEqual(labelOptions('tmpfs', ''), []);
    assert.deepEqual(overlayLabel(label), [`context="${label}"`]);
  });

  it("of containers are the policy's", () => {
    const text = '# policy\nprocess = "system_u:system_r:container_t:s0"\ncontent = "x"\nfile = "system_u:object_r:container_file_t:s0"\n';
    assert.deepEqual(decodeSelinuxContexts(text), { process: 'system_u:system_r:container_t:s0', mount: 'system_u:object_r:container_file_t:s0', privilegedType: 'spc_t' });
    assert.equal(decodeSelinuxContexts('process = "x:y:z"\n'), undefined);
  });
});

describe('a container', () => {
  const spec = (parts: { readonly mounts?: readonly object[]; readonly process?: object; readonly linux?: object }): RuntimeSpec =>
    decodeRuntimeSpec({
      ociVersion: '1.3.0',
      root: { path: 'rootfs' },
      mounts: [{ destination: '/tmp', type: 'tmpfs', source: 'tmpfs' }, ...(parts.mounts ?? [])],
      process: { args: ['/x'], cwd: '/', env: [], ...parts.process },
      linux: { namespaces: ['pid', 'network', 'mount', 'ipc', 'uts', 'cgroup'].map((type) => ({ type })), ...parts.linux },
    });
  const stepsOf = (document: RuntimeSpec): readonly Step[] =>
    planContainer({
      spec: document,
      rootfs: { kind: 'overlay', storeDir: '/store', lower: ['l'], upper: 'u', work: 'w', mountpoint: '/m' },
      host: { ...v2Host, securityModules: both.securityModules },
      cgroup: { path: '/berth/p/c' },
      askIdentity: false,
    }).sections.flatMap(({ steps }) => steps);

  it('asks for its labels last of all that it does before the pivot, and its file systems have the mount label', () => {
    const mount = 'system_u:object_r:container_file_t:s0:c1,c2';
    const steps = stepsOf(spec({ process: { apparmorProfile: 'mine', selinuxLabel: label }, linux: { mountLabel: mount } }));
    const pivot = steps.findIndex(({ kind }) => kind === 'pivotRoot');
    assert.deepEqual(
      steps.slice(pivot - 2, pivot).map(({ origin }) => origin),
      ['/process/apparmorProfile', '/process/selinuxLabel'],
    );
    const overlay = steps.find((step) => step.kind === 'mount' && step.type === 'overlay');
    assert.ok(overlay?.kind === 'mount' && overlay.data.endsWith(`,context="${mount}"`), JSON.stringify(overlay));
    const memory = steps.find((step) => step.kind === 'newFileSystem' && step.type === 'tmpfs');
    assert.ok(memory?.kind === 'newFileSystem' && memory.options.includes(`context=${mount}`));
  });

  it("opens a pod's volume so that a missing one is made, and one that cannot propagate is refused", () => {
    const document = spec({ mounts: [{ destination: '/v', type: 'bind', source: '/srv/v', options: ['rbind', 'rshared'] }] });
    const volumes: RuntimeSpec = { ...document, mounts: document.mounts.map((mount) => (mount.type === 'bind' ? { ...mount, volume: true as const } : mount)) };
    const ofVolume = (steps: readonly Step[]): readonly string[] => {
      const first = steps.findIndex((step) => step.kind === 'openTree' && step.path === '/srv/v');
      return steps.slice(first, first + 5).map(({ kind }) => kind);
    };
    assert.deepEqual(ofVolume(stepsOf(volumes)), ['openTree', 'skip', 'makeDirectory', 'openTree', 'requirePropagation']);
    assert.equal(ofVolume(stepsOf(document))[1] === 'skip', false);
    assert.ok(!stepsOf(document).some(({ kind }) => kind === 'requirePropagation'));
  });
});
