/**
 * AppArmor against a kernel that has it, and the refusal by one that does not. In: the machine; where AppArmor is enabled, its compiler. The guest's kernel has it, so
 * profiles are enforced there. Needs root, busybox-static and the helper.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { after, before, describe, it } from 'node:test';
import { defaultApparmorProfile } from '#runtime';
import type { RootfsSource } from '../../src/runtime/container.ts';
import { type RuntimeHost, type TestPod, makeSpec, skipReason, startRuntimeHost } from './runtime-host.ts';

const profiles = `
profile berth-test-deny-write flags=(attach_disconnected) { file, signal, deny /tmp/** w, }
profile berth-test-allow flags=(attach_disconnected) { file, signal, network, }
`;
const readIfThere = (path: string): string => (existsSync(path) ? readFileSync(path, 'utf8') : '');
const isEnabled = readIfThere('/sys/module/apparmor/parameters/enabled').startsWith('Y');

function load(text: string, action: '--replace' | '--remove'): void {
  execFileSync('apparmor_parser', [action, '--skip-cache'], {
    input: text,
    env: { ...process.env, PATH: `${process.env['PATH']}:/usr/sbin:/sbin` },
    stdio: ['pipe', 'pipe', 'pipe'],
  });
}

describe('labels of processes', { skip: skipReason() }, () => {
  let environment: RuntimeHost;
  let pod: TestPod;
  before(async () => {
    environment = await startRuntimeHost('/var/tmp');
    pod = await environment.makePod();
    if (isEnabled) load(profiles, '--replace');
  });
  after(async () => {
    if (isEnabled) load(profiles, '--remove');
    await pod?.[Symbol.asyncDispose]();
    await environment?.[Symbol.asyncDispose]();
  });

  const specOf = (apparmorProfile: string, script: string, more: Readonly<Record<string, unknown>> = {}): ReturnType<typeof makeSpec> =>
    makeSpec(environment.host, { args: ['/bin/sh', '-c', script], process: { apparmorProfile, ...more }, linux: { seccomp: undefined } });
  const current = 'cat /proc/self/attr/current; (echo x > /tmp/made) 2>&1 | grep -o denied';
  const denied = 'berth-test-deny-write (enforce)\ndenied\n';
  const refusal = 'process.apparmorProfile: AppArmor is not enabled in this kernel';

  /** What the container prints where the kernel has AppArmor; elsewhere the refusal. */
  async function runIn(where: TestPod, name: string, spec: ReturnType<typeof makeSpec>, options: Parameters<TestPod['run']>[2] = {}): Promise<string> {
    const run = where.run(name, spec, options);
    if (isEnabled) return (await run).output;
    await assert.rejects(run, { code: 'failedPrecondition', message: refusal });
    return refusal;
  }
  const expected = (output: string): string => (isEnabled ? output : refusal);

  it('come with the execve of a container', async () => {
    assert.equal(environment.host.securityModules.includes('apparmor'), isEnabled);
    assert.equal(await runIn(pod, 'denied', specOf('berth-test-deny-write', current)), expected(denied));
    assert.equal(await runIn(pod, 'allowed', specOf('berth-test-allow', current)), expected('berth-test-allow (enforce)\n'));
    const user = { noNewPrivileges: false, user: { uid: 1000, gid: 1001 } };
    assert.equal(await runIn(pod, 'forbidden', specOf('berth-test-deny-write', current, user)), expected(denied));
  });

  it('come with the execve of every further process in it', async () => {
    const { pid, input } = await pod.start('long', specOf(isEnabled ? 'berth-test-deny-write' : 'unconfined', 'sleep 600'));
    const confined = { ...input, spec: specOf('berth-test-deny-write', 'true') };
    const run = pod.exec('exec', confined, pid, ['/bin/sh', '-c', current]);
    if (isEnabled) assert.equal((await run).text, denied);
    else await assert.rejects(run, { code: 'failedPrecondition', message: refusal });
    await pod.shim.signalProcess('long', 9);
  });

  it('hold in a user namespace and in a shared PID namespace, where the process is made by a later fork', async () => {
    await using shared = await environment.makePod({ sharePid: true });
    assert.equal(await runIn(shared, 'shared', specOf('berth-test-deny-write', current)), expected(denied));
    const range = [{ containerID: 0, hostID: 200_000, size: 65_536 }];
    const namespaces = ['user', 'pid', 'network', 'mount', 'ipc', 'uts', 'cgroup'].map((type) => ({ type }));
    const rootfs: RootfsSource = { kind: 'directory', path: environment.root, mapOwners: true };
    const spec = makeSpec(environment.host, {
      args: ['/bin/sh', '-c', current],
      namespaces,
      process: { apparmorProfile: 'berth-test-deny-write' },
      linux: { seccomp: undefined, uidMappings: range, gidMappings: range },
    });
    await using own = await environment.makePod({ namespaces: { net: false, ipc: false, uts: false } });
    assert.equal(await runIn(own, 'mapped', spec, { rootfs }), expected(denied));
  });

  it('that the kernel does not know fail the create', async () => {
    const message = isEnabled ? /^\/process\/apparmorProfile: .*ENOENT/ : new RegExp(`^${refusal}$`);
    await assert.rejects(pod.start('unknown', specOf('berth-test-not-loaded', 'true')), { message });
  });

  it('of the default profile compile, forbid mounts and leave ordinary work alone', async () => {
    const { name, text } = defaultApparmorProfile;
    if (isEnabled) load(text, '--replace');
    const script = `cat /proc/self/attr/current; echo x > /tmp/x && cat /tmp/x; mount -t tmpfs x /data 2>&1 | grep -o denied; sleep 600 & kill $! && echo killed; (echo 1 > /proc/sys/vm/swappiness) 2>&1 | grep -c denied; ls / > /dev/null && echo listed`;
    const spec = makeSpec(environment.host, {
      args: ['/bin/sh', '-c', script],
      capabilities: ['CAP_SYS_ADMIN', 'CAP_KILL', 'CAP_DAC_OVERRIDE'],
      process: { apparmorProfile: name },
      linux: { seccomp: undefined, readonlyPaths: [] },
    });
    try {
      assert.equal(await runIn(pod, 'default', spec), expected(`${name} (enforce)\nx\ndenied\nkilled\n1\nlisted\n`));
    } finally {
      if (isEnabled) load(text, '--remove');
    }
  });
});
