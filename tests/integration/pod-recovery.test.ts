/** What happens when a part of Berth is killed, and what bad input leaves: a clear sentence, and nothing else. */
import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import { after, afterEach, before, describe, it } from 'node:test';
import { BerthHost, type Running, busybox, image, manifest, patienceMs, shellContainer, skipReason } from './berth-host.ts';

/** Repeats the check until it passes; when it never does, its error counts. */
async function eventually(check: () => void | Promise<void>): Promise<void> {
  const deadline = performance.now() + patienceMs;
  for (;;) {
    try {
      await check();
      return;
    } catch (error) {
      if (performance.now() > deadline) throw error;
      await sleep(50);
    }
  }
}

describe('recovery', { skip: skipReason() }, () => {
  let host: BerthHost;
  before(async () => {
    host = await BerthHost.open();
  });
  after(async () => {
    await host[Symbol.asyncDispose]();
  });

  async function startDaemon(): Promise<Running> {
    const daemon = host.start(['daemon', '--socket', `${host.run}/berth.sock`]);
    await daemon.untilOutput('"message":"ready"');
    return daemon;
  }

  async function stopDaemon(daemon: Running, signal: NodeJS.Signals): Promise<void> {
    daemon.child.kill(signal);
    await daemon.finished;
  }

  it('cleans up a foreground run killed with -9', async () => {
    const run = host.start(
      ['run', '-'],
      manifest({ containers: [shellContainer('main', 'echo up; sleep 1000', { ports: [{ containerPort: 80, hostPort: 12399 }] }), shellContainer('other', 'sleep 1000')] }),
    );
    await run.untilOutput('| up');
    run.child.kill('SIGKILL');
    await run.finished;
    await host.assertNoRemains();
    assert.deepEqual(await host.json(['pods']), []);
    assert.deepEqual(await host.json(['ps', '-a']), []);
  });

  it('keeps pods when the daemon is killed, and the next one knows what ended meanwhile', async () => {
    const first = await startDaemon();
    await host.ok(['run', '-d', '--name', 'stays', image, busybox, 'sleep', '1000']);
    await host.ok(['run', '-d', '--name', 'ends', image, busybox, 'sh', '-c', 'sleep 1; exit 6']);
    await stopDaemon(first, 'SIGKILL');
    await sleep(1300);
    const second = await startDaemon();
    const states = (await host.json(['ps', '-a'])).map((container) => `${String(container['state'])} ${String(container['exitCode'])}`);
    assert.deepEqual(
      states.toSorted((a, b) => (a < b ? -1 : 1)),
      ['exited 6', 'running 0'],
    );
    assert.equal(await host.ok(['exec', 'stays', busybox, 'echo', 'still here']), 'still here\n');
    await stopDaemon(second, 'SIGTERM');
    // Without a daemon the command line is the engine, and sees the same pods.
    assert.equal((await host.json(['pods'])).length, 2);
    await host.ok(['rm', '-f', 'stays', 'ends']);
    await host.assertNoRemains();
  });

  it('kills and reports the containers of a shim that was killed, with a daemon and without', async () => {
    for (const withDaemon of [true, false]) {
      const daemon = withDaemon ? await startDaemon() : undefined;
      await host.ok(['run', '-d', '--name', 'victim', image, busybox, 'sleep', '1000']);
      const [pod] = await host.json(['inspect', 'victim']);
      const pid = Number(/"shimPid":\s*"?(\d+)/.exec(JSON.stringify(pod))?.[1]);
      assert.ok(pid > 1, JSON.stringify(pod));
      const [container] = await host.json(['ps']);
      process.kill(pid, 'SIGKILL');
      await eventually(async () => {
        const [dead] = await host.json(['ps', '-a']);
        assert.deepEqual([dead?.['state'], dead?.['exitCode']], ['exited', withDaemon ? 137 : 255]);
        assert.equal((await host.json(['pods']))[0]?.['state'], 'notReady');
      });
      // At the latest now: with a profile of AppArmor it does not end with its shim, but with the next engine that looks.
      await eventually(() => assert.throws(() => process.kill(Number(container?.['pid']), 0), { code: 'ESRCH' }));
      await host.ok(['rm', 'victim']);
      if (daemon !== undefined) await stopDaemon(daemon, 'SIGTERM');
      await host.assertNoRemains();
    }
  });

  it('kills what no signal of a killed shim reaches: a child of the first process, among the processes of the host', async () => {
    const daemon = await startDaemon();
    const pod = manifest({ hostPID: true, containers: [shellContainer('main', 'sleep 1000 & echo "child $!"; wait')] }, 'orphaned');
    await host.ok(['run', '-d', '-'], pod);
    let child = 0;
    await eventually(async () => {
      child = Number(/child (\d+)/.exec(await host.ok(['logs', 'orphaned']))?.[1]);
      assert.ok(child > 1);
    });
    process.kill(child, 0);
    const shim = Number(/"shimPid":\s*"?(\d+)/.exec(JSON.stringify(await host.json(['inspect', 'orphaned'])))?.[1]);
    assert.ok(shim > 1);
    process.kill(shim, 'SIGKILL');
    await eventually(() => assert.throws(() => process.kill(child, 0), { code: 'ESRCH' }));
    await host.ok(['rm', 'orphaned']);
    await stopDaemon(daemon, 'SIGTERM');
    await host.assertNoRemains();
  });

  it('lets many commands own the state directory in turn, and be clients of a daemon at once', async () => {
    const counts = await Promise.all(Array.from({ length: 6 }, async () => (await host.json(['pods'])).length));
    assert.deepEqual(counts, [0, 0, 0, 0, 0, 0]);
    const daemon = await startDaemon();
    const outputs = await Promise.all([1, 2, 3, 4].map(async (n) => (await host.shell(`echo ${n}`)).stdout));
    assert.deepEqual(outputs, ['1\n', '2\n', '3\n', '4\n']);
    await stopDaemon(daemon, 'SIGTERM');
  });

  it('ends a foreground run in order on SIGTERM', async () => {
    const run = host.start(['run', '-'], manifest({ containers: [shellContainer('main', 'trap "echo got it; exit 0" TERM; echo up; while true; do sleep 0.05; done')] }));
    await run.untilOutput('| up');
    run.child.kill('SIGTERM');
    const { stdout } = await run.finished;
    assert.match(stdout, /^main +\| got it$/m);
    await host.assertNoRemains();
  });

  describe('bad input', () => {
    afterEach(async () => {
      assert.deepEqual(await host.json(['pods']), []);
      await host.assertNoRemains();
    });

    const cases: readonly { readonly name: string; readonly args: readonly string[]; readonly input?: string; readonly status: number; readonly message: RegExp }[] = [
      { name: 'a manifest that is no YAML', args: ['run', '-'], input: 'a: [', status: 1, message: /^berth: .*line 1.*\n$/ },
      {
        name: 'an unsupported field',
        args: ['run', '-'],
        input: manifest({ containers: [shellContainer('main', 'true', { livenessProbe: {} })] }),
        status: 1,
        message: /^berth: .*spec\.containers\[0\]\.livenessProbe: not supported.*\n$/,
      },
      {
        name: 'an unknown field',
        args: ['run', '-'],
        input: manifest({ containers: [shellContainer('main', 'true', { comand: [] })] }),
        status: 1,
        message: /^berth: .*spec\.containers\[0\]\.comand: unknown field, did you mean command\?\n$/,
      },
      { name: 'a missing image', args: ['run', '--pull', 'never', 'localhost/nothing:1'], status: 1, message: /^berth: .*localhost\/nothing:1.*\n$/ },
      { name: 'a bad reference', args: ['run', 'UPPER:case:twice'], status: 2, message: /^berth: .*UPPER:case:twice.*\n$/ },
      { name: 'a registry that is not there', args: ['pull', '--quiet', '127.0.0.1:1/x:1'], status: 1, message: /^berth: .*127\.0\.0\.1:1\/x:1.*ECONNREFUSED.*\n$/ },
      { name: 'a command that is not in the image', args: ['run', '--entrypoint', '/nothing', image], status: 127, message: /^berth: .*"\/nothing".*ENOENT\n$/ },
      {
        name: 'a user that is not in the image',
        args: ['run', '--user', 'nobody-here', image, busybox, 'true'],
        status: 1,
        message: /^berth: .*user "nobody-here": not in \/etc\/passwd of the image\n$/,
      },
      { name: 'a host path that does not exist', args: ['run', '-v', '/does/not/exist:/x', image, busybox, 'true'], status: 1, message: /^berth: .*\/does\/not\/exist.*\n$/ },
      {
        name: 'an unsafe sysctl',
        args: ['run', '-'],
        input: manifest({ securityContext: { sysctls: [{ name: 'kernel.core_pattern', value: '|/evil' }] }, containers: [shellContainer('main', 'true')] }),
        status: 1,
        message: /^berth: .*kernel\.core_pattern.*\n$/,
      },
      { name: 'an unknown command', args: ['rum'], status: 2, message: /^berth: .*rum.*\n/ },
    ];
    for (const { name, args, input, status, message } of cases) {
      it(`${name} gets one clear line`, async () => {
        const result = await host.berth(args, input);
        assert.match(result.stderr, message);
        assert.equal(result.status, status, result.stderr);
      });
    }
  });
});
