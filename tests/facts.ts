/**
 * What tests may depend on, and the list of expected skips read in its light.
 * In: the machine. Out: facts by name. A skip that is expected on no fact, or that did not happen though expected, is a failure.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, readdirSync } from 'node:fs';

/** True facts of this machine, by the names that tests/expected-skips.json uses in `when`. */
export interface Facts {
  readonly always: true;
  readonly 'not-root': boolean;
  readonly guest: boolean;
  readonly host: boolean;
  readonly 'no-go': boolean;
  readonly 'no-containerd': boolean;
  readonly 'cgroup-v2': boolean;
  readonly 'no-cgroup-v2': boolean;
  readonly 'no-sys-resource': boolean;
  readonly 'no-overlay-idmap': boolean;
  readonly 'no-criu': boolean;
}

/** One expected skip; `test` is the whole name, or `*` for every test of the file. */
export interface ExpectedSkip {
  readonly file: string;
  readonly test: string;
  readonly when: keyof Facts;
  readonly reason: string;
}

function hasCommand(name: string, ...places: readonly string[]): boolean {
  return [...(process.env['PATH'] ?? '').split(':'), '/usr/sbin', '/sbin', ...places].some((place) => existsSync(`${place}/${name}`));
}

function readKernelVersion(): number {
  const [major = '0', minor = '0'] = readFileSync('/proc/sys/kernel/osrelease', 'utf8').split('.');
  return Number(major) * 1000 + Number(minor);
}

/** Reads the facts of the machine that this process runs on. */
export function readFacts(): Facts {
  const effective = /^CapEff:\s*([0-9a-f]+)$/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1] ?? '0';
  const controllers = existsSync('/sys/fs/cgroup/cgroup.controllers') ? readFileSync('/sys/fs/cgroup/cgroup.controllers', 'utf8') : '';
  const guest = process.env['BERTH_TEST_GUEST'] === '1';
  const unified = controllers.includes('memory') && readdirSync('/sys/fs/cgroup').includes('cgroup.procs');
  return {
    always: true,
    'not-root': process.getuid?.() !== 0,
    guest,
    host: !guest,
    'no-go': !hasCommand('go', '/usr/local/go/bin', '/usr/lib/go/bin'),
    'no-containerd': !hasCommand('containerd'),
    'cgroup-v2': unified,
    'no-cgroup-v2': !unified,
    'no-sys-resource': ((BigInt(`0x${effective}`) >> 24n) & 1n) === 0n,
    'no-overlay-idmap': readKernelVersion() < 5019,
    // It is asked itself: kernels newer than a criu are often too new for it.
    'no-criu': spawnSync('criu', ['check'], { stdio: 'ignore' }).status !== 0,
  };
}
