/**
 * Death at any moment: a process that pulls is killed, again and again, at random points. After each, the next process finds a store that is whole or
 * repairs it, and once the garbage is collected exactly what was there before. Needs root, docker-registry, skopeo.
 */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { createInterface } from 'node:readline';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { build, stop } from 'esbuild';
import { Layout, Registry, run, skipReason, tarOf } from './image-host.ts';

/** 200 pulls in all, in parts that each take seconds; two stores side by side, one process each. */
const parts = 20;
const killsPerStore = 5;

interface Step {
  readonly step: 'verified' | 'collected' | 'kept' | 'pulling' | 'pulled';
  readonly problems?: readonly { readonly kind: string; readonly state: string; readonly detail: string }[];
  readonly images?: readonly string[];
  readonly checkedFiles?: number;
  readonly usedBytes?: number;
  readonly inodesUsed?: number;
  readonly listing?: readonly string[];
}

/** Random numbers that can be had again: a failure names its seed. */
function randomFrom(seed: number): () => number {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}

/** The process and its worker threads as one file each: 200 of them start, and reading sources would be most of the time. */
async function bundlePrograms(directory: string): Promise<void> {
  const src = resolve(import.meta.dirname, '../../src');
  await build({
    entryPoints: { child: join(import.meta.dirname, 'store-kill-child.ts'), worker: join(src, 'image/worker.io.ts') },
    outdir: directory,
    outExtension: { '.js': '.mjs' },
    bundle: true,
    platform: 'node',
    format: 'esm',
    // The fixtures look for the helper from where their source is.
    define: { 'import.meta.dirname': JSON.stringify(import.meta.dirname) },
    logLevel: 'error',
  });
  // Its process would outlive the suite.
  await stop();
}

/** One store, and the processes that own it one after another. */
class Lives {
  /** What the first collection found. */
  base: Step | undefined;
  count = 0;
  /** Pulls that came to their end. */
  whole = 0;
  readonly #args: readonly string[];
  readonly #what: string;
  #child: ChildProcess | undefined;
  /** How long a pull takes that is left alone: the longest so far. */
  #pullMs = 0;
  #wasWhole = false;

  constructor(options: { readonly dir: string; readonly kept: string; readonly killed: string; readonly programs: string; readonly seed: number }) {
    this.#args = [join(options.programs, 'child.mjs'), options.dir, options.kept, options.killed, join(options.programs, 'worker.mjs')];
    this.#what = `seed ${options.seed}`;
  }

  /** Everything up to the pull must be right; then the process is killed, after so long or when its pull is through. */
  async live(killAfterMs: (pullMs: number) => number | undefined): Promise<void> {
    const child = spawn(process.execPath, this.#args, { stdio: ['ignore', 'pipe', 'inherit'] });
    this.#child = child;
    const ended = new Promise((resolve) => child.once('exit', resolve));
    const steps = new Map<string, Step>();
    let startedAt = 0;
    for await (const line of createInterface({ input: child.stdout })) {
      // SAFETY: the child is of this suite and prints steps only.
      const step = JSON.parse(line) as Step;
      steps.set(step.step, step);
      if (step.step === 'pulling') {
        startedAt = performance.now();
        const delay = killAfterMs(this.#pullMs);
        if (delay !== undefined) void sleep(delay).then(() => child.kill('SIGKILL'));
      }
      if (step.step === 'pulled') {
        this.#pullMs = Math.max(this.#pullMs, performance.now() - startedAt);
        child.kill('SIGKILL');
      }
    }
    await ended;
    this.#child = undefined;
    this.count += 1;
    this.#assertWhole(steps);
    this.#wasWhole = steps.has('pulled');
    if (this.#wasWhole) this.whole += 1;
  }

  /** What the process before left: whole or repaired, and nothing but the base once collected. */
  #assertWhole(steps: ReadonlyMap<string, Step>): void {
    const what = this.#what;
    assert.ok(steps.has('pulling'), `${what}: the process ended by itself after ${[...steps.keys()].join(', ')}`);
    const [verified, collected] = [steps.get('verified'), steps.get('collected')];
    assert.deepEqual(
      (verified?.problems ?? []).filter(({ state }) => state !== 'repaired'),
      [],
      what,
    );
    const [, , kept = '', killed = ''] = this.#args;
    if (steps.has('kept')) return;
    assert.ok(verified?.images?.includes(kept), `${what}: the image that was there is gone`);
    if (this.#wasWhole) assert.ok(verified?.images?.includes(killed), `${what}: an image that was pulled whole is gone`);
    this.base ??= collected;
    assert.deepEqual(collected, this.base, what);
  }

  kill(): void {
    this.#child?.kill('SIGKILL');
  }
}

describe('a pull that is killed', { skip: skipReason() }, () => {
  const work = mkdtempSync(join(tmpdir(), 'berth-kill-'));
  const seed = Math.floor(Math.random() * 2 ** 32);
  const random = randomFrom(seed);
  let stores: readonly Lives[] = [];
  let registry: Registry;

  before(async () => {
    registry = await Registry.start();
    const layout = new Layout(join(work, 'layout'));
    const shared = tarOf('mkdir -p bin etc/deep; head -c 300000 /dev/urandom > bin/shared; echo low > etc/deep/linked; for i in $(seq 100); do echo $i > etc/$i; done');
    const own = (name: string): Buffer => tarOf(`mkdir -p srv; head -c 2000000 /dev/urandom > srv/${name}; for i in $(seq 50); do echo $i > srv/${name}-$i; done`);
    // Names a file only: its directory must come from below.
    const above = tarOf('mkdir -p etc/deep; echo new > etc/deep/new', 'etc/deep/new');
    layout.add(layout.manifest({ layers: [shared] }), 'kept');
    layout.add(layout.manifest({ layers: [shared, own('a'), above, own('b')] }), 'killed');
    for (const name of ['kept', 'killed'])
      run('skopeo', ['--insecure-policy', 'copy', '--dest-tls-verify=false', `oci:${layout.dir}:${name}`, `docker://${registry.address}/${name}:1`]);
    const programs = join(work, 'programs');
    await bundlePrograms(programs);
    const [kept, killed] = [`${registry.address}/kept:1`, `${registry.address}/killed:1`];
    stores = ['one', 'two'].map((name) => new Lives({ dir: join(work, name), kept, killed, programs, seed }));
  });
  after(async () => {
    for (const store of stores) store.kill();
    await registry[Symbol.asyncDispose]();
    rmSync(work, { recursive: true, force: true });
  });

  test('a first life pulls what stays, a second leaves the base', async () => {
    for (const store of stores) {
      await store.live(() => undefined);
      await store.live(() => undefined);
      // Index, manifest or config and layer of what stays.
      assert.equal(store.base?.listing?.length, 5);
    }
  });

  for (let part = 1; part <= parts; part += 1) {
    test(`after each of ${2 * killsPerStore} kills the store is whole and shrinks back to its base (${part} of ${parts})`, async () => {
      await Promise.all(
        stores.map(async (store) => {
          for (let round = 0; round < killsPerStore; round += 1) {
            // Most in the middle of the work, some after its end.
            const share = random() * 1.2;
            await store.live((pullMs) => share * pullMs);
          }
        }),
      );
    });
  }

  test('of 200 pulls that were killed, many were in the middle of their work', () => {
    const [whole, all] = [stores.reduce((sum, store) => sum + store.whole, 0), stores.reduce((sum, store) => sum + store.count, 0)];
    assert.equal(all, 2 * (parts * killsPerStore + 2));
    assert.ok(all - whole > 60, `${whole} of ${all} pulls came to their end`);
  });
});
