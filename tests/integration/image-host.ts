/**
 * What the image tests share: a store on a real launcher, layouts made from tar files, a registry of their own, trees in words.
 * In: nothing but the machine. Out: objects whose disposal takes everything away.
 */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { type AddressInfo, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { gzipSync, zstdCompressSync } from 'node:zlib';
import { ImageStore, type ImageStoreOptions } from '#image';
import { TarReader } from '../../src/image/tar.ts';
import { type Launcher, SqliteRecords, startLauncher, systemClock } from '#system';

const home = resolve(import.meta.dirname, '../..');
const shimPath = join(home, 'native/build/berth-shim');
const path = { PATH: '/usr/sbin:/usr/bin:/sbin:/bin' };

/** Why the tests cannot run here, or false. */
export function skipReason(): string | false {
  if (process.getuid?.() !== 0) return 'needs root';
  for (const tool of ['docker-registry', 'skopeo', 'umoci', 'perl']) if (!existsSync(`/usr/bin/${tool}`)) return `needs ${tool}`;
  return existsSync(shimPath) ? false : 'needs native/build/berth-shim';
}

/** Runs a program and gives its output. */
export function run(file: string, args: readonly string[], cwd?: string): string {
  return execFileSync(file, args, { encoding: 'utf8', env: path, stdio: ['ignore', 'pipe', 'pipe'], maxBuffer: 64 * 1024 * 1024, ...(cwd === undefined ? {} : { cwd }) });
}

export const shell = (command: string, cwd?: string): string => run('sh', ['-ec', command], cwd);

/** A directory, a launcher and a store in it, which can be closed and opened again. */
export class StoreHost implements AsyncDisposable {
  readonly dir: string;
  #launcher: Launcher | undefined;
  #records: SqliteRecords | undefined;
  #store: ImageStore | undefined;

  /** `dir` is removed at the end; a fresh one by default. */
  constructor(dir = mkdtempSync(join(tmpdir(), 'berth-image-'))) {
    this.dir = dir;
  }

  /** Opens the store, with other options than the usual ones where given. */
  async open(options: Partial<ImageStoreOptions> = {}): Promise<ImageStore> {
    mkdirSync(join(this.dir, 'run'), { recursive: true, mode: 0o700 });
    const result = await startLauncher({ executable: shimPath, runDir: join(this.dir, 'run'), lockFile: join(this.dir, 'lock') });
    if (result.kind !== 'owner') throw new Error(`the state directory is held by ${result.pid}`);
    const { launcher } = result;
    this.#launcher = launcher;
    this.#records = new SqliteRecords(join(this.dir, 'state.db'));
    this.#store = await ImageStore.open({
      stateDir: join(this.dir, 'state'),
      records: this.#records,
      clock: systemClock,
      launcherSocket: launcher.socketPath,
      runOnHost: (plan) => launcher.runOnce(plan),
      platform: { os: 'linux', architecture: 'amd64' },
      workerPath: join(home, 'src/image/worker.io.ts'),
      ...options,
    });
    return this.#store;
  }

  async close(): Promise<void> {
    await this.#store?.close();
    this.#records?.[Symbol.dispose]();
    await this.#launcher?.close();
  }

  /** Blobs and layer directories on disk. */
  contents(): { readonly blobs: number; readonly layers: number } {
    const count = (name: string): number => Number(shell(`ls -A ${join(this.dir, 'state', name)} | wc -l`));
    return { blobs: count('content/sha256'), layers: count('layers') };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
    rmSync(this.dir, { recursive: true, force: true });
  }
}

export interface Blob {
  readonly digest: string;
  readonly bytes: Buffer;
}

export const digestOf = (bytes: Uint8Array): string => `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
const pack = { none: (bytes: Buffer) => bytes, gzip: (bytes: Buffer) => gzipSync(bytes), zstd: (bytes: Buffer) => zstdCompressSync(bytes) } as const;
const layerType = {
  none: 'application/vnd.oci.image.layer.v1.tar',
  gzip: 'application/vnd.oci.image.layer.v1.tar+gzip',
  zstd: 'application/vnd.oci.image.layer.v1.tar+zstd',
} as const;

export interface ImageParts {
  /** Uncompressed tar archives, base first. */
  readonly layers: readonly Buffer[];
  readonly compression?: keyof typeof pack;
  readonly architecture?: string;
  readonly config?: Readonly<Record<string, unknown>>;
  /** Instead of the true ones. */
  readonly diffIds?: readonly string[];
}

/** An OCI layout that is being written. */
export class Layout {
  readonly dir: string;
  readonly #entries: unknown[] = [];

  constructor(dir: string) {
    this.dir = dir;
    mkdirSync(join(dir, 'blobs/sha256'), { recursive: true });
    writeFileSync(join(dir, 'oci-layout'), '{"imageLayoutVersion":"1.0.0"}');
  }

  blob(bytes: Buffer): { readonly digest: string; readonly size: number } {
    const digest = digestOf(bytes);
    writeFileSync(join(this.dir, 'blobs/sha256', digest.slice(7)), bytes);
    return { digest, size: bytes.length };
  }

  /** Descriptor of a new manifest. */
  manifest(parts: ImageParts): { readonly mediaType: string; readonly digest: string; readonly size: number } {
    const { layers, compression = 'gzip', architecture = 'amd64', config = {}, diffIds = layers.map(digestOf) } = parts;
    const configBlob = this.blob(Buffer.from(JSON.stringify({ os: 'linux', architecture, config, rootfs: { type: 'layers', diff_ids: diffIds } })));
    const layerBlobs = layers.map((layer) => ({ mediaType: layerType[compression], ...this.blob(pack[compression](layer)) }));
    const mediaType = 'application/vnd.oci.image.manifest.v1+json';
    const manifest = Buffer.from(
      JSON.stringify({ schemaVersion: 2, mediaType, config: { mediaType: 'application/vnd.oci.image.config.v1+json', ...configBlob }, layers: layerBlobs }),
    );
    return { mediaType, ...this.blob(manifest) };
  }

  /** Descriptor of an index over manifests with their architectures. */
  index(manifests: readonly { readonly descriptor: object; readonly architecture: string }[]): { readonly mediaType: string; readonly digest: string; readonly size: number } {
    const mediaType = 'application/vnd.oci.image.index.v1+json';
    const entries = manifests.map(({ descriptor, architecture }) => ({ ...descriptor, platform: { os: 'linux', architecture } }));
    return { mediaType, ...this.blob(Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType, manifests: entries }))) };
  }

  /** Lists a descriptor in index.json under a reference name. */
  add(descriptor: object, name: string): this {
    this.#entries.push({ ...descriptor, annotations: { 'org.opencontainers.image.ref.name': name } });
    writeFileSync(join(this.dir, 'index.json'), JSON.stringify({ schemaVersion: 2, manifests: this.#entries }));
    return this;
  }
}

/** A tar of a directory that a script fills; `names` are archived in their order (default: everything). */
export function tarOf(script: string, names = '.'): Buffer {
  const dir = mkdtempSync(join(tmpdir(), 'berth-layer-'));
  try {
    mkdirSync(join(dir, 'root'));
    shell(script, join(dir, 'root'));
    shell(
      `tar --format=pax --xattrs --xattrs-include='*' --numeric-owner --no-recursion -cf ../layer.tar $(${names === '.' ? 'find . -mindepth 1 | sort' : `printf '%s\\n' ${names}`})`,
      join(dir, 'root'),
    );
    return readFileSync(join(dir, 'layer.tar'));
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

/** Everything there is to compare in a tree, a line per entry. */
export function describeTree(dir: string): string[] {
  const lines = shell(
    `find . -mindepth 1 ! -type d -printf '%P type=%y mode=%m owner=%U:%G time=%T@ links=%n size=%s target=%l\\n' ; find . -mindepth 1 -type d -printf '%P type=d mode=%m owner=%U:%G\\n'; find . -type f -exec sha256sum {} + ; find . -type b -o -type c | xargs -r stat -c '%n device=%t:%T'`,
    dir,
  );
  return [...lines.split('\n').filter((line) => line !== ''), ...describeXattrs(dir)].sort();
}

/** Extended attributes, a line each, as tar reads them; the overlay's own are left out. */
function describeXattrs(dir: string): string[] {
  const archive = execFileSync('tar', ['--format=pax', '--xattrs', '--xattrs-include=*', '-cf', '-', '.'], {
    cwd: dir,
    env: path,
    maxBuffer: 256 * 1024 * 1024,
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  const lines: string[] = [];
  const reader = new TarReader({
    entry: (entry) => {
      for (const { name, value } of entry.xattrs) if (!name.startsWith('trusted.overlay.')) lines.push(`${entry.path} ${name}=${Buffer.from(value).toString('hex')}`);
    },
    data: () => undefined,
  });
  reader.write(archive);
  reader.finish();
  return lines;
}

/** Shell words that set an extended attribute: Debian's base has perl, and no program for it. */
export function setXattr(file: string, name: string, value: string): string {
  const number = process.arch === 'arm64' ? 5 : 188;
  return `perl -e 'syscall(${number}, $ARGV[0], $ARGV[1], $ARGV[2], length $ARGV[2], 0) == 0 or die $!' ${file} ${name} ${value}`;
}

/** The merged tree of a leased image, looked at through an overlay in a mount namespace that ends with the look. */
export function describeOverlay(layers: { readonly storeDir: string; readonly lower: readonly string[] }): string[] {
  const scratch = mkdtempSync(join(tmpdir(), 'berth-overlay-'));
  const script = join(scratch, 'look.ts');
  try {
    for (const name of ['upper', 'work', 'merged']) mkdirSync(join(scratch, name));
    writeFileSync(script, `import { describeTree } from ${JSON.stringify(import.meta.filename)};\nconsole.log(JSON.stringify(describeTree(process.argv[2] ?? '')));\n`);
    const mount = `cd ${layers.storeDir} && mount -t overlay overlay -o lowerdir=${layers.lower.join(':')},upperdir=${scratch}/upper,workdir=${scratch}/work ${scratch}/merged && cd / && ${process.execPath} ${script} ${scratch}/merged`;
    const lines: unknown = JSON.parse(run('unshare', ['-m', 'sh', '-ec', mount]));
    if (!Array.isArray(lines)) throw new Error('no tree');
    return lines.map(String);
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

/** Debian's docker-registry on a loopback port. */
export class Registry implements AsyncDisposable {
  readonly address: string;
  /** Where the registry keeps its content. */
  readonly dataDir: string;
  readonly #child: ChildProcess;
  readonly #dir: string;

  private constructor(address: string, child: ChildProcess, dir: string) {
    this.address = address;
    this.dataDir = join(dir, 'data');
    this.#child = child;
    this.#dir = dir;
  }

  static async start(): Promise<Registry> {
    const dir = mkdtempSync(join(tmpdir(), 'berth-registry-'));
    const port = await freePort();
    writeFileSync(join(dir, 'config.yml'), `version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: ${dir}/data}}\nhttp: {addr: "127.0.0.1:${port}"}\n`);
    const child = spawn('docker-registry', ['serve', join(dir, 'config.yml')], { stdio: 'ignore', env: path });
    const registry = new Registry(`127.0.0.1:${port}`, child, dir);
    for (let tries = 0; tries < 100; tries += 1) {
      if (
        await fetch(`http://127.0.0.1:${port}/v2/`).then(
          (answer) => answer.ok,
          () => false,
        )
      )
        return registry;
      await sleep(50);
    }
    await registry[Symbol.asyncDispose]();
    throw new Error('docker-registry does not answer');
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const ended = new Promise((end) => this.#child.once('exit', end));
    if (this.#child.exitCode === null && this.#child.kill('SIGKILL')) await ended;
    rmSync(this.#dir, { recursive: true, force: true });
  }
}

/** A port that nothing listens on at the moment. */
export async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((listening) => server.listen(0, '127.0.0.1', listening));
  // SAFETY: a TCP server that listens has an address of this type.
  const { port } = server.address() as AddressInfo;
  await new Promise((closed) => server.close(closed));
  return port;
}
