/**
 * Equal work in flight, done once for all who want it. A caller that aborts leaves; the work ends with its last caller.
 * Pure: no clock, no I/O.
 */

/** What one caller brings along. */
export interface SharedCaller<P> {
  readonly onProgress?: (progress: P) => void;
  readonly signal?: AbortSignal;
}

interface Running<T, P> {
  readonly result: Promise<T>;
  readonly controller: AbortController;
  readonly listeners: Set<(progress: P) => void>;
  callers: number;
}

/** Work in flight by key. */
export class SharedWork<T, P> {
  readonly #running = new Map<string, Running<T, P>>();
  /** Everything that has not settled, abandoned work included. */
  readonly #unsettled = new Set<Promise<T>>();

  /** The result of the work under `key`, begun by the first caller. Rejects with the caller's own reason when it aborts. */
  async run(key: string, body: (onProgress: (progress: P) => void, signal: AbortSignal) => Promise<T>, caller: SharedCaller<P>): Promise<T> {
    caller.signal?.throwIfAborted();
    const running = this.#running.get(key) ?? this.#begin(key, body);
    const listener = (progress: P): void => caller.onProgress?.(progress);
    running.callers += 1;
    running.listeners.add(listener);
    const left = Promise.withResolvers<never>();
    const leave = (): void => left.reject(caller.signal?.reason);
    caller.signal?.addEventListener('abort', leave, { once: true });
    try {
      return await Promise.race([running.result, left.promise]);
    } finally {
      caller.signal?.removeEventListener('abort', leave);
      running.listeners.delete(listener);
      running.callers -= 1;
      if (running.callers === 0) this.#abandon(key, running);
    }
  }

  #begin(key: string, body: (onProgress: (progress: P) => void, signal: AbortSignal) => Promise<T>): Running<T, P> {
    const controller = new AbortController();
    const listeners = new Set<(progress: P) => void>();
    const tell = (progress: P): void => {
      for (const listener of listeners) listener(progress);
    };
    // In a later turn, when its first caller listens already.
    const result = Promise.resolve().then(async () => body(tell, controller.signal));
    const running: Running<T, P> = { result, controller, listeners, callers: 0 };
    this.#running.set(key, running);
    this.#unsettled.add(result);
    const forget = (): void => {
      this.#unsettled.delete(result);
      if (this.#running.get(key) === running) this.#running.delete(key);
    };
    result.then(forget, forget);
    return running;
  }

  /** A later caller must not join work that is being cancelled. */
  #abandon(key: string, running: Running<T, P>): void {
    if (this.#running.get(key) === running) this.#running.delete(key);
    running.controller.abort();
  }

  /** Resolves when nothing that was begun runs any more. */
  async settled(): Promise<void> {
    await Promise.allSettled(this.#unsettled);
  }
}
