/**
 * Connections that stay open after their answer. In: a connection. Out: how it ended. A client's session and its foreground pods last as
 * long as such a connection, because the kernel closes it whatever way the client ends. It knows no method of the engine.
 */
import type { Socket } from 'node:net';
import type { Frame } from './frames.ts';

/** One connection of a client with what comes from it. */
export interface CallConnection {
  readonly socket: Socket;
  readonly frames: AsyncGenerator<Frame, void, void>;
  /** Aborts the call of this connection. */
  readonly controller: AbortController;
}

/** Waits until the client's side of the connection ends (`gone`), or until the engine closes. Anything the client still says ends it too. */
export async function connectionEnd({ frames }: Pick<CallConnection, 'frames'>, closing: AbortSignal): Promise<'gone' | 'closing'> {
  if (closing.aborted) return 'closing';
  const { promise, resolve } = Promise.withResolvers<'gone' | 'closing'>();
  const onClosing = (): void => resolve('closing');
  closing.addEventListener('abort', onClosing, { once: true });
  const gone = (): void => resolve('gone');
  frames.next().then(gone, gone);
  try {
    return await promise;
  } finally {
    closing.removeEventListener('abort', onClosing);
  }
}
