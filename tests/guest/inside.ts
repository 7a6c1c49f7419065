/**
 * Runs in the guest: every suite of /berth/guest-suites.json in namespaces of its own, as on the host.
 * In: that list. Out: one JSON line per suite on the second serial port.
 */
import { execFileSync, spawn } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import type { SuiteResult } from '../suite.ts';

/** One line of the second serial port. */
export interface GuestLine {
  readonly name: string;
  /** `ok`, or why there is no result. */
  readonly status: string;
  readonly result: SuiteResult | null;
}

/** One that is asked for alone, by its path, may take what the guest may. */
const suiteTimeoutOf = (file: string): number => (file.startsWith('tests/guest/') ? 2_500_000 : 900_000);
/** How often a suite may run in all, where the emulated processor crashes Node. */
const attemptsMax = 3;

/** Lines in which the kernel tells of a segmentation fault in one of Node's threads; never one of the helper or of a container. */
function readNodeCrashes(): string[] {
  return execFileSync('dmesg', { encoding: 'utf8' })
    .split('\n')
    .filter((line) => /\b(node|MainThread|V8Worker|libuv-worker|DelayedTaskSche)\[\d+\][: ].*(segfault|general protection|trap )/.test(line));
}

async function runSuite(file: string): Promise<GuestLine> {
  const name = file.replaceAll(/^tests\/|\.test\.ts$/g, '');
  const resultPath = '/tmp/result.json';
  writeFileSync(resultPath, 'null');
  const startedAt = performance.now();
  const child = spawn('unshare', ['-m', '-n', '-p', '-f', '--kill-child', '--', 'scripts/in-namespaces.sh', 'node', 'tests/suite.ts', '--scope', 'all', resultPath, file], {
    stdio: 'inherit',
  });
  const timer = setTimeout(() => child.kill('SIGKILL'), suiteTimeoutOf(file));
  const status = await new Promise<string>((resolve) => {
    child.on('error', (error) => resolve(error.message));
    child.on('close', (code, signal) => resolve(code === 0 ? 'ok' : signal === null ? `exit status ${code}` : `killed by ${signal}`));
  });
  clearTimeout(timer);
  // SAFETY: tests/suite.ts wrote it, with this type, or it still is the null from above.
  const result = JSON.parse(readFileSync(resultPath, 'utf8')) as SuiteResult | null;
  const of = (outcome: string): number => result?.tests.filter((test) => test.outcome === outcome).length ?? 0;
  console.log(
    `${name.padEnd(36)} ${result === null ? `failed: ${status}` : `${of('passed')} passed, ${of('failed')} failed, ${of('skipped')} skipped`} (${((performance.now() - startedAt) / 1000).toFixed(1)} s)`,
  );
  return { name, status, result };
}

// SAFETY: tests/guest/run.ts wrote it, a list of paths.
const files = JSON.parse(readFileSync('/berth/guest-suites.json', 'utf8')) as readonly string[];
for (const file of files) {
  let known = readNodeCrashes().length;
  let line = await runSuite(file);
  // Software emulation sometimes breaks code that Node has just compiled. Then, and only then, the suite has shown nothing and runs again.
  for (let attempt = 1; attempt < attemptsMax; attempt += 1) {
    const crashes = readNodeCrashes();
    const isFailed = line.result === null || line.result.tests.some(({ outcome }) => outcome === 'failed');
    if (!isFailed || crashes.length === known) break;
    known = crashes.length;
    console.log(`${line.name}: the emulated processor crashed Node (${crashes.at(-1) ?? ''}); the suite runs again`);
    line = await runSuite(file);
  }
  writeFileSync('/dev/ttyS1', `${JSON.stringify(line)}\n`, { flag: 'a' });
}
