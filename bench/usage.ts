/**
 * What a process and all its descendants cost. In: the process. Out: processor seconds and the highest memory seen.
 * Processor time is that of a cgroup of its own, so that no child is missed that came and went. Memory is sampled: the sum of the
 * resident sizes, shared pages counted in each (the way `ps` adds up), because a cgroup's own peak would count the page cache too.
 */
import { mkdirSync, readFileSync, readdirSync, rmdirSync, writeFileSync } from 'node:fs';

const pageBytes = 4096;
const sampleEveryMs = 20;

/** Mount point of the unified cgroup hierarchy, hybrid systems included. */
function unifiedCgroups(): string {
  const line = readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .find((entry) => entry.includes(' - cgroup2 '));
  if (line === undefined) throw new Error('measure: there is no cgroup2 mount');
  return line.split(' ')[4] ?? '';
}

/** A cgroup that counts processor time. Needs root; remove it when its processes have ended. */
export class Meter implements Disposable {
  readonly dir: string;

  constructor(name: string) {
    this.dir = `${unifiedCgroups()}/berth-bench-${process.pid}-${name}`;
    mkdirSync(this.dir);
  }

  /** Shell words that move the shell there before it executes a program. */
  get enter(): string {
    return `echo 0 >${this.dir}/cgroup.procs`;
  }

  /** Processor seconds used so far by everything that ran here. */
  cpuSeconds(): number {
    return Number(/^usage_usec (\d+)$/m.exec(readFileSync(`${this.dir}/cpu.stat`, 'utf8'))?.[1] ?? Number.NaN) / 1e6;
  }

  /** Bytes resident now, of all processes together. */
  residentBytes(): number {
    let total = 0;
    for (const pid of this.pids()) {
      try {
        total += Number(readFileSync(`/proc/${pid}/statm`, 'latin1').split(' ')[1]) * pageBytes;
      } catch {
        // It ended meanwhile.
      }
    }
    return total;
  }

  pids(): number[] {
    const below = readdirSync(this.dir, { recursive: true, withFileTypes: true }).filter((entry) => entry.name === 'cgroup.procs');
    return below
      .flatMap((entry) => readFileSync(`${entry.parentPath}/cgroup.procs`, 'utf8').split('\n'))
      .filter((line) => line !== '' && line !== '0')
      .map(Number);
  }

  /** Runs `body` and gives its wall and processor seconds and the peak of resident bytes meanwhile. */
  async measure(body: () => Promise<unknown>): Promise<{ readonly wall: number; readonly cpu: number; readonly peakBytes: number }> {
    let peakBytes = this.residentBytes();
    const timer = setInterval(() => (peakBytes = Math.max(peakBytes, this.residentBytes())), sampleEveryMs);
    const [cpuBefore, start] = [this.cpuSeconds(), performance.now()];
    try {
      await body();
      return { wall: (performance.now() - start) / 1000, cpu: this.cpuSeconds() - cpuBefore, peakBytes };
    } finally {
      clearInterval(timer);
    }
  }

  /** Removes the cgroup; what still runs there is killed first. */
  [Symbol.dispose](): void {
    try {
      writeFileSync(`${this.dir}/cgroup.kill`, '1');
    } catch {
      // Kernels before 5.14 lack the file; its processes have ended by themselves then, or rmdir says that they have not.
    }
    for (let tries = 0; ; tries += 1) {
      try {
        rmdirSync(this.dir);
        return;
      } catch (error) {
        if (tries === 100) throw error;
        Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 50);
      }
    }
  }
}
