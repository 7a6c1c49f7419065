/**
 * A layer on its way to the confined child, from any thread of the engine's process: the launcher looks at the process only.
 * In: encoded layer records. Out: the child's answer. Content goes from the thread that made it to the child; no other thread sees it.
 */
import { RuntimeError, codeOfErrno } from '#core';
import { ByteReader, errnoNameOf } from '#plan';
import { FrameConnection, openSocket } from './connection.io.ts';
import { type Frame, decodeFailure, frameTypes } from './frames.ts';

/** One running unpack child. */
export interface UnpackSession {
  /**
   * Encoded layer records, cut anywhere; the pieces are the session's to keep. Resolves when more may be written; throws what the child
   * answered when it has failed.
   */
  write(pieces: readonly Uint8Array[]): Promise<void>;
  /** After the `finish` record: the number of entries. Nothing is synced by that. Throws with the entry's path. */
  finish(): Promise<number>;
  /** Ends the child without an answer; what it wrote stays in the layer directory. No error after `finish`. */
  abort(): void;
}

/** What the child is given: where it writes, and an empty directory that it may mount on. */
export interface UnpackRequest {
  readonly layerDir: string;
  readonly rootDir: string;
}

/** `unpack the layer: etc/passwd: ENOSPC`; the detail names the entry. */
function unpackError(errno: string, detail: string): RuntimeError {
  return new RuntimeError(codeOfErrno(errno) ?? 'unknown', `unpack the layer: ${detail === '' ? '' : `${detail}: `}${errno}`, { errno });
}

/** Asks the launcher that listens at `socketPath` for a child. Throws unavailable when nobody listens. */
export async function openUnpackSession(socketPath: string, { layerDir, rootDir }: UnpackRequest, signal?: AbortSignal): Promise<UnpackSession> {
  return new Unpacking(new FrameConnection(await openSocket(socketPath, signal), 'unpack child'), layerDir, rootDir);
}

class Unpacking implements UnpackSession {
  readonly #connection: FrameConnection;
  readonly #result: Promise<Frame>;

  constructor(connection: FrameConnection, layerDir: string, rootDir: string) {
    this.#connection = connection;
    this.#result = connection.request(`unpack into ${layerDir}`, frameTypes.unpack, (out) => out.text(layerDir).text(rootDir));
    // Looked at by write and finish; until then a failure is not an unhandled one.
    this.#result.catch(() => {});
  }

  async write(pieces: readonly Uint8Array[]): Promise<void> {
    try {
      await this.#connection.sendPieces(pieces);
    } catch (error) {
      // The child answers before it ends the connection, and its answer says more than the broken pipe.
      await this.finish();
      throw error;
    }
  }

  async finish(): Promise<number> {
    try {
      const frame = await this.#result;
      if (frame.type !== frameTypes.failed) return new ByteReader(frame.payload).u32();
      const { errno, detail } = decodeFailure(frame.payload);
      throw unpackError(errnoNameOf(errno), detail);
    } finally {
      this.#connection.close();
    }
  }

  abort(): void {
    this.#connection.close();
  }
}
