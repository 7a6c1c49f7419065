/**
 * Who may touch content: any number of operations that use it, or one collection that removes what nothing needs. Pure.
 *
 * Operations come first: one that begins while a collection waits goes ahead, and a collection in the background stops for it.
 */

/** The gate of one store. */
export class ContentGate {
  #users = 0;
  #holder: Promise<void> | undefined;
  #waiters: (() => void)[] = [];

  /** True while an operation runs or waits: a collection in the background makes room then. */
  get isWanted(): boolean {
    return this.#users > 0;
  }

  /** True when a collection could begin at once. */
  get isFree(): boolean {
    return this.#users === 0 && this.#holder === undefined;
  }

  /** Runs an operation, after the collection that is under way. */
  async use<T>(body: () => Promise<T>): Promise<T> {
    this.#users += 1;
    try {
      await this.#holder;
      return await body();
    } finally {
      this.#users -= 1;
      this.#wake();
    }
  }

  /** Runs a collection once nothing uses content. Rejects with the signal's reason when it is aborted before that. */
  async alone<T>(body: () => Promise<T>, signal?: AbortSignal): Promise<T> {
    while (this.#users > 0 || this.#holder !== undefined) {
      signal?.throwIfAborted();
      const turn = Promise.withResolvers<void>();
      this.#waiters.push(turn.resolve);
      signal?.addEventListener('abort', turn.reject, { once: true });
      try {
        await turn.promise;
      } catch {
        signal?.throwIfAborted();
      } finally {
        signal?.removeEventListener('abort', turn.reject);
      }
    }
    signal?.throwIfAborted();
    const end = Promise.withResolvers<void>();
    this.#holder = end.promise;
    try {
      return await body();
    } finally {
      this.#holder = undefined;
      end.resolve();
      this.#wake();
    }
  }

  #wake(): void {
    for (const wake of this.#waiters.splice(0)) wake();
  }
}
