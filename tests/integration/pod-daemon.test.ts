/** Foreground runs beside another engine: a daemon, or a command that came first. They end as they would alone, and so does nobody else. */
import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { after, before, describe, it } from 'node:test';
import { BerthHost, type Running, manifest, patienceMs, shellContainer, skipReason, slowness } from './berth-host.ts';

const endless = (name: string): string => manifest({ containers: [shellContainer('main', 'echo up; exec sleep 1000'), shellContainer('side', 'exec sleep 1000')] }, name);

describe('beside a daemon', { skip: skipReason(), timeout: 120_000 * slowness }, () => {
  let host: BerthHost;
  let daemon: Running;
  before(async () => {
    host = await BerthHost.open();
    daemon = host.start(['daemon', '--socket', `${host.run}/berth.sock`]);
    const deadline = performance.now() + patienceMs;
    while (!readFileSync('/proc/net/unix', 'utf8').includes(`${host.run}/berth.sock`)) {
      assert.ok(performance.now() < deadline, 'the daemon does not listen');
      await sleep(50);
    }
  });
  after(async () => {
    daemon.child.kill('SIGTERM');
    await daemon.finished;
    await host[Symbol.asyncDispose]();
  });

  /** Waits until the daemon has no pod. */
  async function podsGone(): Promise<void> {
    const deadline = performance.now() + patienceMs;
    while ((await host.json(['pods'])).length > 0) assert.ok(performance.now() < deadline, `pods left after ${patienceMs} ms`);
  }

  it('removes the pod of a foreground run that was killed with -9, and nobody else’s', async () => {
    await host.ok(['run', '-d', '-'], endless('stays'));
    const run = host.start(['run', '-'], endless('goes'));
    await run.untilOutput('main | up');
    assert.deepEqual((await host.json(['ps'])).length, 4);
    const pids = (await host.json(['inspect', 'goes'])).flatMap(({ containers }) => (Array.isArray(containers) ? containers.map(({ pid }: { pid: number }) => pid) : []));
    assert.equal(pids.length, 2);
    run.child.kill('SIGKILL');
    await run.finished;
    const deadline = performance.now() + patienceMs;
    for (const pid of pids) {
      while (isAlive(pid)) {
        assert.ok(performance.now() < deadline, `process ${pid} lives on`);
        await sleep(20);
      }
    }
    while ((await host.json(['pods'])).length > 1) assert.ok(performance.now() < deadline, 'the record stays');
    assert.deepEqual(
      (await host.json(['pods'])).map(({ metadata }) => metadata),
      [{ name: 'stays', uid: await podUid('stays'), namespace: 'default', attempt: 0 }],
    );
    await host.ok(['rm', '-f', 'stays']);
  });

  async function podUid(name: string): Promise<unknown> {
    const [pod] = await host.json(['inspect', name]);
    const metadata = pod?.['metadata'];
    return typeof metadata === 'object' && metadata !== null && 'uid' in metadata ? metadata.uid : undefined;
  }

  it('removes a pod whose client is killed at any moment of its start', async () => {
    for (const afterMs of [150, 250, 350, 450]) {
      const run = host.start(['run', '-'], endless('early'));
      await sleep(afterMs);
      run.child.kill('SIGKILL');
      await run.finished;
      await podsGone();
    }
  });

  it('keeps a detached pod when its client has ended', async () => {
    assert.match(await host.ok(['run', '-d', '-'], endless('kept')), /^kept is running/m);
    await sleep(300);
    assert.deepEqual(
      (await host.json(['ps'])).map(({ state }) => state),
      ['running', 'running'],
    );
    await host.ok(['rm', '-f', 'kept']);
  });
});

describe('beside another command', { skip: skipReason(), timeout: 120_000 * slowness }, () => {
  it('lets a run that came second end by itself after the first', async () => {
    await using host = await BerthHost.open();
    const directory = host.scratch('signs');
    const untilSign = (name: string): string => `echo up; until [ -e /signs/${name} ]; do sleep 0.05; done`;
    const run = (name: string, script: string): Running =>
      host.start(
        ['run', '-'],
        manifest(
          { volumes: [{ name: 'signs', hostPath: { path: directory } }], containers: [shellContainer('main', script, { volumeMounts: [{ name: 'signs', mountPath: '/signs' }] })] },
          name,
        ),
      );
    const first = run('first', untilSign('one'));
    await first.untilOutput('main | up');
    const second = run('second', `${untilSign('two')}; echo done; exit 3`);
    await second.untilOutput('main | up');
    writeFileSync(`${directory}/one`, '');
    await first.untilOutput('waiting for other commands');
    writeFileSync(`${directory}/two`, '');
    const ends = await Promise.all([first.finished, second.finished]);
    assert.deepEqual(
      ends.map(({ status }) => status),
      [0, 3],
    );
    assert.match(ends[1].stdout, /^main \| done$/m);
    assert.equal(ends[0].stderr, 'berth: done, and waiting for other commands that use this engine (Ctrl-C ends them)\n');
    assert.equal(ends[1].stderr, '');
    await host.assertNoRemains();
  });
});

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}
