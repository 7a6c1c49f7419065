/**
 * Random damage to what the helper reads: layer records into the confined unpack child (built with sanitizers where a compiler is), and
 * frames into a shim. The seed is in every message, so that a find can be repeated with BERTH_TEST_SEED. The plan decoder has a
 * fuzzer of its own, `make -C native/tests check`, for seconds of millions of plans; here it is run briefly.
 */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { createConnection } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { type LayerRecord, encodeLayerRecord } from '#plan';
import { encodeFrame, frameTypes } from '#system';
import { slowness } from './hostile-probe.ts';
import { driver as plainDriver, removeScratch, skip as driverSkip } from './native-driver.ts';
import { type RuntimeHost, makeSpec, skipReason, startRuntimeHost } from './runtime-host.ts';

const native = join(import.meta.dirname, '../../native');
const seed = Number(process.env['BERTH_TEST_SEED'] ?? Date.now() % 2 ** 31);
const budgetMs = 5000;

/** xorshift32: small, and the same everywhere. */
function randomOf(start: number): (bound: number) => number {
  let state = start | 1;
  return (bound) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) % bound;
  };
}

const edges = [0, 1, 7, 8, 255, 256, 4095, 4096, 65_535, 65_536, 1 << 20, (1 << 20) + 1, 0x7fff_ffff, 0x8000_0000, 0xffff_fff8, 0xffff_ffff];

/** One to four changes: flipped bits, edge numbers, cuts, doubled pieces. */
function damage(bytes: Buffer, random: (bound: number) => number): Buffer {
  let result = Buffer.from(bytes);
  for (let changes = 1 + random(4); changes > 0 && result.length > 8; changes -= 1) {
    const at = random(result.length - 4);
    switch (random(5)) {
      case 0:
        result[at] = (result[at] ?? 0) ^ (1 << random(8));
        break;
      case 1:
        result[at] = random(256);
        break;
      case 2:
        result.writeUInt32LE(edges[random(edges.length)] ?? 0, at);
        break;
      case 3:
        result = Buffer.concat([result.subarray(0, at), result.subarray(at + random(8))]);
        break;
      default:
        result = Buffer.concat([result.subarray(0, at), result.subarray(at, at + random(64)), result.subarray(at)]);
    }
  }
  return result;
}

describe('damaged bytes', { skip: driverSkip === false ? skipReason() : driverSkip, timeout: 120_000 * slowness }, () => {
  let environment: RuntimeHost;
  const scratch = mkdtempSync(join(tmpdir(), 'berth-fuzz-'));
  before(async () => {
    environment = await startRuntimeHost();
  });
  after(async () => {
    await environment?.[Symbol.asyncDispose]();
    rmSync(scratch, { recursive: true, force: true });
    removeScratch();
  });

  it('in layer records end in an answer, never in a crash or outside of the layer', () => {
    const made = spawnSync('make', ['-s', '-C', join(native, 'tests'), '../build/run_plan-asan'], { encoding: 'utf8' });
    const sanitized = join(native, 'build/run_plan-asan');
    const driver = made.status === 0 && existsSync(sanitized) && spawnSync('gcc', ['--version']).status === 0 ? sanitized : plainDriver;
    const attributes = { mode: 0o755, uid: 1, gid: 2, mtimeNs: 1n, xattrs: [{ name: 'user.x', value: Buffer.from('y') }] };
    const records: readonly LayerRecord[] = [
      { op: 'directory', path: 'd/e', ...attributes },
      { op: 'file', path: 'd/e/f', ...attributes, size: 5n },
      { op: 'data', data: Buffer.from('12345') },
      { op: 'link', path: 'd/l', target: '../..', ...attributes },
      { op: 'hardLink', path: 'd/h', target: 'd/e/f' },
      { op: 'node', path: 'd/n', type: 0o010000, major: 0, minor: 0, ...attributes },
      { op: 'whiteout', path: 'd/w' },
      { op: 'opaque', path: 'd' },
      { op: 'root', ...attributes },
      { op: 'finish' },
    ];
    const whole = [encodeLayerRecord({ op: 'directory', path: 'd', ...attributes }), ...records.map((record) => encodeLayerRecord(record))];
    const random = randomOf(seed);
    const victim = join(scratch, 'victim');
    mkdirSync(victim);
    let [runs, refused] = [0, 0];
    for (const end = performance.now() + budgetMs; performance.now() < end || runs < 20; runs += 1) {
      const layer = join(scratch, `victim/layer`);
      mkdirSync(layer);
      const at = random(whole.length);
      const stream = Buffer.concat(whole.map((record, index) => (index === at || random(4) === 0 ? damage(record, random) : record)));
      writeFileSync(join(scratch, 'records'), stream);
      const done = spawnSync(driver, ['unpack', layer, '', join(scratch, 'records'), String(1 + random(stream.length))], {
        encoding: 'utf8',
        timeout: 20_000,
        env: { ASAN_OPTIONS: 'detect_leaks=0' },
      });
      const said = done.stdout + done.stderr;
      assert.match(said, /^(ok \d+|failed \d+ [^\n]*|failed [\s\S]{0,5000})\n$/, `seed ${seed}, run ${runs}: ${said.slice(0, 3000)}`);
      assert.doesNotMatch(said, /Sanitizer|runtime error/, `seed ${seed}, run ${runs}`);
      if (said.startsWith('failed')) refused += 1;
      assert.deepEqual(readdirSync(victim), ['layer'], `seed ${seed}, run ${runs}`);
      rmSync(layer, { recursive: true, force: true });
    }
    assert.ok(refused > 0, 'nothing was refused');
  });

  it('in frames change nothing in a shim, which goes on answering', async () => {
    await using pod = await environment.makePod();
    await pod.start('c', makeSpec(environment.host, { args: ['/bin/sleep', '1000'] }));
    const random = randomOf(seed);
    const hello = encodeFrame(frameTypes.hello, 1, (out) => out.u32(1).bytes(pod.secret));
    // No frame carries a valid plan, and none a request that may end the process or the shim: whatever is accepted then is a mistake.
    const frames = [
      encodeFrame(frameTypes.execute, 2, (out) => out.bytes(Buffer.from('BPLN-not-a-plan-at-all'))),
      encodeFrame(frameTypes.create, 3, (out) => out.text('n').u32(8).text('/tmp').text('x.log').text('').bytes(Buffer.alloc(64))),
      encodeFrame(frameTypes.exec, 4, (out) => out.text('e').u32(0).u32(100).u32(1000).bytes(Buffer.alloc(0)).bytes(Buffer.alloc(32))),
      encodeFrame(frameTypes.start, 5, (out) => out.text('nobody')),
      encodeFrame(frameTypes.attach, 6, (out) => out.text('nobody').u32(7)),
      encodeFrame(frameTypes.resize, 7, (out) => out.text('nobody').u32(80).u32(24)),
      encodeFrame(frameTypes.reopenLog, 8, (out) => out.text('nobody').text('/tmp').text('x')),
      encodeFrame(frameTypes.state, 9),
    ];
    const lengthEdges = frames.map((frame) => Buffer.from(frame));
    for (const frame of lengthEdges) frame.writeUInt32LE(edges[random(edges.length)] ?? 0, 0);
    let rounds = 0;
    for (const end = performance.now() + budgetMs; performance.now() < end; rounds += 1) {
      const socket = createConnection(join(environment.directory, pod.id, 'shim.sock'));
      const closed = new Promise<void>((resolve) => void socket.once('close', () => resolve()).on('error', () => undefined));
      const body = Array.from({ length: 1 + random(6) }, () => {
        const frame = frames[random(frames.length)] ?? Buffer.alloc(0);
        const damaged = random(3) === 0 ? (lengthEdges[random(lengthEdges.length)] ?? frame) : Buffer.concat([frame.subarray(0, 12), damage(frame.subarray(12), random)]);
        return damaged;
      });
      socket.end(Buffer.concat([random(8) === 0 ? damage(hello, random) : hello, ...body]));
      socket.resume();
      setTimeout(() => socket.destroy(), 50).unref();
      await closed;
      if (rounds % 20 === 0)
        assert.deepEqual(
          (await pod.shim.state()).map(({ processId, state }) => [processId, state]),
          [['c', 'running']],
          `seed ${seed}, round ${rounds}`,
        );
    }
    assert.ok(rounds > 20, `${rounds} rounds`);
    assert.deepEqual(
      (await pod.shim.state()).map(({ processId, state }) => [processId, state]),
      [['c', 'running']],
      `seed ${seed}`,
    );
    assert.equal((await pod.run('after', makeSpec(environment.host, { args: ['/bin/echo', 'fine'] }))).output, 'fine\n');
  });

  it('in plans are refused by the decoder under its own fuzzer', (context) => {
    if (spawnSync('gcc', ['--version']).status !== 0) {
      context.skip('needs gcc');
      return;
    }
    const done = spawnSync('make', ['-s', '-C', join(native, 'tests'), 'check', 'FUZZ_SECONDS=3'], { encoding: 'utf8', timeout: 100_000 });
    assert.equal(done.status, 0, done.stdout + done.stderr);
  });
});
