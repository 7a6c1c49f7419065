/** A mutex per key, first come first served. Holding two keys at once is the caller's own risk: lock the pod before its container. */

/** Runs at most one task per key at a time. The map holds only keys in use. */
export class KeyedMutex {
  readonly #tails = new Map<string, Promise<void>>();

  /** Runs `task` once every earlier task of `key` has settled. The task's result or error is passed through. */
  async run<T>(key: string, task: () => Promise<T>): Promise<T> {
    const previous = this.#tails.get(key) ?? Promise.resolve();
    const turn = Promise.withResolvers<void>();
    const tail = previous.then(() => turn.promise);
    this.#tails.set(key, tail);
    await previous;
    try {
      return await task();
    } finally {
      turn.resolve();
      if (this.#tails.get(key) === tail) this.#tails.delete(key);
    }
  }

  /** True while somebody holds the key: a task of it would wait. */
  isHeld(key: string): boolean {
    return this.#tails.has(key);
  }

  /** Number of keys held or waited for. */
  get size(): number {
    return this.#tails.size;
  }
}
