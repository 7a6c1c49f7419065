/**
 * Processes that turn against their surroundings from inside a container: output without end, forged log lines, forks, memory,
 * file systems filled, the host's devices, privileges. The pod's other requests are answered meanwhile, and the bounds hold.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, readlinkSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { after, before, describe, it } from 'node:test';
import { errorMessage, limits } from '#core';
import { planExec } from '#runtime';
import { slowness } from './hostile-probe.ts';
import { type RuntimeHost, type TestPod, makeSpec, skipReason, startRuntimeHost } from './runtime-host.ts';

const skip = skipReason();
const sh = (script: string): readonly string[] => ['/bin/sh', '-c', script];

describe('a hostile process', { skip, timeout: 120_000 * slowness }, () => {
  let environment: RuntimeHost;
  let pod: TestPod;
  before(async () => {
    environment = await startRuntimeHost();
    pod = await environment.makePod();
  });
  after(async () => {
    await pod?.[Symbol.asyncDispose]();
    await environment?.[Symbol.asyncDispose]();
  });

  const logOf = (name: string): readonly string[] =>
    readFileSync(join(pod.logDirectory, `${name}.log`), 'utf8')
      .split('\n')
      .slice(0, -1);
  const remove = async (name: string): Promise<void> => {
    await pod.shim.signalProcess(name, 9);
    while ((await pod.shim.state()).some(({ processId, state }) => processId === name && state !== 'ended')) await sleep(20);
    await pod.shim.removeProcess(name);
  };

  it('gets 16 MiB of an exec of 100 MB through, and the shim does not grow by more', async () => {
    const { pid, input } = await pod.start('long', makeSpec(environment.host, { args: ['/bin/sleep', '60'] }));
    if (input.spec.process === undefined) throw new Error('no process');
    const plan = planExec({
      process: { ...input.spec.process, args: sh('head -c 100000000 /dev/zero; head -c 100000000 /dev/zero >&2; echo done >&2') },
      spec: input.spec,
      initPid: pid,
      host: environment.host,
      cgroup: input.cgroup,
    });
    const result = await pod.shim.exec({ processId: 'flood', plan, timeoutMs: 20_000, outputBytesMax: limits.execOutputBytesMax });
    assert.equal(result.waitStatus, 0);
    assert.equal(result.truncated, true);
    assert.ok(result.stdout.length + result.stderr.length <= limits.frameBytesMax);
    assert.ok(result.stdout.length > 8_000_000, `${result.stdout.length}`);
    const peakKb = Number(/VmHWM:\s+(\d+)/.exec(readFileSync(`/proc/${pod.shim.pid}/status`, 'utf8'))?.[1]);
    assert.ok(peakKb < 80_000, `the shim grew to ${peakKb} kB`);
    await remove('long');
  });

  it('that never ends its line gets parts of 16 KiB, each prefixed, and a small shim', async () => {
    await pod.run('line', makeSpec(environment.host, { args: sh('head -c 20000000 /dev/zero | tr "\\0" a') }));
    const lines = logOf('line');
    assert.equal(
      lines.reduce((sum, line) => sum + line.length - line.indexOf(' P ') - 3, 0),
      20_000_000,
    );
    for (const line of lines) {
      assert.match(line.slice(0, 60), /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z stdout P a/);
      assert.ok(line.length <= limits.logLineBytesMax + 60);
    }
    rmSync(join(pod.logDirectory, 'line.log'));
  });

  it('cannot forge a log line, whatever its output holds', async () => {
    const forged = '2000-01-01T00:00:00.000000000Z stderr F forged';
    await pod.run('forger', makeSpec(environment.host, { args: sh(`printf '${forged}\\n\\r${forged}\\n\\0${forged}\\r\\n\\n'; printf 'x\\v\\f\\r${forged}'`) }));
    const lines = logOf('forger');
    assert.equal(lines.length, 5);
    for (const line of lines) assert.match(line, /^20[2-9]\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z stdout [FP] /);
  });

  it('finds log paths closed: climbing, absolute, links, FIFOs, devices and directories', async () => {
    const outside = join(environment.directory, 'outside-the-logs');
    mkdirSync(outside, { recursive: true });
    writeFileSync(join(outside, 'file'), 'untouched');
    symlinkSync(outside, join(pod.logDirectory, 'linked'));
    symlinkSync(join(outside, 'file'), join(pod.logDirectory, 'link.log'));
    symlinkSync(join(outside, 'new'), join(pod.logDirectory, 'dangling.log'));
    execFileSync('mkfifo', [join(pod.logDirectory, 'fifo.log')]);
    execFileSync('mknod', [join(pod.logDirectory, 'device.log'), 'c', '1', '3']);
    mkdirSync(join(pod.logDirectory, 'directory.log'));
    const paths = [
      '../outside-the-logs/file',
      'x/../../outside-the-logs/file',
      `${outside}/file`,
      'linked/file',
      'linked/new/deep',
      'link.log',
      'dangling.log',
      'fifo.log',
      'device.log',
      'directory.log',
      '',
      '.',
      '..',
      './',
      `${'x'.repeat(300)}.log`,
    ];
    const { input } = await pod.start('logger', makeSpec(environment.host, { args: ['/bin/sleep', '60'] }));
    for (const path of paths) {
      await assert.rejects(pod.shim.reopenLog('logger', { directory: pod.logDirectory, path }), (error) => {
        assert.match(errorMessage(error), /(EXDEV|EINVAL|ELOOP|ENOTDIR|EISDIR|ENAMETOOLONG|ENOENT|EEXIST)/, path);
        return true;
      });
    }
    assert.ok(input.spec.process);
    assert.deepEqual([readFileSync(join(outside, 'file'), 'utf8'), execFileSync('ls', [outside], { encoding: 'utf8' })], ['untouched', 'file\n']);
    await remove('logger');
  });

  it("cannot change the host's /dev/null through its standard input", async () => {
    const before = statSync('/dev/null');
    const script = 'chmod 0 /proc/self/fd/0; chmod 0 /dev/stdin; touch /proc/self/fd/0; cat /proc/self/fd/0; cat /dev/null; cat; wc -c < /dev/stdin';
    const { output } = await pod.run('null', makeSpec(environment.host, { args: sh(`exec 2>&1; ${script}`) }));
    const now = statSync('/dev/null');
    assert.deepEqual([now.mode, now.uid, now.gid], [before.mode, before.uid, before.gid]);
    assert.match(output, /Read-only file system/);
    assert.match(output, /\n0\n$/);
  });

  it('has empty inheritable and ambient sets, also in an exec and with a set-user-id program', async () => {
    const status = 'grep -E "^Cap(Inh|Amb)" /proc/self/status';
    const { pid, input } = await pod.start('caps', makeSpec(environment.host, { args: sh(`${status}; sleep 60`) }));
    const { text } = await pod.exec('caps-exec', input, pid, sh(status));
    assert.equal(text, 'CapInh:\t0000000000000000\nCapAmb:\t0000000000000000\n');
    assert.ok(logOf('caps').every((line) => line.endsWith('0000000000000000')));
    await remove('caps');
  });

  it('that forks without end is held by its limit, and others are answered', async () => {
    const bomb = makeSpec(environment.host, { args: sh('b() { b | b & }; b; sleep 60'), linux: { resources: { pids: { limit: 40 } } } });
    await pod.start('bomb', bomb);
    const started = performance.now();
    assert.equal((await pod.run('beside', makeSpec(environment.host, { args: ['/bin/echo', 'fine'] }))).output, 'fine\n');
    assert.ok(performance.now() - started < 60_000 * slowness);
    await remove('bomb');
  });

  it('that eats memory is killed alone and reported as such', async () => {
    const other = await pod.start('other', makeSpec(environment.host, { args: ['/bin/sleep', '60'] }));
    const hog = makeSpec(environment.host, { args: sh('x=aaaaaaaaaaaaaaaa; while true; do x=$x$x; done'), linux: { resources: { memory: { limit: 16 << 20 } } } });
    const { waitStatus, oom } = await pod.run('hog', hog);
    assert.deepEqual({ waitStatus, oom }, { waitStatus: 9, oom: true });
    assert.ok(readlinkSync(`/proc/${other.pid}/ns/pid`).startsWith('pid:'));
    await remove('other');
  });

  it('that fills /dev/shm and /dev gets no further than their sizes', async () => {
    const { output } = await pod.run(
      'filler',
      makeSpec(environment.host, {
        args: sh(
          'dd if=/dev/zero of=/dev/shm/x bs=65536 2>&1 | grep -o "No space.*"; dd if=/dev/zero of=/dev/x bs=1048576 2>&1 | grep -o "No space.*"; wc -c < /dev/shm/x; df -k /dev | tail -1 | grep -o "100%"',
        ),
      }),
    );
    assert.match(output, /^No space left on device\nNo space left on device\n\d{6,7}\n100%\n$/);
    assert.equal((await pod.run('after', makeSpec(environment.host, { args: ['/bin/echo', 'fine'] }))).output, 'fine\n');
  });

  it('finds no name of ours among the abstract sockets, and no listener without a path', () => {
    const names = readFileSync('/proc/net/unix', 'utf8')
      .split('\n')
      .map((line) => line.split(/\s+/)[7] ?? '');
    assert.ok(
      names.some((name) => name.includes(environment.directory)),
      'our own sockets are not listed',
    );
    assert.deepEqual(
      names.filter((name) => name.startsWith('@') && /berth|shim|launcher/.test(name)),
      [],
    );
    for (const name of names.filter((path) => path.startsWith(environment.directory))) assert.equal(statSync(name).mode & 0o777, 0o600, name);
  });
});
