/** A bounded queue of values with one consumer. */

/**
 * An async iterable fed by `push`. When more than `capacity` values wait, the queue overflows: it drops what waits, and the
 * consumer gets `overflowError()` as its next result. Policy: better a clear error than silent loss or unbounded memory.
 */
export class BoundedQueue<T> implements AsyncIterable<T> {
  readonly #capacity: number;
  readonly #overflowError: () => Error;
  #values: T[] = [];
  #failure: Error | undefined;
  #ended = false;
  #wake: (() => void) | undefined;

  constructor(options: { readonly capacity: number; readonly overflowError: () => Error }) {
    this.#capacity = options.capacity;
    this.#overflowError = options.overflowError;
  }

  /** Adds a value; ignored after `end` or overflow. */
  push(value: T): void {
    if (this.#ended) return;
    if (this.#values.length >= this.#capacity) {
      this.#values = [];
      this.fail(this.#overflowError());
      return;
    }
    this.#values.push(value);
    this.#wake?.();
  }

  /** Lets the consumer finish after the values that wait. */
  end(): void {
    this.#ended = true;
    this.#wake?.();
  }

  /** Ends the queue with an error. */
  fail(error: Error): void {
    if (this.#ended) return;
    this.#failure = error;
    this.end();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<T, void, void> {
    for (;;) {
      const value = this.#values.shift();
      if (value !== undefined) {
        yield value;
      } else if (this.#ended) {
        if (this.#failure !== undefined) throw this.#failure;
        return;
      } else {
        const { promise, resolve } = Promise.withResolvers<void>();
        this.#wake = resolve;
        await promise;
        this.#wake = undefined;
      }
    }
  }
}
