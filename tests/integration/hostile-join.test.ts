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
import { probePath, probeSkip } from './hostile-probe.ts';
import { type RuntimeHost, type TestPod, makeSpec, skipReason, startRuntimeHost } from './runtime-host.ts';

const skip = skipReason() === false ? probeSkip : skipReason();
const mask = 0x5a;
const spyMs = 4000;
const joinsMax = 400;

describe('a container that watches what joins it', { skip, timeout: 120_000 }, () => {
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
    for (let round = 0; round < joinsMax && !(await ended()); round += 1) await join(spy, round).catch(() => undefined);
    while (!(await ended())) await sleep(20);
    return log().filter((line) => line !== '' && line !== 'READY');
  }

  const count = (lines: readonly string[], word: 'SEEN' | 'LOOKED'): number => Number(new RegExp(`${word} (\\d+)`).exec(lines.join('\n'))?.[1] ?? 0);
  const findings = (lines: readonly string[]): readonly string[] => [...new Set(lines.filter((line) => !/^(SEEN|READ)/.test(line)))];

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
