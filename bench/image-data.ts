/**
 * The images of the image benchmark: made from a fixed seed, so that every machine measures the same bytes, and kept in the data
 * directory of a registry below build/. In: megabytes of content. Out: that directory, filled once.
 *
 * Content is a mix as in real images: text (gzip leaves a quarter to a third), code-like tables (about half), and what is packed
 * already (all of it). Sizes of files follow a long tail: many of a few KiB, few of some MiB.
 */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { createWriteStream, existsSync, mkdirSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { createGzip } from 'node:zlib';
import { encodeTarHeader, tarEnd, tarPadding } from '../src/image/tar-writer.ts';

/** Changes whenever the bytes of the images do. */
const generation = 2;
const mebibyte = 1024 * 1024;

/** What is measured, by repository name. */
export const benchImages = {
  single: 'one layer',
  many: '20 layers, as large together',
  small: '50,000 small files',
} as const;
export type BenchImage = keyof typeof benchImages;

/** xorshift32: fast, the same everywhere. */
class Random {
  #state: number;
  constructor(seed: number) {
    this.#state = seed * 2 + 1;
  }
  /** An integer of 0 to `below` - 1. */
  next(below: number): number {
    let x = this.#state;
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    this.#state = x;
    return Math.floor(((x >>> 0) / 2 ** 32) * below);
  }
}

/** Pools that files are cut from; a pool is far larger than gzip's window, so that a cut met twice does not pack better. */
class Content {
  readonly #random: Random;
  readonly #pools: readonly (readonly [weight: number, pool: Buffer])[];

  constructor(seed: number) {
    this.#random = new Random(seed);
    const random = new Random(7);
    const packed = Buffer.alloc(8 * mebibyte);
    for (let at = 0; at < packed.length; at += 1) packed[at] = random.next(256);
    const words = Array.from({ length: 4000 }, () => Array.from({ length: 2 + random.next(9) }, () => String.fromCharCode(97 + random.next(26))).join(''));
    const text: string[] = [];
    // Frequent words are frequent as in a language: the square of an even choice.
    for (let bytes = 0; bytes < 8 * mebibyte; bytes += (text.at(-1) ?? '').length)
      text.push(`${words[Math.floor(words.length * (random.next(1000) / 1000) ** 2)]}${random.next(9) === 0 ? '\n' : ' '}`);
    const code = Buffer.alloc(8 * mebibyte);
    const patterns = Array.from({ length: 600 }, () => Buffer.from(Array.from({ length: 3 + random.next(6) }, () => random.next(256))));
    for (let at = 0; at < code.length;) {
      const pattern = patterns[random.next(random.next(patterns.length) + 1)] ?? packed;
      at += pattern.copy(code, at);
      if (random.next(2) === 0) code[at++] = random.next(256);
    }
    this.#pools = [
      [3, Buffer.from(text.join(''))],
      [5, code],
      [2, packed],
    ];
  }

  /** Between 1 and `max` bytes, most of them short: the third power of an even choice. */
  size(max: number): number {
    return 1 + Math.floor((this.#random.next(1_000_000) / 1_000_000) ** 3 * max);
  }

  /** The content of one file, in pieces of at most 256 KiB of one kind. */
  *pieces(sizeBytes: number): Generator<Buffer> {
    let ticket = this.#random.next(10);
    const [, pool] = this.#pools.find(([weight]) => (ticket -= weight) < 0) ?? [0, Buffer.alloc(0)];
    for (let left = sizeBytes; left > 0;) {
      const length = Math.min(left, 256 * 1024);
      const at = this.#random.next(pool.length - length);
      yield pool.subarray(at, at + length);
      left -= length;
    }
  }
}

interface LayerShape {
  readonly seed: number;
  /** Where its files lie, so that layers of one image do not hide each other. */
  readonly prefix: string;
  /** Stops after as much content or as many files, whichever comes first. */
  readonly contentBytes: number;
  readonly files: number;
  readonly fileBytesMax: number;
  readonly filesPerDirectory: number;
}

interface LayerBlob {
  readonly digest: string;
  readonly size: number;
  readonly diffId: string;
}

/** Writes one gzip layer into the layout and describes it. */
async function writeLayer(layout: string, shape: LayerShape): Promise<LayerBlob> {
  const partial = `${layout}/layer`;
  const [inner, outer] = [createHash('sha256'), createHash('sha256')];
  const gzip = createGzip({ level: 6 });
  const file = createWriteStream(partial);
  gzip.on('data', (chunk: Buffer) => outer.update(chunk));
  gzip.pipe(file);
  const put = async (bytes: Uint8Array): Promise<void> => {
    inner.update(bytes);
    if (!gzip.write(bytes)) await once(gzip, 'drain');
  };
  const content = new Content(shape.seed);
  await put(encodeTarHeader({ kind: 'directory', path: shape.prefix, mode: 0o755 }));
  let written = 0;
  for (let index = 0; index < shape.files && written < shape.contentBytes; index += 1) {
    const directory = `${shape.prefix}/d${Math.floor(index / shape.filesPerDirectory)}`;
    if (index % shape.filesPerDirectory === 0) await put(encodeTarHeader({ kind: 'directory', path: directory, mode: 0o755 }));
    const sizeBytes = Math.min(content.size(shape.fileBytesMax), shape.contentBytes - written);
    await put(encodeTarHeader({ kind: 'file', path: `${directory}/file-${index}`, mode: index % 5 === 0 ? 0o755 : 0o644, sizeBytes }));
    for (const piece of content.pieces(sizeBytes)) await put(piece);
    await put(tarPadding(sizeBytes));
    written += sizeBytes;
  }
  await put(tarEnd);
  gzip.end();
  await once(file, 'finish');
  const digest = outer.digest('hex');
  renameSync(partial, `${layout}/blobs/sha256/${digest}`);
  return { digest: `sha256:${digest}`, size: statSync(`${layout}/blobs/sha256/${digest}`).size, diffId: `sha256:${inner.digest('hex')}` };
}

function writeDocument(layout: string, document: unknown): { readonly digest: string; readonly size: number } {
  const bytes = Buffer.from(JSON.stringify(document));
  const digest = createHash('sha256').update(bytes).digest('hex');
  writeFileSync(`${layout}/blobs/sha256/${digest}`, bytes);
  return { digest: `sha256:${digest}`, size: bytes.length };
}

/** A layout with one image, tagged `latest`. */
async function writeLayout(layout: string, shapes: readonly LayerShape[]): Promise<void> {
  mkdirSync(`${layout}/blobs/sha256`, { recursive: true });
  const layers: LayerBlob[] = [];
  for (const shape of shapes) layers.push(await writeLayer(layout, shape));
  const config = writeDocument(layout, {
    os: 'linux',
    architecture: process.arch === 'arm64' ? 'arm64' : 'amd64',
    config: {},
    rootfs: { type: 'layers', diff_ids: layers.map(({ diffId }) => diffId) },
  });
  const mediaType = 'application/vnd.oci.image.manifest.v1+json';
  const manifest = writeDocument(layout, {
    schemaVersion: 2,
    mediaType,
    config: { mediaType: 'application/vnd.oci.image.config.v1+json', ...config },
    layers: layers.map(({ digest, size }) => ({ mediaType: 'application/vnd.oci.image.layer.v1.tar+gzip', digest, size })),
  });
  writeFileSync(`${layout}/oci-layout`, '{"imageLayoutVersion":"1.0.0"}');
  writeFileSync(
    `${layout}/index.json`,
    JSON.stringify({ schemaVersion: 2, manifests: [{ mediaType, ...manifest, annotations: { 'org.opencontainers.image.ref.name': 'latest' } }] }),
  );
}

function shapesOf(image: BenchImage, contentMiB: number): LayerShape[] {
  const large = { files: 1_000_000, fileBytesMax: 2 * mebibyte, filesPerDirectory: 40 };
  if (image === 'single') return [{ ...large, seed: 11, prefix: 'srv', contentBytes: contentMiB * mebibyte }];
  if (image === 'many') return Array.from({ length: 20 }, (_, index) => ({ ...large, seed: 101 + index, prefix: `srv${index}`, contentBytes: (contentMiB * mebibyte) / 20 }));
  return [{ seed: 31, prefix: 'usr', contentBytes: contentMiB * mebibyte, files: 50_000, fileBytesMax: 12 * 1024, filesPerDirectory: 20 }];
}

/** Debian's docker-registry over a data directory; `stop` ends it. */
export async function startRegistry(dataDir: string, port: number): Promise<{ readonly address: string; stop(): Promise<void> }> {
  mkdirSync(dataDir, { recursive: true });
  const config = `${dataDir}.yml`;
  writeFileSync(config, `version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: ${dataDir}}}\nhttp: {addr: "127.0.0.1:${port}"}\n`);
  const child: ChildProcess = spawn('docker-registry', ['serve', config], { stdio: 'ignore' });
  const address = `127.0.0.1:${port}`;
  const isUp = async (): Promise<boolean> =>
    fetch(`http://${address}/v2/`).then(
      ({ ok }) => ok,
      () => false,
    );
  for (let tries = 0; !(await isUp()); tries += 1) {
    if (tries === 200 || child.exitCode !== null) throw new Error('docker-registry does not answer');
    await sleep(50);
  }
  return {
    address,
    stop: async () => {
      const gone = once(child, 'exit');
      child.kill('SIGKILL');
      await gone;
      rmSync(config, { force: true });
    },
  };
}

/** Makes the images unless a former run did; gives the registry's data directory below `cacheDir`. */
export async function prepareImages(cacheDir: string, contentMiB: number, port: number): Promise<string> {
  const dataDir = `${cacheDir}/registry-${generation}-${contentMiB}`;
  if (existsSync(dataDir)) return dataDir;
  const partial = `${dataDir}.part`;
  rmSync(partial, { recursive: true, force: true });
  const registry = await startRegistry(partial, port);
  try {
    // SAFETY: the literal's own keys.
    for (const image of Object.keys(benchImages) as BenchImage[]) {
      process.stderr.write(`makes the image ${image}, ${benchImages[image]}\n`);
      const layout = `${partial}.layout`;
      await writeLayout(layout, shapesOf(image, contentMiB));
      execFileSync('skopeo', ['--insecure-policy', 'copy', '--quiet', '--dest-tls-verify=false', `oci:${layout}:latest`, `docker://${registry.address}/${image}:latest`]);
      rmSync(layout, { recursive: true });
    }
  } finally {
    await registry.stop();
  }
  renameSync(partial, dataDir);
  return dataDir;
}
