/**
 * A container that watches its PID namespace while processes of ours join it: with the default capabilities, and with
 * SYS_PTRACE, which opens everything that "not dumpable" closes. Whatever it finds there must lead nowhere.
 */
import assert from 'node:assert/strict';
import { copyFileSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { after, before, describe, it } from 'node:test';
import { defaultCapabilities } from '#runtime';
import { probePath, probeSkip, slowness } from './hostile-probe.ts';
import { type RuntimeHost, type TestPod, makeSpec, skipReason, startRuntimeHost } from './runtime-host.ts';

const skip = skipReason() === false ? probeSkip : skipReason();
const mask = 0x5a;
const spyMs = 2500;

describe('a container that watches what joins it', { skip, timeout: 120_000 * slowness }, () => {
  let environment: RuntimeHost;
  let marker: string;

  before(async () => {
    environment = await startRuntimeHost();
    copyFileSync(probePath, join(environment.root, 'bin/probe'));
    marker = join(environment.directory, 'only-on-the-host');
    writeFileSync(marker, 'secret\n');
  });
  after(async () => environment[Symbol.asyncDispose]());

  /** Starts the spy, and joins its PID namespace again and again by `join` until it ends; gives the lines it printed. */
  async function watch(
    pod: TestPod,
    capabilities: readonly string[],
    join: (spy: Awaited<ReturnType<TestPod['start']>>, round: number) => Promise<void>,
  ): Promise<readonly string[]> {
    const key = Buffer.from(pod.secret.map((byte) => byte ^ mask)).toString('hex');
    const spy = await pod.start('spy', makeSpec(environment.host, { args: ['/bin/probe', 'spy', marker, String(mask), key, String(spyMs)], capabilities }));
    const log = (): readonly string[] =>
      readFileSync(`${pod.logDirectory}/spy.log`, 'utf8')
        .split('\n')
        .map((line) => line.replace(/^\S+ \S+ [FP] /, ''));
    const ended = async (): Promise<boolean> => (await pod.shim.state()).some(({ processId, state }) => processId === 'spy' && state === 'ended');
    for (let round = 0; !(await ended()); round += 1) await join(spy, round).catch(() => undefined);
    while (!(await ended())) await sleep(20);
    return log().filter((line) => line !== '' && line !== 'READY');
  }

  const count = (lines: readonly string[], word: 'SEEN' | 'LOOKED' | 'EXECUTABLES'): number => Number(new RegExp(`${word} (\\d+)`).exec(lines.join('\n'))?.[1] ?? 0);
  /** Before Linux 6.3 the mode of the executable cannot be sealed; it is put back at each use. */
  const canSealMode = (): boolean => environment.host.kernel.major > 6 || (environment.host.kernel.major === 6 && environment.host.kernel.minor >= 3);
  const findings = (lines: readonly string[]): readonly string[] => [...new Set(lines.filter((line) => !/^(SEEN|READ)/.test(line) && (canSealMode() || line !== 'MODE')))];

  it('sees execs come in and can open nothing of them with the default capabilities', async () => {
    await using pod = await environment.makePod();
    const lines = await watch(pod, defaultCapabilities, async ({ input, pid }) => void (await pod.exec('x', input, pid, ['/bin/true'])));
    assert.ok(count(lines, 'SEEN') > 0, `no joining process was seen: ${lines.join('; ')}`);
    assert.deepEqual(findings(lines), []);
    assert.equal(
      lines.some((line) => line.startsWith('READ')),
      false,
      'the memory of a joining process was open',
    );
  });

  it('gets hold of our executable by making us execute it, and cannot change it', async () => {
    await using pod = await environment.makePod();
    // What CVE-2019-5736 did: the command that the host executes in the container is a script whose interpreter is /proc/self/exe.
    writeFileSync(join(environment.root, 'bin/trap'), '#!/proc/self/exe\n', { mode: 0o755 });
    const lines = await watch(pod, defaultCapabilities, async ({ input, pid }) => void (await pod.exec('x', input, pid, ['/bin/trap'])));
    assert.ok(count(lines, 'EXECUTABLES') > 0, `our executable was never opened: ${lines.join('; ')}`);
    assert.deepEqual(findings(lines), []);
    await using other = await environment.makePod({ sharePid: true });
    assert.equal((await other.run('after', makeSpec(environment.host, { args: ['/bin/echo', 'still here'] }))).output, 'still here\n');
  });

  it('finds no way to the host and no secret in them with SYS_PTRACE', async () => {
    await using pod = await environment.makePod();
    const lines = await watch(pod, [...defaultCapabilities, 'CAP_SYS_PTRACE'], async ({ input, pid }) => void (await pod.exec('x', input, pid, ['/bin/true'])));
    assert.ok(count(lines, 'LOOKED') > 0, `no joining process was looked into: ${lines.join('; ')}`);
    assert.deepEqual(findings(lines), []);
  });

  it('finds nothing in a container that starts in the shared PID namespace, nor in the pause process', async () => {
    await using pod = await environment.makePod({ sharePid: true });
    const lines = await watch(
      pod,
      [...defaultCapabilities, 'CAP_SYS_PTRACE'],
      async (_, round) => void (await pod.run(`c${round}`, makeSpec(environment.host, { args: ['/bin/true'] }))),
    );
    assert.ok(count(lines, 'LOOKED') > 0, `nothing was looked into: ${lines.join('; ')}`);
    assert.deepEqual(findings(lines), []);
  });

  it('takes nobody to the host where its pid has become that of a process there', async () => {
    await using pod = await environment.makePod();
    const args = ['/bin/sleep', '600'];
    for (const [name, kind, namespaces] of [
      ['own', 'pid', ['pid', 'mount']],
      ['hosts', 'mount', ['mount']],
    ] as const) {
      const { input } = await pod.start(name, makeSpec(environment.host, { args, namespaces: namespaces.map((type) => ({ type })) }));
      await assert.rejects(pod.exec(`${name}-exec`, input, process.pid, ['/bin/true']), { message: new RegExp(`^enter the ${kind} namespace of slot \\d+: ESRCH`) });
    }
  });

  it('cannot kill, stop or write into the pause process, nor leave by its directories', async () => {
    await using pod = await environment.makePod({ sharePid: true });
    const script = `for s in 9 15 19 1 11; do kill -$s 1; done; (echo x > /proc/1/mem) 2>&1 | grep -c .; for d in root cwd; do ls -A /proc/1/$d/.. /proc/1/$d${marker} 2>/dev/null | grep -v :; done; ls /proc/1/fd 2>/dev/null; sleep 0.1; grep State /proc/1/status`;
    for (const capabilities of [defaultCapabilities, [...defaultCapabilities, 'CAP_SYS_PTRACE', 'CAP_DAC_READ_SEARCH']]) {
      const { output } = await pod.run(`k${capabilities.length}`, makeSpec(environment.host, { args: ['/bin/sh', '-c', script], capabilities }));
      assert.match(output, /^1\nState:\tS \(sleeping\)\n$/);
    }
    assert.deepEqual(
      (await pod.shim.state()).map(({ processId, state }) => [processId, state]),
      [['pause', 'running']],
    );
  });

  it('finds nothing in a container that joins its own PID namespace', async () => {
    await using pod = await environment.makePod();
    const namespaces = (pid: number): readonly unknown[] => [
      { type: 'pid', path: `/proc/${pid}/ns/pid` },
      ...['network', 'mount', 'ipc', 'uts', 'cgroup'].map((type) => ({ type })),
    ];
    const lines = await watch(
      pod,
      [...defaultCapabilities, 'CAP_SYS_PTRACE'],
      async ({ pid }, round) => void (await pod.run(`d${round}`, makeSpec(environment.host, { args: ['/bin/true'], namespaces: namespaces(pid) }))),
    );
    assert.ok(count(lines, 'LOOKED') > 0, `no joining process was looked into: ${lines.join('; ')}`);
    assert.deepEqual(findings(lines), []);
  });
});
