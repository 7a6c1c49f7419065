/**
 * The layer stream: what the confined unpack child reads, one record per entry, and what it answers.
 * `image` compiles a tar stream to these records; the child executes them below one directory and knows no tar.
 *
 * A record is `u8 op, u8[3] 0, u32 bodyLength, body`; all bodies are at most 1 MiB, file content follows in `data` records.
 * Paths are relative, without empty, `.` or `..` components; the child checks that again and resolves them with
 * RESOLVE_BENEATH|RESOLVE_NO_SYMLINKS below the layer directory, so that a linked parent is an error.
 */
import { ByteWriter } from './bytes.ts';

/** Record numbers of the wire. */
export const layerOps = { directory: 1, file: 2, data: 3, link: 4, hardLink: 5, node: 6, whiteout: 7, opaque: 8, finish: 9, style: 10, inspect: 11, root: 12 } as const;

/** What every entry carries. Times are nanoseconds since the epoch; xattr names are whole (`security.capability`). */
export interface LayerEntryAttributes {
  readonly path: string;
  /** Permission bits only, 0 to 0o7777. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly mtimeNs: bigint;
  readonly xattrs: readonly { readonly name: string; readonly value: Uint8Array }[];
}

/**
 * How a layer speaks to an overlay. `trusted`: attributes `trusted.overlay.*` and whiteouts as character devices 0:0. `user`: attributes
 * `user.overlay.*`, for an overlay mounted with `userxattr`, as one in a user namespace must be. `userFiles`: so too, and whiteouts are marked empty
 * files, for where the device cannot be made; Linux 6.8 and later read them.
 */
export type OverlayStyle = 'trusted' | 'user' | 'userFiles';
/** Numbers of the wire. */
const overlayStyles: Readonly<Record<OverlayStyle, number>> = { trusted: 0, user: 1, userFiles: 2 };

/** One record of the stream; see docs/native.md for how the child answers. */
export type LayerRecord =
  /** Made, or its attributes replaced when it exists as a directory; anything else in its place is removed first. Missing parents are made as 0755 root. */
  | ({ readonly op: 'directory' } & LayerEntryAttributes)
  /** Attributes of the layer's own root, which no path names. They replace what it has; its time is set with `finish`, like that of other directories. */
  | ({ readonly op: 'root' } & Omit<LayerEntryAttributes, 'path'>)
  /** Begins a regular file of exactly `size` bytes; `data` records follow. Replaces what is there. */
  | ({ readonly op: 'file'; readonly size: bigint } & LayerEntryAttributes)
  | { readonly op: 'data'; readonly data: Uint8Array }
  | ({ readonly op: 'link'; readonly target: string } & LayerEntryAttributes)
  /** A hard link to an entry of the same layer; `target` is a path like `path`. */
  | { readonly op: 'hardLink'; readonly path: string; readonly target: string }
  /** Character (0o020000), block (0o060000) device or FIFO (0o010000); the type is in `type`. */
  | ({ readonly op: 'node'; readonly type: number; readonly major: number; readonly minor: number } & LayerEntryAttributes)
  /** First of all records or never: the style of the layer; without it `trusted`. */
  | { readonly op: 'style'; readonly style: OverlayStyle }
  /** An overlay whiteout at `path`: a character device 0:0, or as the style says. */
  | { readonly op: 'whiteout'; readonly path: string }
  /** Marks the directory `path` opaque with `trusted.overlay.opaque`, or as the style says; made when missing. */
  | { readonly op: 'opaque'; readonly path: string }
  /** Directory times are set now and the child answers. Nothing is synced: that is done once for all layers of an image (`syncFileSystem`). */
  | { readonly op: 'finish' }
  /** Instead of all others: the child tells what the directory holds and ends. */
  | { readonly op: 'inspect' };

function writeAttributes(out: ByteWriter, entry: LayerEntryAttributes): void {
  out.text(entry.path);
  writeFields(out, entry);
}

function writeFields(out: ByteWriter, entry: Omit<LayerEntryAttributes, 'path'>): void {
  out.u32(entry.mode).u32(entry.uid).u32(entry.gid).i64(entry.mtimeNs).u32(entry.xattrs.length);
  for (const { name, value } of entry.xattrs) out.text(name).bytes(value);
}

/** Beginning of a record whose body of so many bytes follows from elsewhere: content is not copied for its record. */
export function encodeLayerRecordHeader(op: LayerRecord['op'], bodyBytes: number): Buffer {
  const header = Buffer.allocUnsafe(8);
  header.writeUInt32LE(layerOps[op], 0);
  header.writeUInt32LE(bodyBytes, 4);
  return header;
}

/** One record as bytes. Field order: path, mode, uid, gid, mtimeNs, xattr count and pairs, then the op's own fields; `root` has no path. */
export function encodeLayerRecord(record: LayerRecord): Buffer {
  const out = new ByteWriter();
  out.u8(layerOps[record.op]).u8(0).u16(0).u32(0);
  switch (record.op) {
    case 'directory':
      writeAttributes(out, record);
      break;
    case 'root':
      writeFields(out, record);
      break;
    case 'file':
      writeAttributes(out, record);
      out.u64(record.size);
      break;
    case 'data':
      out.raw(record.data);
      break;
    case 'link':
      writeAttributes(out, record);
      out.text(record.target);
      break;
    case 'hardLink':
      out.text(record.path).text(record.target);
      break;
    case 'node':
      writeAttributes(out, record);
      out.u32(record.type).u32(record.major).u32(record.minor);
      break;
    case 'style':
      out.u32(overlayStyles[record.style]);
      break;
    case 'whiteout':
    case 'opaque':
      out.text(record.path);
      break;
    case 'finish':
    case 'inspect':
      break;
  }
  out.setU32(4, out.length - 8);
  return out.take();
}
