/** Deadlines of stopping containers: a later stop with a shorter time shortens the one under way. No host access. */
import type { Clock } from '#core';

/** Waits for the end of something or for a deadline that may come nearer while it waits. */
export class StopDeadlines {
  readonly #clock: Clock;
  readonly #running = new Map<string, { deadlineMs: number; changed: PromiseWithResolvers<void> }>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /**
   * Starts or shortens the wait for `id`. Returns true when this call began it (the caller then sends the stop signal).
   * A longer time than the running one changes nothing.
   */
  begin(id: string, timeoutMs: number): boolean {
    const deadlineMs = this.#clock.monotonicMs() + timeoutMs;
    const running = this.#running.get(id);
    if (running === undefined) {
      this.#running.set(id, { deadlineMs, changed: Promise.withResolvers() });
      return true;
    }
    if (deadlineMs < running.deadlineMs) {
      running.deadlineMs = deadlineMs;
      running.changed.resolve();
      running.changed = Promise.withResolvers();
    }
    return false;
  }

  /** Resolves `ended` when that comes first, `expired` when the deadline passes. */
  async wait(id: string, ended: Promise<unknown>): Promise<'ended' | 'expired'> {
    let isEnded = false;
    const end = ended.then(() => void (isEnded = true));
    for (;;) {
      const running = this.#running.get(id);
      const leftMs = running === undefined ? 0 : running.deadlineMs - this.#clock.monotonicMs();
      if (running === undefined || leftMs <= 0) return isEnded ? 'ended' : 'expired';
      const cancel = new AbortController();
      const timer = this.#clock.sleep(leftMs, cancel.signal).catch(() => undefined);
      await Promise.race([end, timer, running.changed.promise]);
      cancel.abort();
      if (isEnded) return 'ended';
    }
  }

  finish(id: string): void {
    this.#running.delete(id);
  }
}
