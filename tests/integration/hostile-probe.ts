/**
 * The attacker's own program for the hostile-*.test.ts suites: builds hostile-probe.c where a compiler is, else uses the one that was
 * built before. In: nothing but the machine. Out: its path, and why suites that need it cannot run here.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, statSync } from 'node:fs';
import { join } from 'node:path';

const source = join(import.meta.dirname, 'hostile-probe.c');
const directory = join(import.meta.dirname, '../../native/build');

/** The static program; see its head for what it can do. */
export const probePath = join(directory, 'hostile_probe');

/** Builds the program where it is missing or old. Throws the compiler's words when it does not compile. */
function buildProbe(): boolean {
  if (existsSync(probePath) && statSync(probePath).mtimeMs >= statSync(source).mtimeMs) return true;
  mkdirSync(directory, { recursive: true });
  const made = spawnSync('musl-gcc', ['-std=c11', '-O1', '-Wall', '-Wextra', '-Werror', '-static', '-s', source, '-o', probePath], { encoding: 'utf8' });
  if (made.error === undefined && made.status !== 0) throw new Error(made.stderr);
  return existsSync(probePath);
}

/** Why suites that need the program cannot run here, or false. */
export const probeSkip: string | false = process.getuid?.() !== 0 ? 'needs root' : buildProbe() ? false : 'needs musl-gcc (package musl-tools)';

/** How much longer everything may take here: the guest runs in software emulation. */
export const slowness = process.env['BERTH_TEST_GUEST'] === '1' ? 20 : 1;
