/** Time and randomness as a port, so that everything above can be tested without either. */

/** Wall time, monotonic time, sleep and randomness. The real one is wired in `bin/`. */
export interface Clock {
  /** Unix time in nanoseconds, the unit of CRI timestamps. */
  nowNs(): bigint;
  /** Monotonic milliseconds. */
  monotonicMs(): number;
  /** Resolves after `durationMs`; rejects with the signal's reason when aborted. */
  sleep(durationMs: number, signal?: AbortSignal): Promise<void>;
  randomBytes(byteCount: number): Uint8Array;
}
