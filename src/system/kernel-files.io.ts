/**
 * Reads files of the kernel without being held by one that hangs. In: paths below /proc and /sys. Out: texts; what cannot be read is undefined.
 * Opening a file there never waits for its content, so only reading goes through Node's file threads: a few at a time, since there are four, and
 * once as many hang as may be read at once, nothing more is begun until one of them returns.
 */
import { closeSync, openSync, read } from 'node:fs';
import { type Clock, limits } from '#core';

const pageBytes = 4096;
const bufferBytes = 4 * pageBytes;

interface Job {
  readonly path: string;
  readonly bytesMax: number;
  begunMs: number;
  /** undefined: it could not be read, or was given up. */
  readonly resolve: (text: string | undefined) => void;
}

/** One per engine, so that its bounds hold for all. No method throws. */
export class KernelFiles {
  readonly #clock: Clock;
  /** Begun and not given up. */
  readonly #active = new Set<Job>();
  readonly #waiting: Job[] = [];
  /** Given up and not returned. */
  #hung = 0;
  #patience: AbortController | undefined;
  readonly #buffers: Buffer[] = [];

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Text of a file, up to a bound. */
  async read(path: string, bytesMax: number = limits.statsFileBytesMax): Promise<string | undefined> {
    if (this.#hung >= limits.statsReadsMax) return undefined;
    const { promise, resolve } = Promise.withResolvers<string | undefined>();
    this.#waiting.push({ path, bytesMax, begunMs: 0, resolve });
    this.#begin();
    return promise;
  }

  #begin(): void {
    while (this.#waiting.length > 0 && this.#active.size + this.#hung < limits.statsReadsMax) {
      const job = this.#waiting.shift();
      if (job === undefined) break;
      job.begunMs = this.#clock.monotonicMs();
      this.#active.add(job);
      this.#perform(job);
    }
    if (this.#active.size > 0 && this.#patience === undefined) void this.#watch();
    if (this.#active.size === 0) {
      this.#patience?.abort();
      this.#patience = undefined;
    }
  }

  #perform(job: Job): void {
    let descriptor: number;
    try {
      descriptor = openSync(job.path, 'r');
    } catch {
      this.#active.delete(job);
      job.resolve(undefined);
      return;
    }
    const buffer = this.#buffers.pop() ?? Buffer.alloc(bufferBytes);
    let text = '';
    const next = (): void =>
      read(descriptor, buffer, 0, buffer.length, null, (error, bytes) => {
        if (error === null) text += buffer.toString('latin1', 0, bytes);
        // A text of one record comes whole; only lists go on beyond a page.
        if (error === null && bytes >= pageBytes / 2 && text.length < job.bytesMax) return next();
        closeSync(descriptor);
        this.#buffers.push(buffer);
        this.#end(job, error === null ? text : undefined);
      });
    next();
  }

  #end(job: Job, text: string | undefined): void {
    if (this.#active.delete(job)) job.resolve(text);
    else this.#hung -= 1;
    this.#begin();
  }

  /** While files are read: none may take longer than this. */
  async #watch(): Promise<void> {
    const patience = new AbortController();
    this.#patience = patience;
    for (;;) {
      const nowMs = this.#clock.monotonicMs();
      // In the order in which they were begun.
      const [oldest] = this.#active;
      const restMs = (oldest?.begunMs ?? nowMs) + limits.statsReadTimeoutMs - nowMs;
      await this.#clock.sleep(Math.max(1, restMs), patience.signal).catch(() => undefined);
      if (patience.signal.aborted) return;
      const lateMs = this.#clock.monotonicMs() - limits.statsReadTimeoutMs;
      for (const job of this.#active) if (job.begunMs <= lateMs) this.#giveUp(job);
      this.#begin();
    }
  }

  #giveUp(job: Job): void {
    this.#active.delete(job);
    this.#hung += 1;
    job.resolve(undefined);
    if (this.#hung >= limits.statsReadsMax) for (const waiting of this.#waiting.splice(0)) waiting.resolve(undefined);
  }
}
