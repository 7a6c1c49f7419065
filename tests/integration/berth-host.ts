/**
 * Berth as its users have it: the command line with directories of its own. In: nothing but the machine. Out: a host whose commands
 * run `bin/berth`, and whose disposal ends every pod and checks that nothing of them is left.
 */
import assert from 'node:assert/strict';
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { existsSync, globSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { hostNames } from '../../src/bin/locations.ts';

/** Emulation is that much slower. */
export const slowness = process.env['BERTH_TEST_GUEST'] === '1' ? 20 : 1;
/** How long a test waits for what must happen by itself: so long that only what never happens fails. */
export const patienceMs = 20_000 * slowness;
export const busybox = ['/usr/bin/busybox', '/bin/busybox'].find((path) => existsSync(path)) ?? '';
export const image = 'localhost/busybox:latest';
const main = new URL('../../src/bin/berth.ts', import.meta.url).pathname;
const bundle = new URL('../../dist/berth.mjs', import.meta.url).pathname;
const launcher = new URL('../../bin/berth', import.meta.url).pathname;
const entry = existsSync(bundle) ? bundle : main;

/** Why the tests of this folder cannot run here, or false. */
export function skipReason(): string | false {
  if (process.getuid?.() !== 0) return 'needs root';
  return busybox === '' ? 'needs busybox-static' : false;
}

/** What a finished command left. */
export interface Finished {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** A command that is still running. */
export interface Running {
  readonly child: ChildProcess;
  readonly finished: Promise<Finished>;
  /** Waits until standard output or standard error holds the text; fails when the command ends before. */
  untilOutput(text: string): Promise<void>;
}

export class BerthHost implements AsyncDisposable {
  readonly directory = mkdtempSync('/var/tmp/berth-pods-');
  readonly root = `${this.directory}/root`;
  readonly run = `${this.directory}/run`;

  /** With the busybox image. */
  static async open(): Promise<BerthHost> {
    const host = new BerthHost();
    await host.ok(['image', 'from-host', image, busybox]);
    return host;
  }

  /** `installed`: by `bin/berth`, with the flags that users' processes have; else straight by this test's Node. */
  start(args: readonly string[], input?: string, { installed = false } = {}): Running {
    const [program, ...first] = installed ? [launcher] : [process.execPath, entry];
    const child = spawn(program, [...first, '--root', this.root, '--run', this.run, ...args], { stdio: ['pipe', 'pipe', 'pipe'] });
    let [stdout, stderr] = ['', ''];
    let wake: () => void = () => undefined;
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      stdout += text;
      wake();
    });
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      stderr += text;
      wake();
    });
    child.stdin.on('error', () => undefined);
    if (input === undefined) child.stdin.end();
    else child.stdin.end(input);
    const finished = new Promise<Finished>((resolve) =>
      child.once('close', (status) => {
        wake();
        resolve({ status, stdout, stderr });
      }),
    );
    const untilOutput = async (text: string): Promise<void> => {
      while (!stdout.includes(text) && !stderr.includes(text)) {
        if (child.exitCode !== null || child.signalCode !== null) throw new Error(`ended before it printed ${JSON.stringify(text)}: ${stdout}${stderr}`);
        await Promise.race([new Promise<void>((resolve) => void (wake = resolve)), sleep(200)]);
      }
    };
    return { child, finished, untilOutput };
  }

  async berth(args: readonly string[], input?: string): Promise<Finished> {
    return this.start(args, input).finished;
  }

  /** Standard output of a command that must succeed. */
  async ok(args: readonly string[], input?: string): Promise<string> {
    const { status, stdout, stderr } = await this.berth(args, input);
    assert.equal(status, 0, `berth ${args.join(' ')}: status ${status}: ${stderr}${stdout}`);
    return stdout;
  }

  async json(args: readonly string[]): Promise<Record<string, unknown>[]> {
    // SAFETY: every listing of the command line prints an array of objects.
    return JSON.parse(await this.ok([...args, '--output', 'json'])) as Record<string, unknown>[];
  }

  /** Shells out in one container to its end. */
  async shell(script: string, options: readonly string[] = []): Promise<Finished> {
    return this.berth(['run', '--rm', ...options, image, busybox, 'sh', '-c', script]);
  }

  /** Shims, cgroups, links, rules and mounts that belong to pods of this host's directories. */
  async remains(): Promise<string[]> {
    const left: string[] = [];
    for (const name of readdirSync('/proc')) {
      if (!/^\d+$/.test(name) || Number(name) === process.pid) continue;
      try {
        if (readFileSync(`/proc/${name}/comm`, 'utf8').startsWith('berth-')) left.push(`process ${name}: ${readFileSync(`/proc/${name}/cmdline`, 'utf8').replaceAll('\0', ' ')}`);
      } catch {
        // It ended meanwhile.
      }
    }
    const { cgroup } = hostNames({ runDirectory: this.run, rootDirectory: this.root });
    left.push(...globSync(`/sys/fs/cgroup/{,*/}${cgroup.slice(1)}`));
    left.push(
      ...execFileSync('ip', ['-o', 'link'], { encoding: 'utf8' })
        .split('\n')
        .filter((line) => /berth|veth/.test(line)),
    );
    left.push(
      ...execFileSync('nft', ['list', 'tables'], { encoding: 'utf8' })
        .split('\n')
        .filter((line) => line.includes('berth')),
    );
    left.push(
      ...readFileSync('/proc/self/mountinfo', 'utf8')
        .split('\n')
        .filter((line) => line.includes(this.directory)),
    );
    left.push(...(existsSync(`${this.root}/containers`) ? readdirSync(`${this.root}/containers`) : []));
    return left;
  }

  /** Waits until nothing is left; says what is when it does not go. How fast it goes is the benchmark's to say. */
  async assertNoRemains(): Promise<void> {
    const deadline = performance.now() + patienceMs;
    for (;;) {
      const left = await this.remains();
      if (left.length === 0) return;
      assert.ok(performance.now() < deadline, `left after ${patienceMs} ms:\n${left.join('\n')}`);
      await sleep(50);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const pod of await this.json(['pods'])) await this.berth(['rm', '-f', String(pod['id'])]);
    await this.assertNoRemains();
    rmSync(this.directory, { recursive: true, force: true });
  }

  /** A directory of the test's own on this host's disk. */
  scratch(name: string): string {
    const path = `${this.directory}/${name}`;
    mkdirSync(path, { recursive: true });
    return path;
  }
}

/** A manifest as YAML's JSON subset. */
export function manifest(spec: Record<string, unknown>, name = 'pod'): string {
  return JSON.stringify({ apiVersion: 'v1', kind: 'Pod', metadata: { name }, spec: { restartPolicy: 'Never', ...spec } });
}

/** A container of a manifest that runs a shell script. */
export function shellContainer(name: string, script: string, more: Record<string, unknown> = {}): Record<string, unknown> {
  return { name, image, imagePullPolicy: 'Never', command: [busybox, 'sh', '-c', script], ...more };
}
