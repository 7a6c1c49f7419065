/**
 * Looks at control groups and interfaces without waiting for any of them. In: directories of the kernel's cgroup file systems, pids. Out:
 * numbers. A thread of its own reads the files. One that does not answer in time is given up with the look that it hangs in, and another goes on
 * with the rest; once as many hang as are allowed, every look finds nothing until one of them returns.
 */
import { Worker } from 'node:worker_threads';
import { type Clock, limits } from '#core';
import type { GroupReadOptions, GroupReading, StatsGroups } from './cgroup-stats-read.io.ts';
import type { StatsAnswer, StatsLook } from './cgroup-stats-worker.io.ts';
import type { LinkCounters } from './cgroup-stats.ts';

/** A few short texts at a time. */
const workerLimits = { maxOldGenerationSizeMb: 32, maxYoungGenerationSizeMb: 1 } as const;

interface Waiting {
  readonly look: StatsLook;
  /** undefined: it was given up. */
  readonly resolve: (answer: StatsAnswer | undefined) => void;
}

/** One per engine, so that its bounds hold for all. No method throws. */
export class GroupReader {
  readonly #clock: Clock;
  #worker: Worker | undefined;
  /** In the order in which the thread takes them. */
  readonly #waiting = new Map<number, Waiting>();
  #serial = 0;
  /** Threads that were given up and have not ended. */
  readonly #hung = new Set<Worker>();
  #patience: AbortController | undefined;
  #idle: NodeJS.Timeout | undefined;
  #links: Promise<readonly LinkCounters[]> | undefined;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** One look at a group; what cannot be read is absent. */
  async read(groups: StatsGroups, options: GroupReadOptions = {}): Promise<GroupReading> {
    const answer = await this.#take({ kind: 'group', groups, options });
    return answer !== undefined && 'group' in answer ? answer.group : { atNs: this.#clock.nowNs() };
  }

  /** Interfaces of the host's own network namespace. Callers at once share one look. */
  async hostLinks(): Promise<readonly LinkCounters[]> {
    this.#links ??= this.#takeLinks({ kind: 'ownLinks' }).finally(() => (this.#links = undefined));
    return this.#links;
  }

  /** Interfaces that a process sees, provided that it is in a group below `cgroupPath`; none otherwise. */
  async processLinks(pid: number, cgroupPath: string): Promise<readonly LinkCounters[]> {
    return this.#takeLinks({ kind: 'processLinks', pid, cgroupPath });
  }

  /** Ends the thread; looks under way find nothing. */
  async close(): Promise<void> {
    const worker = this.#worker;
    this.#worker = undefined;
    clearTimeout(this.#idle);
    this.#giveUpAll();
    await worker?.terminate();
  }

  async #takeLinks(look: StatsLook): Promise<readonly LinkCounters[]> {
    const answer = await this.#take(look);
    return answer !== undefined && 'links' in answer ? answer.links : [];
  }

  async #take(look: StatsLook): Promise<StatsAnswer | undefined> {
    const worker = this.#find();
    if (worker === undefined) return undefined;
    const { promise, resolve } = Promise.withResolvers<StatsAnswer | undefined>();
    this.#serial += 1;
    this.#waiting.set(this.#serial, { look, resolve });
    worker.ref();
    worker.postMessage({ id: this.#serial, look });
    clearTimeout(this.#idle);
    if (this.#patience === undefined) void this.#watch();
    return promise;
  }

  /** The thread, made where there is none; undefined while too many hang. */
  #find(): Worker | undefined {
    if (this.#worker !== undefined) return this.#worker;
    if (this.#hung.size >= limits.statsReadsMax) return undefined;
    const worker = new Worker(new URL('./cgroup-stats-worker.io.ts', import.meta.url), { stdin: false, env: {}, resourceLimits: workerLimits });
    worker.on('message', ({ id, answer }: { readonly id: number; readonly answer: StatsAnswer }) => this.#answered(worker, id, answer));
    const gone = (): void => {
      this.#hung.delete(worker);
      if (this.#worker !== worker) return;
      this.#worker = undefined;
      this.#giveUpAll();
    };
    // An error is followed by the exit.
    worker.on('error', () => undefined);
    worker.on('exit', gone);
    worker.unref();
    this.#worker = worker;
    return worker;
  }

  #answered(worker: Worker, id: number, answer: StatsAnswer): void {
    // One that was given up answers what nobody waits for any more.
    if (worker !== this.#worker) return;
    const waiting = this.#waiting.get(id);
    this.#waiting.delete(id);
    waiting?.resolve(answer);
    if (this.#waiting.size > 0) return;
    this.#calm();
    worker.unref();
    this.#idle = setTimeout(() => void this.#dismiss(worker), limits.statsIdleTimeoutMs).unref();
  }

  /** While looks wait: the one that is next must not be the same for longer than a look may take. */
  async #watch(): Promise<void> {
    const patience = new AbortController();
    this.#patience = patience;
    let [next] = this.#waiting.keys();
    while (next !== undefined) {
      await this.#clock.sleep(limits.statsReadTimeoutMs, patience.signal).catch(() => undefined);
      if (patience.signal.aborted) break;
      const [now] = this.#waiting.keys();
      if (now === next) this.#replace(next);
      [next] = this.#waiting.keys();
    }
    if (this.#patience === patience) this.#patience = undefined;
  }

  /** The thread hangs in the look `id`. */
  #replace(id: number): void {
    const worker = this.#worker;
    if (worker === undefined) return;
    this.#worker = undefined;
    this.#hung.add(worker);
    worker.unref();
    // It ends as soon as the kernel lets it go.
    void worker.terminate();
    this.#waiting.get(id)?.resolve(undefined);
    this.#waiting.delete(id);
    const another = this.#waiting.size > 0 ? this.#find() : undefined;
    if (another === undefined) return this.#giveUpAll();
    another.ref();
    for (const [waitingId, { look }] of this.#waiting) another.postMessage({ id: waitingId, look });
  }

  #giveUpAll(): void {
    for (const { resolve } of this.#waiting.values()) resolve(undefined);
    this.#waiting.clear();
    this.#calm();
  }

  #calm(): void {
    this.#patience?.abort();
    this.#patience = undefined;
  }

  /** A thread that nobody asks for a while goes, and its heap with it. */
  async #dismiss(worker: Worker): Promise<void> {
    if (this.#worker !== worker || this.#waiting.size > 0) return;
    this.#worker = undefined;
    await worker.terminate();
  }
}
