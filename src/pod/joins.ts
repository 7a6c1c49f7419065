/** Creates that are joined: equal requests in flight share one run, unequal ones are told of each other. */
import { RuntimeError, encodeJson } from '#core';

interface Running<Id> {
  readonly request: string;
  readonly result: Promise<Id>;
}

/** One map per kind of object. `what` names the object in messages. */
export class JoinedCreates<Id> {
  readonly #running = new Map<string, Running<Id>>();
  readonly #what: string;

  constructor(what: string) {
    this.#what = what;
  }

  /**
   * Runs `create` unless an equal request with this key is running; then its result is shared. A caller whose signal aborts is
   * let go, the run goes on and its result is kept for the retry. Throws alreadyExists for an unequal request.
   */
  async run(key: string, request: unknown, create: () => Promise<Id>, signal: AbortSignal | undefined): Promise<Id> {
    const text = encodeJson(request);
    const running = this.#running.get(key);
    if (running !== undefined && running.request !== text) {
      throw new RuntimeError('alreadyExists', `create ${this.#what} ${key}: another configuration of that name is being created`);
    }
    const result = running?.result ?? this.#start(key, text, create);
    return signal === undefined ? result : abandonable(result, signal);
  }

  #start(key: string, request: string, create: () => Promise<Id>): Promise<Id> {
    const result = create().finally(() => this.#running.delete(key));
    this.#running.set(key, { request, result });
    return result;
  }

  /** Settles when everything in flight has; for shutdown. */
  async idle(): Promise<void> {
    await Promise.allSettled([...this.#running.values()].map(({ result }) => result));
  }
}

/** The promise's result, or the signal's abort, whichever is first. The work behind the promise goes on. */
export async function abandonable<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  if (signal.aborted) {
    promise.catch(() => undefined);
    throw new RuntimeError('cancelled', 'the caller went away');
  }
  const { promise: aborted, reject } = Promise.withResolvers<never>();
  const onAbort = (): void =>
    reject(new RuntimeError(signal.reason instanceof DOMException && signal.reason.name === 'TimeoutError' ? 'deadlineExceeded' : 'cancelled', 'the caller went away'));
  signal.addEventListener('abort', onAbort, { once: true });
  try {
    return await Promise.race([promise, aborted]);
  } finally {
    signal.removeEventListener('abort', onAbort);
  }
}
