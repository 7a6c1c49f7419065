/**
 * Images for bad-input tests, pushed to a real registry blob by blob, so that a manifest may say what no tool would write. In: a registry's
 * address. Out: documents and descriptors; what a store shows after a failure.
 */
import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { createReadStream, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { gzipSync } from 'node:zlib';
import type { ImageStore } from '#image';
import { type Misdeed } from './faulty-proxy.ts';
import { digestOf, tarOf } from './image-host.ts';

/** What a manifest says about a blob. */
export interface RawDescriptor {
  readonly mediaType: string;
  readonly digest: string;
  readonly size: number;
}

export const types = {
  manifest: 'application/vnd.oci.image.manifest.v1+json',
  index: 'application/vnd.oci.image.index.v1+json',
  config: 'application/vnd.oci.image.config.v1+json',
  gzip: 'application/vnd.oci.image.layer.v1.tar+gzip',
  zstd: 'application/vnd.oci.image.layer.v1.tar+zstd',
  tar: 'application/vnd.oci.image.layer.v1.tar',
} as const;

/** A layer as it is pushed, and the digest of its archive. */
export interface RawLayer {
  readonly bytes: Buffer;
  readonly diffId: string;
  readonly mediaType: string;
}

/** The archive, compressed by gzip. */
export const gzipLayer = (tar: Buffer): RawLayer => ({ bytes: gzipSync(tar), diffId: digestOf(tar), mediaType: types.gzip });

/** A layer with one small file. */
export const textLayer = (text: string): RawLayer => gzipLayer(tarOf(`mkdir -p etc; echo ${text} > etc/text`));

/** Header of a ustar entry with a short name; a regular file unless said otherwise. */
export function header(path: string, options: { readonly size?: number; readonly type?: string; readonly mode?: string } = {}): Buffer {
  const { size = 0, type = '0', mode = '644' } = options;
  const block = Buffer.alloc(512);
  block.write(path, 0, 100);
  block.write([mode.padStart(7, '0'), '0000000', '0000000', size.toString(8).padStart(11, '0'), '0'.repeat(11), `        ${type}`].join('\0'), 100);
  block.write(['ustar', '00'].join('\0'), 257);
  const sum = block.reduce((total, byte) => total + byte, 0);
  block.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148);
  return block;
}

/** Two empty blocks. */
export const endOfArchive = Buffer.alloc(1024);

/** A layer with one file `random` of so many bytes, which no compression makes smaller. */
export function randomLayer(bytes: number): RawLayer {
  const padding = Buffer.alloc((512 - (bytes % 512)) % 512);
  return gzipLayer(Buffer.concat([header('random', { size: bytes }), randomBytes(bytes), padding, endOfArchive]));
}

/** One repository of a registry. */
export class RawRepository {
  readonly address: string;
  readonly name: string;

  constructor(address: string, name: string) {
    this.address = address;
    this.name = name;
  }

  /** Pushes a blob in one piece. */
  async blob(bytes: Buffer, mediaType: string): Promise<RawDescriptor> {
    const digest = digestOf(bytes);
    const start = await fetch(`http://${this.address}/v2/${this.name}/blobs/uploads/`, { method: 'POST' });
    assert.equal(start.status, 202);
    const location = new URL(start.headers.get('location') ?? '', `http://${this.address}`);
    location.searchParams.set('digest', digest);
    const end = await fetch(location, { method: 'PUT', body: Uint8Array.from(bytes), headers: { 'content-type': 'application/octet-stream' } });
    assert.equal(end.status, 201, await end.text());
    return { mediaType, digest, size: bytes.length };
  }

  /** Pushes the blobs of an image and gives the manifest, which is not pushed. */
  async image(
    layers: readonly RawLayer[],
    options: { readonly diffIds?: readonly string[]; readonly config?: Buffer } = {},
  ): Promise<{
    readonly config: RawDescriptor;
    readonly layers: readonly RawDescriptor[];
    readonly manifest: Buffer;
  }> {
    const document = { os: 'linux', architecture: 'amd64', config: {}, rootfs: { type: 'layers', diff_ids: options.diffIds ?? layers.map(({ diffId }) => diffId) } };
    const config = await this.blob(options.config ?? Buffer.from(JSON.stringify(document)), types.config);
    const descriptors: RawDescriptor[] = [];
    for (const { bytes, mediaType } of layers) descriptors.push(await this.blob(bytes, mediaType));
    return { config, layers: descriptors, manifest: manifestOf(config, descriptors) };
  }

  /** Pushes a manifest under a tag. */
  async push(tag: string, manifest: Buffer, mediaType: string = types.manifest): Promise<void> {
    const answer = await fetch(`http://${this.address}/v2/${this.name}/manifests/${tag}`, {
      method: 'PUT',
      body: Uint8Array.from(manifest),
      headers: { 'content-type': mediaType },
    });
    assert.equal(answer.status, 201, await answer.text());
  }
}

/** A manifest's text. */
export function manifestOf(config: RawDescriptor, layers: readonly RawDescriptor[], more: Readonly<Record<string, unknown>> = {}): Buffer {
  return Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: types.manifest, config, layers, ...more }));
}

/** An index's text. */
export function indexOf(manifests: readonly RawDescriptor[], more: Readonly<Record<string, unknown>> = {}): Buffer {
  const entries = manifests.map((descriptor) => ({ ...descriptor, platform: { os: 'linux', architecture: 'amd64' } }));
  return Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: types.index, manifests: entries, ...more }));
}

/** What a descriptor of these bytes says. */
export const describe = (bytes: Buffer, mediaType: string): RawDescriptor => ({ mediaType, digest: digestOf(bytes), size: bytes.length });

/** Serves these documents as manifests, by their digests and one of them as every tag; the rest is the registry's. */
export function serving(tagged: Buffer, others: readonly Buffer[] = []): Misdeed {
  return ({ asked, isManifest, answer }) => {
    if (!isManifest) return false;
    const name = asked.url.split('/').at(-1) ?? '';
    const document = name.startsWith('sha256:') ? [tagged, ...others].find((bytes) => digestOf(bytes) === name) : tagged;
    if (document === undefined) return false;
    const isIndex = document.includes('"manifests"');
    answer.writeHead(200, { 'content-type': isIndex ? types.index : types.manifest, 'content-length': document.length }).end(document);
    return true;
  };
}

/** Fails unless every blob below the content directory has the digest that it is named by, and the store finds nothing wrong. */
export async function assertSound(store: ImageStore, stateDir: string): Promise<void> {
  for (const algorithm of ['sha256', 'sha512']) {
    for (const name of readdirSync(join(stateDir, 'content', algorithm))) {
      const hash = createHash(algorithm);
      await pipeline(createReadStream(join(stateDir, 'content', algorithm, name)), hash);
      assert.equal(hash.digest('hex'), name, 'a blob is what its name says');
    }
  }
  const report = await store.verify();
  assert.deepEqual(
    report.images.flatMap(({ problems }) => problems),
    [],
  );
}
