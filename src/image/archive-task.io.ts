/**
 * An archive of images → an OCI layout in a directory of ours, in a worker thread. In: a tar of an OCI layout or what `docker save` wrote, as it is or
 * packed with gzip or zstd. Out: `index.json` and blobs under the digests of their content, whatever the members were called.
 *
 * No name of the archive becomes a path. A member that calls itself a blob must have that digest.
 */
import { type Hash, createHash } from 'node:crypto';
import { type FileHandle, mkdir, open, rename, writeFile } from 'node:fs/promises';
import { RuntimeError, limits } from '#core';
import { type Digest, digestOf, isDigest, mediaTypes } from '#oci';
import { readPieces } from './content.io.ts';
import { type ArchiveMember, convertDockerArchive, memberPath } from './docker-archive.ts';
import { assertRatio, compressionOf, inflate } from './inflate.io.ts';
import type { TarEntry } from './tar-header.ts';
import { type TarHandler, TarReader } from './tar.ts';
import type { ExtractTask } from './worker-messages.ts';

const readBytes = 1024 * 1024;
/** Documents at the top of an archive; each is read whole. */
const topNames = ['index.json', 'manifest.json', 'oci-layout'];

/** A file's bytes, unpacked; the packed ones are counted in `counter`. Errors come out of the iteration. */
export async function* readInflated(path: string, counter: { bytes: number }, signal: AbortSignal): AsyncGenerator<Buffer> {
  const pieces = readPieces(path, readBytes, signal);
  const next = async (): Promise<Buffer | undefined> => {
    const { value, done } = await pieces.next();
    if (done === true) return undefined;
    counter.bytes += value.length;
    return value;
  };
  try {
    yield* (await inflate({ next }, 'file')).pieces;
  } finally {
    await pieces.return(undefined);
  }
}

/** Content of one member on its way to its blob. */
interface OpenMember {
  readonly path: string;
  readonly temporary: string;
  readonly file: FileHandle;
  readonly algorithm: 'sha256' | 'sha512';
  readonly hash: Hash;
  readonly head: number[];
  sizeBytes: number;
  /** Kept for documents at the top. */
  readonly bytes: Uint8Array[] | undefined;
}

/** Writes members below `directory`, in the order of what the reader said. */
class MemberWriter implements TarHandler {
  readonly members = new Map<string, ArchiveMember>();
  readonly documents = new Map<string, Buffer>();
  readonly #directory: string;
  #pending: ({ readonly entry: TarEntry } | { readonly data: Uint8Array })[] = [];
  #open: OpenMember | undefined;
  #count = 0;
  #contentBytes = 0;

  constructor(directory: string) {
    this.#directory = directory;
  }

  /** Bytes of all members, holes included. */
  get contentBytes(): number {
    return this.#contentBytes;
  }

  entry(entry: TarEntry): void {
    this.#count += 1;
    if (this.#count > limits.archiveMembersMax) throw new RuntimeError('resourceExhausted', `read archive: more than ${limits.archiveMembersMax} members`);
    this.#pending.push({ entry });
  }

  data(chunk: Uint8Array): void {
    this.#contentBytes += chunk.length;
    // A copy: the reader uses its piece again.
    this.#pending.push({ data: Uint8Array.from(chunk) });
  }

  async drain(): Promise<void> {
    for (const item of this.#pending.splice(0)) {
      if ('entry' in item) await this.#begin(item.entry);
      else await this.#write(item.data);
    }
  }

  async finish(): Promise<void> {
    await this.drain();
    await this.#end();
  }

  /** Gives an open file back after a failure. */
  async abort(): Promise<void> {
    await this.#open?.file.close();
    this.#open = undefined;
  }

  async #begin(entry: TarEntry): Promise<void> {
    await this.#end();
    const path = memberPath(entry.path);
    if (path === undefined) {
      if (entry.type === 'directory') return;
      throw new RuntimeError('invalidArgument', `read archive: the member ${JSON.stringify(entry.path.slice(0, 300))} leads out of it`);
    }
    if (entry.type === 'link' || entry.type === 'hardLink') this.members.set(path, { kind: entry.type, target: entry.linkTarget });
    if (entry.type !== 'file') return;
    const temporary = `${this.#directory}/blobs/member`;
    const algorithm = path.startsWith('blobs/sha512/') ? 'sha512' : 'sha256';
    const isDocument = topNames.includes(path);
    if (isDocument && entry.sizeBytes > limits.manifestBytesMax)
      throw new RuntimeError('resourceExhausted', `read archive: ${path} has ${entry.sizeBytes} bytes, at most ${limits.manifestBytesMax}`);
    this.#open = { path, temporary, file: await open(temporary, 'w', 0o600), algorithm, hash: createHash(algorithm), head: [], sizeBytes: 0, bytes: isDocument ? [] : undefined };
  }

  async #write(data: Uint8Array): Promise<void> {
    const member = this.#open;
    if (member === undefined) return;
    member.sizeBytes += data.length;
    member.hash.update(data);
    if (member.head.length < 4) member.head.push(...data.subarray(0, 4));
    member.bytes?.push(data);
    await member.file.writeFile(data);
  }

  async #end(): Promise<void> {
    const member = this.#open;
    if (member === undefined) return;
    this.#open = undefined;
    await member.file.close();
    const digest = digestOf(member.algorithm, member.hash.digest('hex'));
    const claimed = /^blobs\/(sha256|sha512)\/([0-9a-f]+)$/.exec(member.path)?.slice(1).join(':') ?? '';
    if (isDigest(claimed) && claimed !== digest) throw new RuntimeError('dataLoss', `verify blob ${claimed}: the content is ${digest}`);
    await rename(member.temporary, `${this.#directory}/blobs/${digest.replace(':', '/')}`);
    this.members.set(member.path, { kind: 'file', digest, sizeBytes: member.sizeBytes, compression: compressionOf(Uint8Array.from(member.head)) });
    if (member.bytes !== undefined) this.documents.set(member.path, Buffer.concat(member.bytes));
  }
}

/** Reads the archive into an empty directory of ours. Throws invalidArgument for what is no archive of images, resourceExhausted, dataLoss. */
export async function runExtractTask(task: ExtractTask, signal: AbortSignal): Promise<void> {
  for (const name of ['', '/blobs', '/blobs/sha256', '/blobs/sha512']) await mkdir(`${task.directory}${name}`, { recursive: true, mode: 0o700 });
  const writer = new MemberWriter(task.directory);
  try {
    await readMembers(task.archivePath, writer, signal);
    await writer.finish();
  } finally {
    await writer.abort();
  }
  await writeFile(`${task.directory}/index.json`, await indexOf(writer, task.directory), { mode: 0o600 });
}

async function readMembers(path: string, writer: MemberWriter, signal: AbortSignal): Promise<void> {
  const reader = new TarReader(writer);
  const counter = { bytes: 0 };
  let inflatedBytes = 0;
  for await (const chunk of readInflated(path, counter, signal)) {
    inflatedBytes += chunk.length;
    assertRatio(counter.bytes, inflatedBytes, 'read archive');
    // A pause for each piece of a hole, of which a small archive can have many gigabytes.
    for (const _pause of reader.feed(chunk)) {
      signal.throwIfAborted();
      assertRatio(counter.bytes, writer.contentBytes, 'read archive');
      await writer.drain();
    }
    await writer.drain();
  }
  reader.finish();
}

/** The layout's index: its own, or one made from what docker wrote. Who writes both means the same by them. */
async function indexOf(writer: MemberWriter, directory: string): Promise<Buffer> {
  const [index, dockerManifest] = [writer.documents.get('index.json'), writer.documents.get('manifest.json')];
  if (index !== undefined && (writer.documents.has('oci-layout') || dockerManifest === undefined)) return index;
  if (dockerManifest === undefined) throw new RuntimeError('invalidArgument', 'read archive: it has neither index.json nor manifest.json, so it is no archive of images');
  const entries: unknown[] = [];
  for (const { manifest, tags } of convertDockerArchive(dockerManifest, writer.members)) {
    const digest: Digest = digestOf('sha256', createHash('sha256').update(manifest).digest('hex'));
    await writeFile(`${directory}/blobs/${digest.replace(':', '/')}`, manifest, { mode: 0o600 });
    const descriptor = { mediaType: mediaTypes.ociManifest, digest, size: manifest.length };
    if (tags.length === 0) entries.push(descriptor);
    for (const tag of tags) entries.push({ ...descriptor, annotations: { 'io.containerd.image.name': tag } });
  }
  return Buffer.from(JSON.stringify({ schemaVersion: 2, manifests: entries }));
}
