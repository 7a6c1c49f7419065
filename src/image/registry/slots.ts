/** A bound on what runs at once, first come, first served. In: requests for a slot. Out: slots that are given back by disposal. Pure. */

/** Gives out at most `count` slots at a time. */
export class Slots {
  #free: number;
  readonly #waiting: (() => void)[] = [];

  constructor(count: number) {
    this.#free = count;
  }

  /** Waits for a slot; disposing of it twice gives it back once. Throws the signal's reason. */
  async take(signal: AbortSignal): Promise<Disposable> {
    signal.throwIfAborted();
    if (this.#free > 0) this.#free -= 1;
    else await this.#wait(signal);
    let isHeld = true;
    return {
      [Symbol.dispose]: () => {
        if (!isHeld) return;
        isHeld = false;
        const next = this.#waiting.shift();
        if (next === undefined) this.#free += 1;
        else next();
      },
    };
  }

  async #wait(signal: AbortSignal): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    this.#waiting.push(resolve);
    const abort = (): void => {
      const at = this.#waiting.indexOf(resolve);
      // Absent: the slot was handed over in the same turn, and goes to whoever is next.
      if (at >= 0) {
        this.#waiting.splice(at, 1);
        reject(signal.reason);
      }
    };
    signal.addEventListener('abort', abort, { once: true });
    try {
      await promise;
    } finally {
      signal.removeEventListener('abort', abort);
    }
  }
}
