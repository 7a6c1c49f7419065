/**
 * Frames over one socket. In: a connected socket. Out: frames, pulled one at a time so that a slow reader slows the writer; sends
 * that resolve when the kernel has the bytes. It knows no call, only frames.
 */
import type { Socket } from 'node:net';
import { RuntimeError, errnoName, errorMessage } from '#core';
import type { Frame, FrameName } from './frames.ts';
import { FrameDecoder, encodeFrameHeader } from './frames.ts';

/**
 * Every frame until the peer ends the connection. Throws unavailable when it breaks or ends inside a frame, invalidArgument for
 * bytes that are no frame. The socket stays open in every case, so that an error can still be answered.
 */
export async function* readFrames(socket: Socket): AsyncGenerator<Frame, void, void> {
  const decoder = new FrameDecoder();
  try {
    for await (const piece of socket.iterator({ destroyOnReturn: false })) {
      // SAFETY: a socket without an encoding yields Buffers; Readable's iterator is typed as any.
      yield* decoder.push(piece as Buffer);
    }
  } catch (error) {
    throw error instanceof RuntimeError ? error : connectionError(error);
  }
  if (!decoder.isBetweenFrames) throw new RuntimeError('unavailable', 'engine connection ended inside a frame');
}

/** Sends one frame. Resolves once the kernel has taken it, which is the back-pressure of this protocol. */
export async function sendFrame(socket: Socket, name: FrameName, payload: Uint8Array | string = ''): Promise<void> {
  const bytes = typeof payload === 'string' ? Buffer.from(payload) : payload;
  const header = encodeFrameHeader(name, bytes.length);
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const done = (error?: Error | null): void => (error ? reject(connectionError(error)) : resolve());
  socket.cork();
  if (bytes.length === 0) {
    socket.write(header, done);
  } else {
    socket.write(header);
    socket.write(bytes, done);
  }
  socket.uncork();
  await promise;
}

function connectionError(error: unknown): RuntimeError {
  const errno = errnoName(error);
  return new RuntimeError('unavailable', `engine connection lost: ${errno ?? errorMessage(error)}`, { cause: error, ...(errno === undefined ? {} : { errno }) });
}
