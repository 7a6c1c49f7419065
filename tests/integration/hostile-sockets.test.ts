/**
 * A container that has the run directory mounted and talks to every socket in it, as root and as somebody else; and a pod whose
 * processes fill its volumes, while the daemon goes on. In: the command line beside a daemon.
 */
import assert from 'node:assert/strict';
import { existsSync, readFileSync, readdirSync, statSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { after, before, describe, it } from 'node:test';
import { encodePlan } from '#plan';
import { encodeFrame, frameTypes } from '#system';
import { BerthHost, type Running, busybox, image, manifest, shellContainer, skipReason } from './berth-host.ts';
import { probePath, probeSkip, slowness } from './hostile-probe.ts';

const skip = skipReason() === false ? probeSkip : skipReason();

describe('hostile peers', { skip, timeout: 120_000 * slowness }, () => {
  let host: BerthHost;
  let daemon: Running;
  before(async () => {
    host = await BerthHost.open();
    daemon = host.start(['daemon', '--socket', `${host.run}/berth.sock`]);
    const deadline = performance.now() + 10_000;
    while (!existsSync(`${host.run}/berth.sock`)) {
      assert.ok(performance.now() < deadline, 'the daemon does not listen');
      await sleep(50);
    }
  });
  after(async () => {
    for (const pod of await host.json(['pods'])) await host.berth(['rm', '-f', String(pod['id'])]);
    daemon.child.kill('SIGTERM');
    await daemon.finished;
    await host[Symbol.asyncDispose]();
  });

  /** Every socket below the run directory, relative to it. */
  const sockets = (): readonly string[] =>
    readdirSync(host.run, { recursive: true, encoding: 'utf8' })
      .filter((name) => statSync(`${host.run}/${name}`).isSocket())
      .sort();

  const attacker = (script: string, more: Record<string, unknown> = {}): Record<string, unknown> =>
    shellContainer('attacker', script, {
      volumeMounts: [
        { name: 'run', mountPath: '/host-run' },
        { name: 'probe', mountPath: '/probe' },
      ],
      ...more,
    });
  const volumes = (): readonly unknown[] => [
    { name: 'run', hostPath: { path: host.run } },
    { name: 'probe', hostPath: { path: probePath, type: 'File' } },
  ];
  const linesOf = (stdout: string): readonly string[] => stdout.split('\n').flatMap((line) => /^attacker *\| (.*)$/.exec(line)?.[1] ?? []);

  it('are all sockets of mode 0600 in directories of mode 0700, none abstract', async () => {
    await host.ok(['run', '-d', '--name', 'other', image, busybox, 'sleep', '1000']);
    const found = sockets();
    assert.ok(
      found.some((name) => name.endsWith('shim.sock')) && found.includes('launcher.sock') && found.includes('berth.sock') && found.includes('engine.sock'),
      found.join(' '),
    );
    for (const name of found) {
      assert.equal(statSync(`${host.run}/${name}`).mode & 0o777, 0o600, name);
      const directory = `${host.run}/${name}`.replace(/\/[^/]*$/, '');
      assert.equal(statSync(directory).mode & 0o777, 0o700, directory);
    }
    assert.equal(statSync(host.root).mode & 0o077, 0);
    const names = readFileSync('/proc/net/unix', 'utf8')
      .split('\n')
      .map((line) => line.split(/\s+/)[7] ?? '');
    assert.deepEqual(
      names.filter((name) => name.startsWith('@') && /berth|shim|launcher/.test(name)),
      [],
    );
  });

  it('get nothing from a launcher or a shim without its secret, even as root with the directory mounted', async () => {
    const shim = sockets().find((name) => name.endsWith('shim.sock')) ?? '';
    const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');
    const plan = encodePlan({ sections: [{ actor: 'host', steps: [{ kind: 'makeFile', dir: 65535, path: `${host.directory}/pwned`, mode: 0o644, data: Buffer.from('x') }] }] });
    const execute = (id: number): Buffer => encodeFrame(frameTypes.execute, id, (out) => out.bytes(plan));
    const attempts: readonly (readonly [string, Buffer])[] = [
      ['launcher.sock', encodeFrame(frameTypes.oneShot, 1, (out) => out.bytes(plan))],
      [shim, execute(1)],
      [shim, Buffer.concat([encodeFrame(frameTypes.hello, 1, (out) => out.u32(1).bytes(new Uint8Array(32))), execute(2)])],
      [shim, Buffer.concat([encodeFrame(frameTypes.hello, 1, (out) => out.u32(1).bytes(new Uint8Array(0))), execute(2)])],
      [shim, Buffer.concat([encodeFrame(frameTypes.hello, 1, (out) => out.u32(1).bytes(new Uint8Array(31).fill(255))), execute(2)])],
      [shim, encodeFrame(frameTypes.state, 1)],
    ];
    const script = attempts.map(([name, bytes]) => `/probe connect /host-run/${name} ${hex(bytes)}`).join('; ');
    const { status, stdout, stderr } = await host.berth(['run', '-'], manifest({ volumes: volumes(), containers: [attacker(script)] }, 'attacker'));
    assert.equal(status, 0, stdout + stderr);
    const lines = linesOf(stdout);
    assert.equal(lines.length, attempts.length, stdout);
    for (const [index, line] of lines.entries()) assert.match(line, /^CLOSED /, `${attempts[index]?.[0]}: ${line}`);
    assert.ok(!existsSync(`${host.directory}/pwned`));
    assert.equal((await host.json(['ps'])).length, 1, 'the other pod goes on');
  });

  it('get nothing from any socket as a user other than root', async () => {
    const found = sockets();
    const script = found.map((name) => `/probe connect /host-run/${name} 00`).join('; ');
    const container = attacker(script, { securityContext: { runAsUser: 1000, runAsGroup: 1000 } });
    const { stdout } = await host.berth(['run', '-'], manifest({ volumes: volumes(), containers: [container] }, 'attacker'));
    assert.deepEqual([...new Set(linesOf(stdout))], ['REFUSED Permission denied'], stdout);
  });

  it('see no secret of a pod in command lines, environments or files below the run directory', async () => {
    const { stdout } = await host.berth(
      ['run', '-'],
      manifest({ volumes: volumes(), containers: [attacker('find /host-run -type f -size +0 | sort; find /host-run -type f | xargs cat | wc -c')] }, 'attacker'),
    );
    const files = linesOf(stdout).slice(0, -1);
    assert.ok(
      files.every((name) => /(hosts|hostname|resolv\.conf|lock|owner|pid|\.log)$/.test(name)),
      files.join('\n'),
    );
    for (const name of readdirSync('/proc').filter((entry) => /^\d+$/.test(entry))) {
      try {
        if (!readFileSync(`/proc/${name}/comm`, 'utf8').startsWith('berth-')) continue;
        assert.doesNotMatch(readFileSync(`/proc/${name}/cmdline`, 'utf8'), /[0-9a-f]{65,}|secret/);
        assert.equal(readFileSync(`/proc/${name}/environ`, 'utf8'), '');
      } catch (error) {
        if (!(error instanceof Error && 'code' in error && (error.code === 'ENOENT' || error.code === 'ESRCH' || error.code === 'EACCES'))) throw error;
      }
    }
  });

  it('that fork, eat memory, fill a volume and flood the log leave the daemon answering', async () => {
    const hostile = [
      shellContainer('forks', 'b() { b | b & }; b; sleep 60', { resources: { limits: { memory: '32Mi' } } }),
      shellContainer('eats', 'x=aaaaaaaaaaaaaaaa; while true; do x=$x$x; done', { resources: { limits: { memory: '16Mi' } } }),
      shellContainer('fills', 'dd if=/dev/zero of=/scratch/x bs=65536 count=8000; dd if=/dev/zero of=/dev/shm/x bs=65536; sleep 60', {
        volumeMounts: [{ name: 'scratch', mountPath: '/scratch' }],
        resources: { limits: { memory: '64Mi' } },
      }),
      shellContainer('floods', 'head -c 30000000 /dev/zero | tr "\\0" a; sleep 60'),
    ];
    await host.ok(['run', '-d', '-'], manifest({ volumes: [{ name: 'scratch', emptyDir: {} }], containers: hostile, terminationGracePeriodSeconds: 1 }, 'hostile'));
    const started = performance.now();
    for (let round = 0; round < 3; round += 1)
      assert.ok(
        (await host.json(['ps'])).some(({ state }) => state === 'running'),
        'no container is shown as running',
      );
    assert.equal((await host.shell('echo fine')).stdout, 'fine\n');
    assert.ok(performance.now() - started < 60_000 * slowness, `${performance.now() - started} ms`);
    await host.ok(['rm', '-f', 'hostile']);
    assert.deepEqual((await host.json(['pods'])).length, 1);
  });
});
