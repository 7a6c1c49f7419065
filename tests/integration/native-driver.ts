/**
 * What the native-*.test.ts suites share: the driver native/tests/run_plan.c, executed in mount and network namespaces of
 * its own, and a directory that goes at the end. Needs root and /bin/busybox; the driver is built where musl-gcc is present.
 */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type LayerRecord, type Plan, type Section, type Step, clone, encodeLayerRecord, encodePlan } from '#plan';

const native = join(import.meta.dirname, '../../native');

/** The driver; BERTH_TEST_RUN_PLAN names another build of it, such as the one with sanitizers. */
export const driver = process.env['BERTH_TEST_RUN_PLAN'] ?? join(native, 'build/run_plan');

/** Builds the driver. A machine without the compiler, such as the guest, uses the one that was built before. */
function buildDriver(): boolean {
  const made = spawnSync('make', ['-s', '-C', join(native, 'tests'), '../build/run_plan'], { encoding: 'utf8' });
  if (made.error === undefined && made.status !== 0) throw new Error(made.stderr);
  return existsSync(driver);
}

const isRoot = process.getuid?.() === 0;
/** The reason to skip, or false. */
export const skip = !isRoot
  ? 'needs root'
  : !existsSync('/bin/busybox')
    ? 'needs /bin/busybox (package busybox-static)'
    : buildDriver()
      ? false
      : 'needs musl-gcc (package musl-tools)';

const work = mkdtempSync(join(tmpdir(), 'berth-native-test-'));

/** A new empty directory; `removeScratch` takes all of them. */
export function makeScratch(): string {
  return mkdtempSync(join(work, 'case-'));
}

/** To be called when the suite is over. */
export function removeScratch(): void {
  rmSync(work, { recursive: true, force: true });
}

/** What the driver printed. */
export interface Outcome {
  /** One line an event, between what the payload printed. */
  readonly output: string;
  readonly error: string;
}

/** Executes a plan; an ask is answered with `answer`. */
export function runPlan(plan: Plan, answer?: Plan): Outcome {
  const directory = makeScratch();
  const files = [join(directory, 'plan'), join(directory, 'answer')].slice(0, answer === undefined ? 1 : 2);
  for (const [index, path] of files.entries()) writeFileSync(path, encodePlan(index === 0 || answer === undefined ? plan : answer));
  const done = spawnSync('unshare', ['-m', '-n', driver, 'plan', ...files], { encoding: 'utf8', timeout: 60_000 });
  return { output: done.stdout, error: done.stderr };
}

/** Feeds records (or raw bytes) to the unpack child in pieces of `chunk` bytes; gives what it answered. */
export function runUnpack(layer: string, records: readonly (LayerRecord | Buffer)[], chunk = 1 << 20): string {
  const path = join(makeScratch(), 'records');
  writeFileSync(path, Buffer.concat(records.map((record) => (Buffer.isBuffer(record) ? record : encodeLayerRecord(record)))));
  const done = spawnSync(driver, ['unpack', layer, '', path, String(chunk)], { encoding: 'utf8', timeout: 60_000 });
  return done.stdout + done.stderr;
}

/** An extended attribute in hexadecimal, empty where there is none. */
export function readXattr(path: string, name: string): string {
  return spawnSync(driver, ['xattr', path, name], { encoding: 'utf8' }).stdout;
}

/** The failure that the driver printed; asserts that there is one. */
export function failed(outcome: Outcome): { readonly section: number; readonly step: number; readonly errno: number; readonly detail: string } {
  const match = /^failed (\d+) (\d+) (\d+) (.*)$/m.exec(outcome.output);
  assert.ok(match, `no failure in ${outcome.output}${outcome.error}`);
  return { section: Number(match[1]), step: Number(match[2]), errno: Number(match[3]), detail: match[4] ?? '' };
}

/** A section of the host actor. */
export const host = (...steps: Step[]): Section => ({ actor: 'host', steps });
/** A section in a child of its own. */
export const pod = (...steps: Step[]): Section => ({ actor: 'podNamespaces', steps });
/** The section that begins a container: new mount, UTS and IPC namespaces. */
export const setup = (...steps: Step[]): Section => ({ actor: 'containerSetup', cloneFlags: clone.newMount | clone.newUts | clone.newIpc, steps });
/** The section that ends in the payload. */
export const payload = (...steps: Step[]): Section => ({ actor: 'payload', steps });
