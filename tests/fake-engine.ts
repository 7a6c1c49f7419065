/** A stand-in for the engine in tests of the doors. In: the methods that a test cares about. Out: an Engine whose other methods fail. */
import { RuntimeError } from '#core';
import type { Engine } from '#pod';

/** An engine with `methods`; every other one rejects with unimplemented and names itself. */
export function fakeEngine(methods: Partial<Engine>): Engine {
  const missing = new Proxy(
    {},
    {
      get: (_, name) => (): never => {
        throw new RuntimeError('unimplemented', `fake engine: ${String(name)}`);
      },
    },
  );
  // SAFETY: the proxy answers every method name, if only with an error.
  return Object.assign(Object.create(missing) as Engine, methods);
}
