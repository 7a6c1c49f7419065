/**
 * A layer's archive out of its blob. In: the blob, piece by piece. Out: the archive, piece by piece. The first bytes say how it is packed:
 * docker's archives hold gzip under the name of a plain tar, and a media type is only what somebody wrote.
 *
 * Inflating runs on a thread of the library, so the next piece is made while this one is looked at. A gzip file may have several members, a zstd
 * file several frames and frames to be skipped, as those have that can be read piecemeal.
 */
import type { Transform } from 'node:stream';
import { createGunzip, createZstdDecompress } from 'node:zlib';
import { RuntimeError, isAbort, limits, wrapError } from '#core';
import type { LayerCompression } from '#oci';

/** Large pieces, few at a time, and each handed on as it is: every piece costs a way to the library's thread and back. */
const options = { chunkSize: 256 * 1024, readableObjectMode: true, readableHighWaterMark: 4 } as const;
const ratioFreeBytes = 64 * 1024 * 1024;

/** How a blob that begins so is packed. Source: RFC 1952 section 2.3.1, RFC 8878 sections 3.1.1 and 3.1.2. */
export function compressionOf(head: Uint8Array): LayerCompression {
  if (head[0] === 0x1f && head[1] === 0x8b) return 'gzip';
  const [first = 0] = head;
  if (first === 0x28 && head[1] === 0xb5 && head[2] === 0x2f && head[3] === 0xfd) return 'zstd';
  if ((first & 0xf0) === 0x50 && head[1] === 0x2a && head[2] === 0x4d && head[3] === 0x18) return 'zstd';
  return 'none';
}

/** Throws resourceExhausted when little input became too much output; `doing` begins the message. */
export function assertRatio(inputBytes: number, outputBytes: number, doing = 'inflate layer'): void {
  if (outputBytes - ratioFreeBytes > inputBytes * limits.layerRatioMax)
    throw new RuntimeError('resourceExhausted', `${doing}: ${outputBytes} bytes from ${inputBytes}, at most ${limits.layerRatioMax} times as many`);
}

/** Resolves when the whole piece has been taken, so that its buffer may be used again, or when the target has ended. */
async function write(target: Transform, piece: Buffer): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  // The piece at which an inflater breaks gets no answer of its own.
  target.once('close', resolve);
  target.write(piece, (error) => (error === null || error === undefined ? resolve() : reject(error)));
  await promise;
  target.off('close', resolve);
}

/** What an archive is read from, in order; undefined at its end. A piece may be overwritten by the call after the next. */
export interface PieceSource {
  next(): Promise<Buffer | undefined>;
}

/** An archive being read. */
export interface Inflating {
  readonly compression: LayerCompression;
  /** The pieces are the caller's to keep. Throws invalidArgument where the packing is broken. */
  readonly pieces: AsyncGenerator<Buffer>;
}

/** Begins to read; the source is used by nobody else until the iteration has ended. `what` is named in errors about the packing. */
export async function inflate(reader: PieceSource, what: 'layer' | 'file' = 'layer'): Promise<Inflating> {
  const head = await reader.next();
  const compression = head === undefined ? 'none' : compressionOf(head);
  return { compression, pieces: compression === 'none' ? plain(reader, head) : unpacked(reader, head, { compression, what }) };
}

async function* plain(reader: PieceSource, head: Buffer | undefined): AsyncGenerator<Buffer> {
  // A copy: the reader uses its buffer again.
  for (let piece = head; piece !== undefined; piece = await reader.next()) yield Buffer.from(piece);
}

async function* unpacked(
  reader: PieceSource,
  head: Buffer | undefined,
  { compression, what }: { readonly compression: 'gzip' | 'zstd'; readonly what: 'layer' | 'file' },
): AsyncGenerator<Buffer> {
  const target: Transform = compression === 'gzip' ? createGunzip(options) : createZstdDecompress(options);
  let cause: Error | undefined;
  const feeding = (async () => {
    try {
      // One piece waits while another is inflated: the reader has two buffers.
      let before: Promise<void> = Promise.resolve();
      for (let piece = head; piece !== undefined && !target.destroyed; piece = await reader.next()) {
        const writing = write(target, piece);
        writing.catch(() => undefined);
        await before;
        before = writing;
      }
      await before;
      target.end();
    } catch (error) {
      // The reader's own failure is the reason; what the inflater says about being stopped is not.
      cause = error instanceof Error ? error : new Error(String(error));
      target.destroy();
    }
  })();
  try {
    for await (const chunk of target) {
      // SAFETY: no encoding is set, so the stream gives buffers.
      yield chunk as Buffer;
    }
    await feeding;
    if (cause !== undefined) throw cause;
  } catch (error) {
    target.destroy();
    await feeding;
    const reason = cause instanceof RuntimeError || isAbort(cause) ? cause : error;
    if (reason instanceof RuntimeError || isAbort(reason)) throw reason;
    throw wrapError(what === 'layer' ? `inflate ${compression} layer` : `inflate ${compression}`, reason, 'invalidArgument');
  } finally {
    target.destroy();
    await feeding;
  }
}
