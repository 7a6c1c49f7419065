/**
 * Boots a second kernel (Debian's 6.1, in software emulation) and runs the integration suites in it.
 * In: `run.ts RESULT [part of a file name, or the path of a suite of tests/guest]`; build/guest/packages as scripts/setup.sh --tests leaves it. Out: RESULT, the guest's
 * lines as JSON; exit status 1 when the guest did not come to its end. Nothing of it outlives this process.
 */
import { spawn } from 'node:child_process';
import { existsSync, globSync, mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { buildDisk } from './disk.ts';
import { buildInitramfs } from './initramfs.ts';
import type { GuestLine } from './inside.ts';

/** Suites whose file names begin so run in the guest; the others want a Go toolchain or peers that it does not carry. */
const guestSuites = /^(ledger|native|shim|system|runtime|sandbox|network|image|pod|oci)\b/;

/** Whether this machine could build the conformance suite of CRI; without Go it cannot. */
const canConform = existsSync(new URL('../../build/go/critest', import.meta.url));

/** Whether this machine could build the validation programs of OCI. */
const canValidate = existsSync(new URL('../../build/go/oci-validation', import.meta.url));

/** Bounds the whole run; a hung guest is killed. */
const timeoutMs = 2_600_000;

const home = fileURLToPath(new URL('../..', import.meta.url));
const [resultPath = 'build/guest/result.json', only = ''] = process.argv.slice(2);
const work = join(home, 'build/guest');
const packages = join(work, 'packages');
const run = join(work, `run-${process.pid}`);

function describeMs(startedAt: number): string {
  return `${((performance.now() - startedAt) / 1000).toFixed(1)} s`;
}

/** An older processor: QEMU 7.2's emulation of the newest one (`max`) now and then crashes Node's compiled code. */
const cpuModel = 'Nehalem';

/** The status that the guest's init wrote last, or undefined when it never came so far. */
async function boot(kernel: string, results: string): Promise<boolean> {
  const child = spawn(
    'qemu-system-x86_64',
    [
      '-M',
      'q35',
      '-accel',
      'tcg,thread=single',
      '-cpu',
      cpuModel,
      '-smp',
      '2',
      '-m',
      '3072',
      '-nodefaults',
      '-no-reboot',
      '-display',
      'none',
      '-kernel',
      kernel,
      '-initrd',
      join(run, 'initramfs'),
      '-append',
      'console=ttyS0 quiet loglevel=3 panic=-1 mitigations=off random.trust_cpu=on',
      '-drive',
      `file=${join(run, 'disk')},format=raw,if=virtio,cache=unsafe`,
      '-serial',
      'stdio',
      '-serial',
      `file:${results}`,
    ],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  );
  const stop = (): void => void child.kill('SIGKILL');
  const timer = setTimeout(() => {
    console.log(`guest: not finished after ${timeoutMs / 1000} s`);
    stop();
  }, timeoutMs);
  process
    .once('exit', stop)
    .once('SIGINT', () => process.exit(130))
    .once('SIGTERM', () => process.exit(143));
  for await (const line of createInterface({ input: child.stdout })) console.log(`  guest| ${line.replaceAll(/\r|\x1b\[[0-9;?]*[A-Za-z]/g, '')}`);
  clearTimeout(timer);
  return readFileSync(results, 'utf8').trimEnd().endsWith('{"status":0}');
}

const kernel = globSync(`${packages}/boot/vmlinuz-6.1.*`)[0];
if (kernel === undefined) {
  console.error(`guest: ${packages}: holds no kernel; run scripts/setup.sh --tests`);
  process.exit(1);
}
const isPossible = (name: string): boolean => (name !== 'pod-critest.test.ts' || canConform) && (name !== 'oci-validation.test.ts' || canValidate);
const files = only.startsWith('tests/guest/')
  ? [only]
  : readdirSync(join(home, 'tests/integration'))
      .filter((name) => name.endsWith('.test.ts') && guestSuites.test(name) && name.includes(only) && isPossible(name))
      .sort()
      .map((name) => `tests/integration/${name}`);
if (files.length === 0) {
  console.error(`guest: no integration suite has ${JSON.stringify(only)} in its name`);
  process.exit(1);
}

// What a run that was killed left; a live one has its process.
for (const name of readdirSync(work)) if (/^run-\d+$/.test(name) && !existsSync(`/proc/${name.slice(4)}`)) rmSync(join(work, name), { recursive: true, force: true });

let finished = false;
mkdirSync(run, { recursive: true });
try {
  const startedAt = performance.now();
  writeFileSync(join(run, 'initramfs'), buildInitramfs(packages, '/bin/busybox'));
  buildDisk({ home, scratch: join(run, 'staging'), imagePath: join(run, 'disk'), suites: files });
  console.log(`guest: initramfs and disk made in ${describeMs(startedAt)}`);
  const results = join(run, 'results');
  writeFileSync(results, '');
  finished = await boot(kernel, results);
  // SAFETY: tests/guest/inside.ts wrote each line, with this type; the last is the status.
  const lines = readFileSync(results, 'utf8')
    .split('\n')
    .filter((line) => line.startsWith('{"name"'))
    .map((line) => JSON.parse(line) as GuestLine);
  writeFileSync(resultPath, JSON.stringify(lines));
  if (!finished) console.log('guest: ended without its last word');
} finally {
  rmSync(run, { recursive: true, force: true });
}
process.exit(finished ? 0 : 1);
