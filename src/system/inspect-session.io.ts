/**
 * What a layer's directory holds, as the confined child sees it, from any thread of the engine's process. In: the directory. Out: its entries and the
 * content of its files, through a handler. Nobody on this side resolves a path of the tree.
 */
import { RuntimeError, codeOfErrno } from '#core';
import { ByteReader, encodeLayerRecord, errnoNameOf } from '#plan';
import { FrameConnection, openSocket } from './connection.io.ts';
import { decodeFailure, frameTypes } from './frames.ts';
import type { UnpackRequest } from './unpack-session.io.ts';

/** One entry of a tree. Text is what the bytes on disk are in UTF-8. */
export interface InspectedEntry {
  /** Relative, without a slash before or after. */
  readonly path: string;
  /** Type and permissions, as in stat(2). */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly mtimeNs: bigint;
  readonly sizeBytes: bigint;
  readonly device: { readonly major: number; readonly minor: number };
  /** Equal for the names of one file. */
  readonly inode: bigint;
  /** Of a symbolic link. */
  readonly target: string;
  readonly xattrs: readonly { readonly name: string; readonly value: Uint8Array }[];
}

/** Receives a tree, in no order. After the entry of a regular file comes its content, unless another of its names came before. */
export interface InspectHandler {
  entry(entry: InspectedEntry): void;
  /** The bytes are valid during the call; an empty piece is the content's end. */
  content(chunk: Uint8Array): void;
}

/** Looks at everything below a layer directory. Resolves with the number of entries; throws with the path that could not be read. */
export async function inspectLayer(socketPath: string, request: UnpackRequest, handler: InspectHandler, signal?: AbortSignal): Promise<number> {
  const connection = new FrameConnection(await openSocket(socketPath, signal), 'inspecting child');
  const abort = (): void => connection.close();
  signal?.addEventListener('abort', abort, { once: true });
  let failure: { readonly error: unknown } | undefined;
  const onFrame = ({ type, payload }: { readonly type: number; readonly payload: Buffer }): boolean => {
    if (type !== frameTypes.layerEntry && type !== frameTypes.layerContent) return false;
    if (failure !== undefined) return true;
    try {
      if (type === frameTypes.layerEntry) handler.entry(decodeEntry(payload));
      else handler.content(payload);
    } catch (error) {
      failure = { error };
      connection.close();
    }
    return true;
  };
  try {
    const { layerDir, rootDir } = request;
    const answer = connection.together(() => {
      const asked = connection.request(`inspect ${layerDir}`, frameTypes.unpack, (out) => out.text(layerDir).text(rootDir), onFrame);
      connection.sendPieces([encodeLayerRecord({ op: 'inspect' })]).catch(() => undefined);
      return asked;
    });
    const frame = await answer;
    if (frame.type !== frameTypes.failed) return new ByteReader(frame.payload).u32();
    const { errno, detail } = decodeFailure(frame.payload);
    const name = errnoNameOf(errno);
    throw new RuntimeError(codeOfErrno(name) ?? 'unknown', `read ${detail === '' ? 'the layer' : JSON.stringify(detail)}: ${name}`, { errno: name });
  } catch (error) {
    signal?.throwIfAborted();
    throw failure === undefined ? error : failure.error;
  } finally {
    signal?.removeEventListener('abort', abort);
    connection.close();
  }
}

function decodeEntry(payload: Buffer): InspectedEntry {
  const input = new ByteReader(payload);
  const path = input.text();
  const [mode, uid, gid] = [input.u32(), input.u32(), input.u32()];
  const [mtimeNs, sizeBytes] = [input.i64(), input.i64()];
  const device = { major: input.u32(), minor: input.u32() };
  const inode = input.i64();
  const target = input.text();
  const xattrs: { name: string; value: Uint8Array }[] = [];
  for (let left = input.u32(); left > 0; left -= 1) xattrs.push({ name: input.text(), value: Uint8Array.from(input.bytes()) });
  return { path, mode, uid, gid, mtimeNs, sizeBytes, device, inode, target, xattrs };
}
