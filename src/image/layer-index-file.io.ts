/**
 * A layer's index on disk. In: what was placed, and the content of files as it passes. Out: a compressed file of lines, not synced; and from such a file
 * the tree again. Knows nothing of archives.
 */
import { createHash, hash as hashOnce } from 'node:crypto';
import { createWriteStream, readFileSync } from 'node:fs';
import { pipeline } from 'node:stream/promises';
import { createZstdCompress, zstdDecompressSync } from 'node:zlib';
import { wrapError } from '#core';
import type { PlacedEntry } from './layer-compiler.ts';
import { decodeIndexTree, encodeIndexLine } from './layer-index.ts';
import type { DirectoryNode } from './layer-tree.ts';

const batchChars = 256 * 1024;

/** Writes index lines, each file's line once its checksum is known. */
export class IndexWriter {
  readonly #compress = createZstdCompress();
  readonly #finished: Promise<void>;
  #file: PlacedEntry | undefined;
  /** The only piece of content of the file so far: most files come in one piece, and hashing that at once is cheaper. */
  #piece: Uint8Array | undefined;
  #hash: ReturnType<typeof createHash> | undefined;
  #text = '';

  constructor(path: string) {
    this.#finished = pipeline(this.#compress, createWriteStream(path, { flags: 'w', mode: 0o600 }));
    this.#finished.catch(() => undefined);
  }

  placed(placed: PlacedEntry): void {
    this.#closeFile();
    if (placed.kind === 'file') this.#file = placed;
    else this.#line(encodeIndexLine(placed));
  }

  /** The next piece of the file placed last; it must not change any more. */
  data(chunk: Uint8Array): void {
    if (this.#file === undefined) return;
    this.#hashPiece();
    this.#piece = chunk;
  }

  #hashPiece(): void {
    if (this.#piece === undefined) return;
    this.#hash ??= createHash('sha256');
    this.#hash.update(this.#piece);
    this.#piece = undefined;
  }

  #closeFile(): void {
    if (this.#file === undefined) return;
    if (this.#hash !== undefined) this.#hashPiece();
    this.#line(encodeIndexLine(this.#file, this.#hash?.digest('hex') ?? hashOnce('sha256', this.#piece ?? noBytes, 'hex')));
    this.#file = undefined;
    this.#piece = undefined;
    this.#hash = undefined;
  }

  #line(line: string): void {
    this.#text += line;
    if (this.#text.length < batchChars) return;
    this.#compress.write(this.#text);
    this.#text = '';
  }

  /** Resolves when the file is written. Throws what the disk says. */
  async finish(): Promise<void> {
    this.#closeFile();
    this.#compress.end(this.#text);
    await this.#finished;
  }

  /** Gives up; the file that was begun is the caller's to remove. Resolves when nothing is written any more. */
  async abort(): Promise<void> {
    this.#compress.destroy();
    await this.#finished.catch(() => undefined);
  }
}

const noBytes = new Uint8Array(0);

/** Reads an index file as its lines. Throws dataLoss. */
export function readIndexText(path: string): string {
  try {
    return zstdDecompressSync(readFileSync(path)).toString('utf8');
  } catch (cause) {
    throw wrapError(`read layer index ${path}`, cause, 'dataLoss');
  }
}

/** Reads an index file as a tree. Throws dataLoss. */
export function readIndexTree(path: string): DirectoryNode {
  try {
    return decodeIndexTree(readIndexText(path));
  } catch (cause) {
    throw wrapError(`read layer index ${path}`, cause, 'dataLoss');
  }
}
