/**
 * Keeps GC apart from everything that adds or deletes: a plugin that collects would take an attachment that is just being made for a leaked
 * one. In: tasks. Out: their results. Source: the CNI specification 1.1.0, section 3, on GC and parallel operations.
 */

/** Any number of operations, or one collection. */
export class CniGate {
  readonly #running = new Set<Promise<unknown>>();
  #collection: Promise<unknown> | undefined;

  /** Runs an operation; it waits only for a collection that has begun. */
  async pass<T>(task: () => Promise<T>): Promise<T> {
    while (this.#collection !== undefined) await this.#collection;
    const run = task();
    const settled = run.then(
      () => undefined,
      () => undefined,
    );
    this.#running.add(settled);
    try {
      return await run;
    } finally {
      this.#running.delete(settled);
    }
  }

  /** Runs a collection at a moment without operations, of which new ones may come while it waits. False where that moment did not come in `tries` rounds. */
  async collect(task: () => Promise<void>, { tries }: { readonly tries: number }): Promise<boolean> {
    for (let round = 0; this.#running.size > 0 || this.#collection !== undefined; round += 1) {
      if (round === tries) return false;
      await Promise.allSettled([...this.#running, this.#collection]);
    }
    const run = task();
    const settled = run.then(
      () => undefined,
      () => undefined,
    );
    this.#collection = settled;
    try {
      await run;
      return true;
    } finally {
      this.#collection = undefined;
    }
  }

  /** Settles when nothing is under way. */
  async idle(): Promise<void> {
    while (this.#running.size > 0 || this.#collection !== undefined) await Promise.allSettled([...this.#running, this.#collection]);
  }
}
