/**
 * The images that critest wants, under their own names, in a registry on the loopback interface. In: a registry's address and the layers that
 * image-trees.ts made. Out: repositories there; a certs.d directory that leads every registry's name to it. Docker's and OCI's formats are mixed,
 * and images for several architectures begin with one that this machine cannot run.
 */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { gunzipSync, gzipSync } from 'node:zlib';

const layerDirectory = new URL('../../build/conformance/layers', import.meta.url).pathname;

/** Layers that image-trees.ts makes. */
export type LayerFile = 'tools' | 'nginx' | 'nginx-12003' | 'httpd' | 'nnp' | 'pause' | 'groups';
/** `text:WORD` is a layer with one small file that differs by the word. */
type LayerName = LayerFile | `text:${string}`;

/** An image; tags of one entry name one and the same manifest. */
interface TestImage {
  readonly repository: string;
  readonly tags: readonly string[];
  readonly layers: readonly LayerName[];
  readonly config?: Readonly<Record<string, unknown>>;
  readonly format?: 'docker' | 'oci';
  /** Behind an index or a manifest list. */
  readonly multi?: boolean;
}

const shell = { Cmd: ['sh'] };
const staging = 'k8s-staging-cri-tools';
const nginx = { Cmd: ['nginx', '-g', 'daemon off;'], StopSignal: 'SIGTERM' };

/** An image of the staging registry that differs from others by its file alone. */
const marked = (repository: string, tags: readonly string[], word: string, more: Partial<TestImage> = {}): TestImage => ({
  repository: `${staging}/${repository}`,
  tags,
  layers: ['tools', `text:${word}`],
  config: shell,
  ...more,
});

/** An image of the staging registry with a default user. */
const withUser = (name: string, user: string): TestImage => ({
  repository: `${staging}/test-image-user-${name}`,
  tags: ['latest'],
  layers: ['tools', `text:${name}`],
  config: { ...shell, User: user },
  format: 'docker',
});

/** Repositories are named as below any registry; the registry's own name is lost at the mirror. */
const images: readonly TestImage[] = [
  { repository: 'pause', tags: ['3.9'], layers: ['pause'], config: { Entrypoint: ['/pause'], User: '65535:65535' }, format: 'docker', multi: true },
  // Another one for a peer's sandboxes, so that the suite may remove the first with all its tags.
  { repository: 'pause', tags: ['sandbox'], layers: ['pause', 'text:sandbox'], config: { Entrypoint: ['/pause'], User: '65535:65535' } },
  { repository: 'e2e-test-images/busybox', tags: ['1.29-2'], layers: ['tools'], config: shell, format: 'docker', multi: true },
  { repository: 'e2e-test-images/nginx', tags: ['1.14-2'], layers: ['tools', 'nginx'], config: nginx, multi: true },
  { repository: 'e2e-test-images/httpd', tags: ['2.4.39-4'], layers: ['tools', 'httpd'], config: { Cmd: ['httpd-foreground'] }, format: 'docker' },
  { repository: 'e2e-test-images/nonewprivs', tags: ['1.3'], layers: ['nnp'], config: { Entrypoint: ['/nnp'] }, multi: true },
  { repository: `${staging}/hostnet-nginx-amd64`, tags: ['latest'], layers: ['tools', 'nginx-12003'], config: nginx },
  marked('test-image-1', ['latest'], 'one', { format: 'docker' }),
  marked('test-image-2', ['latest'], 'two'),
  marked('test-image-3', ['latest'], 'three', { multi: true }),
  marked('test-image-latest', ['latest'], 'latest', { multi: true, format: 'docker' }),
  marked('test-image-tag', ['test'], 'test'),
  marked('test-image-tag', ['all'], 'all', { multi: true }),
  marked('test-image-tags', ['1', '2', '3'], 'tags', { format: 'docker' }),
  marked('test-image-digest', ['latest'], 'digest'),
  withUser('uid', '1002'),
  withUser('username', 'www-data'),
  withUser('uid-group', '1003:1004'),
  withUser('username-group', 'www-data:1004'),
  { repository: `${staging}/test-image-predefined-group`, tags: ['latest'], layers: ['tools', 'groups'], config: { ...shell, User: '1000' } },
  // Of the benchmark of listings, five small ones.
  ...['one', 'two', 'three', 'four', 'five'].map((word): TestImage => ({ repository: `bench/${word}`, tags: ['1'], layers: ['tools', `text:bench-${word}`], config: shell })),
];

/** The image for the sandboxes of a peer. */
export const sandboxImage = 'registry.k8s.io/pause:sandbox';
/** References for the benchmark of listings. */
export const benchmarkImages = ['one', 'two', 'three', 'four', 'five'].map((word) => `registry.k8s.io/bench/${word}:1`);

const mediaTypes = {
  docker: {
    manifest: 'application/vnd.docker.distribution.manifest.v2+json',
    list: 'application/vnd.docker.distribution.manifest.list.v2+json',
    config: 'application/vnd.docker.container.image.v1+json',
    layer: 'application/vnd.docker.image.rootfs.diff.tar.gzip',
  },
  oci: {
    manifest: 'application/vnd.oci.image.manifest.v1+json',
    list: 'application/vnd.oci.image.index.v1+json',
    config: 'application/vnd.oci.image.config.v1+json',
    layer: 'application/vnd.oci.image.layer.v1.tar+gzip',
  },
} as const;

interface Descriptor {
  readonly mediaType: string;
  readonly digest: string;
  readonly size: number;
}

const digestOf = (bytes: Buffer): string => `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
const describe = (bytes: Buffer, mediaType: string): Descriptor => ({ mediaType, digest: digestOf(bytes), size: bytes.length });

/** Writes blobs and manifests of one repository. */
export interface Repository {
  blob(bytes: Buffer): Promise<void>;
  /** Under its digest, or a tag. */
  manifest(name: string, bytes: Buffer, mediaType: string): Promise<void>;
}

/** A repository of a registry that speaks plain HTTP. */
export function openRepository(address: string, name: string): Repository {
  const base = `http://${address}/v2/${name}`;
  return {
    blob: async (bytes) => {
      const digest = digestOf(bytes);
      if ((await fetch(`${base}/blobs/${digest}`, { method: 'HEAD' })).status === 200) return;
      const start = await fetch(`${base}/blobs/uploads/`, { method: 'POST' });
      assert.equal(start.status, 202);
      const location = new URL(start.headers.get('location') ?? '', base);
      location.searchParams.set('digest', digest);
      const end = await fetch(location, { method: 'PUT', body: Uint8Array.from(bytes), headers: { 'content-type': 'application/octet-stream' } });
      assert.equal(end.status, 201, await end.text());
    },
    manifest: async (tag, bytes, mediaType) => {
      const answer = await fetch(`${base}/manifests/${tag}`, { method: 'PUT', body: Uint8Array.from(bytes), headers: { 'content-type': mediaType } });
      assert.equal(answer.status, 201, await answer.text());
    },
  };
}

/** A ustar archive with the regular file `WORD.txt`. */
function textArchive(word: string): Buffer {
  const content = `${word}\n`;
  const block = Buffer.alloc(1024);
  const octal = (value: number, digits: number): string => value.toString(8).padStart(digits, '0');
  block.write(`${word}.txt`, 0, 100);
  block.write([octal(0o644, 7), octal(0, 7), octal(0, 7), octal(content.length, 11), octal(0, 11), '        0'].join('\0'), 100);
  block.write(['ustar', '00'].join('\0'), 257);
  const sum = block.subarray(0, 512).reduce((total, byte) => total + byte, 0);
  block.write(`${octal(sum, 6)}\0 `, 148);
  block.write(content, 512);
  return Buffer.concat([block, Buffer.alloc(1024)]);
}

/** Layers by name, each read or made once. */
class Layers {
  readonly #known = new Map<LayerName, { readonly diffId: string; readonly bytes: Buffer }>();

  get(name: LayerName): { readonly diffId: string; readonly bytes: Buffer } {
    const known = this.#known.get(name);
    if (known !== undefined) return known;
    const isText = name.startsWith('text:');
    const archive = isText ? textArchive(name.slice(5)) : undefined;
    const bytes = archive === undefined ? readFileSync(join(layerDirectory, `${name}.tar.gz`)) : gzipSync(archive);
    const layer = { diffId: digestOf(archive ?? gunzipSync(bytes)), bytes };
    this.#known.set(name, layer);
    return layer;
  }
}

async function putImage(repository: Repository, image: TestImage, layers: Layers): Promise<void> {
  const { tags, config = {}, format = 'oci', multi = false } = image;
  const types = mediaTypes[format];
  const put = async (architecture: string): Promise<{ readonly bytes: Buffer; readonly descriptor: Descriptor }> => {
    const parts = image.layers.map((name) => layers.get(name));
    const document = {
      architecture,
      os: 'linux',
      created: '2026-01-01T00:00:00Z',
      config: { Env: ['PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'], ...config },
      rootfs: { type: 'layers', diff_ids: parts.map(({ diffId }) => diffId) },
      history: parts.map((_, index) => ({ created: '2026-01-01T00:00:00Z', created_by: `layer ${index}` })),
    };
    const configBytes = Buffer.from(JSON.stringify(document));
    for (const { bytes } of parts) await repository.blob(bytes);
    await repository.blob(configBytes);
    const manifest = {
      schemaVersion: 2,
      mediaType: types.manifest,
      config: describe(configBytes, types.config),
      layers: parts.map(({ bytes }) => describe(bytes, types.layer)),
    };
    const bytes = Buffer.from(JSON.stringify(manifest));
    return { bytes, descriptor: describe(bytes, types.manifest) };
  };
  let document = (await put('amd64')).bytes;
  if (multi) {
    const manifests: unknown[] = [];
    for (const architecture of ['s390x', 'amd64']) {
      const { bytes, descriptor } = await put(architecture);
      await repository.manifest(descriptor.digest, bytes, types.manifest);
      manifests.push({ ...descriptor, platform: { architecture, os: 'linux' } });
    }
    document = Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: types.list, manifests }));
  }
  for (const tag of tags) await repository.manifest(tag, document, multi ? types.list : types.manifest);
}

/** Makes every image and puts it where `open` says. */
export async function putImages(open: (repository: string) => Repository): Promise<void> {
  const layers = new Layers();
  for (const image of images) await putImage(open(image.repository), image, layers);
}

/** Makes a certs.d directory that leads every registry to this one. */
export function writeMirrors(directory: string, address: string): void {
  mkdirSync(join(directory, '_default'), { recursive: true });
  writeFileSync(join(directory, '_default/hosts.toml'), `[host."http://${address}"]\ncapabilities = ["pull", "resolve"]\n`);
}
