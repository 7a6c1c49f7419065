/**
 * Death at any moment: a process that pulls is killed, again and again, at random points. After each, the next process finds a store that is whole or
 * repairs it, and once the garbage is collected exactly what was there before. Needs root, docker-registry, skopeo.
 */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { Layout, Registry, run, skipReason, tarOf } from './image-host.ts';

/** Of the issue: 200 pulls. Two suites of half of them, so that none is long. */
const killsPerTest = 5;

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

describe('a pull that is killed', { skip: skipReason() }, () => {
  const work = mkdtempSync(join(tmpdir(), 'berth-kill-'));
  const seed = Math.floor(Math.random() * 2 ** 32);
  const random = randomFrom(seed);
  const children = new Set<ChildProcess>();
  let registry: Registry;
  let kept: string;
  let killed: string;
  let base: Step | undefined;
  /** How long a pull takes that is left alone; the longest so far. */
  let pullMs = 0;

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
    kept = `${registry.address}/kept:1`;
    killed = `${registry.address}/killed:1`;
  });
  after(async () => {
    for (const child of children) child.kill('SIGKILL');
    await registry[Symbol.asyncDispose]();
    rmSync(work, { recursive: true, force: true });
  });

  /** One life: everything up to its pull must be right; then it is killed after so long, or when it is through. */
  const live = async (killAfterMs: (pullMs: number) => number | undefined): Promise<{ readonly steps: ReadonlyMap<string, Step>; readonly wasWhole: boolean }> => {
    const child = spawn(process.execPath, [join(import.meta.dirname, 'store-kill-child.ts'), join(work, 'store'), kept, killed], {
      stdio: ['ignore', 'pipe', 'inherit'],
      env: { ...process.env, NODE_COMPILE_CACHE: join(work, 'cache') },
    });
    children.add(child);
    const ended = new Promise((resolve) => child.once('exit', resolve));
    const steps = new Map<string, Step>();
    let startedAt = 0;
    for await (const line of createInterface({ input: child.stdout })) {
      // SAFETY: the child is of this suite and prints steps only.
      const step = JSON.parse(line) as Step;
      steps.set(step.step, step);
      if (step.step === 'pulling') {
        startedAt = performance.now();
        const delay = killAfterMs(pullMs);
        if (delay !== undefined) void sleep(delay).then(() => child.kill('SIGKILL'));
      }
      if (step.step === 'pulled') {
        pullMs = Math.max(pullMs, performance.now() - startedAt);
        child.kill('SIGKILL');
      }
    }
    await ended;
    children.delete(child);
    assert.ok(steps.has('pulling'), `seed ${seed}: the process ended by itself after ${[...steps.keys()].join(', ')}`);
    return { steps, wasWhole: steps.has('pulled') };
  };

  /** What the process before left: whole or repaired, and nothing but the base once collected. */
  const assertWhole = (steps: ReadonlyMap<string, Step>, wasWhole: boolean): void => {
    const [verified, collected] = [steps.get('verified'), steps.get('collected')];
    const unrepaired = (verified?.problems ?? []).filter(({ state }) => state !== 'repaired');
    assert.deepEqual(unrepaired, [], `seed ${seed}`);
    assert.ok(verified?.images?.includes(kept), `seed ${seed}: the image that was there is gone`);
    if (wasWhole) assert.ok(verified?.images?.includes(killed), `seed ${seed}: an image that was pulled whole is gone`);
    base ??= collected;
    assert.deepEqual(collected, base, `seed ${seed}`);
  };

  test('a first life pulls what stays, and leaves the base', async () => {
    const { steps } = await live(() => undefined);
    assert.ok(steps.has('kept'));
    const second = await live(() => undefined);
    assertWhole(second.steps, true);
    assert.equal(base?.listing?.length, 5);
  });

  let wasWhole = true;
  for (const part of [1, 2, 3, 4]) {
    test(`after each of ${killsPerTest} kills the store is whole and shrinks back to its base (${part} of 4)`, async () => {
      for (let round = 0; round < killsPerTest; round += 1) {
        // Most in the middle of the work, some after its end.
        const delay = random() * pullMs * 1.2;
        const life = await live(() => delay);
        assertWhole(life.steps, wasWhole);
        wasWhole = life.wasWhole;
      }
    });
  }
});
