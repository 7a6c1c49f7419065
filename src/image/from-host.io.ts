/**
 * An image of one layer from files of this machine. In: executables and files by path. Out: blobs in the content store and the
 * list of what was taken. Equal files give an equal image: owners are root, times the epoch, order is that of the names.
 *
 * Besides the files the image has `/etc/passwd` and `/etc/group` with root and nobody, an `/etc/nsswitch.conf` that looks at
 * files and DNS, and `/tmp`. Nothing else of the host goes in: no certificates, no time zones, no locale.
 */
import { constants, open } from 'node:fs/promises';
import { RuntimeError } from '#core';
import { type Digest, type Platform, mediaTypes } from '#oci';
import { ingestBytes, ingestNew, readBlob } from './content.io.ts';
import { type HostEntry, HostFiles } from './host-files.io.ts';
import { type TarItem, encodeTarHeader, tarEnd, tarPadding } from './tar-writer.ts';
import type { FromHostRequest, HostFile, ImageSource, ResolvedDocument } from './types.ts';

/** An image whose blobs are all in the content store. */
export interface MadeImage {
  readonly source: ImageSource;
  readonly found: ResolvedDocument;
  /** In the order of their paths. */
  readonly files: readonly HostFile[];
}

const minimalFiles: Readonly<Record<string, string>> = {
  '/etc/passwd': 'root:x:0:0:root:/root:/sbin/nologin\nnobody:x:65534:65534:nobody:/nonexistent:/sbin/nologin\n',
  '/etc/group': 'root:x:0:\nnogroup:x:65534:\n',
  '/etc/nsswitch.conf': 'passwd: files\ngroup: files\nhosts: files dns\n',
};

const defaultPath = 'PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

/** One thing of the layer: an item and where its bytes are. */
interface Part {
  readonly item: TarItem;
  readonly hostPath?: string;
  readonly content?: Buffer;
}

function partOf(path: string, entry: HostEntry): Part {
  const name = path.slice(1);
  return entry.kind === 'link'
    ? { item: { kind: 'link', path: name, target: entry.target } }
    : { item: { kind: 'file', path: name, mode: entry.mode, sizeBytes: entry.sizeBytes }, hostPath: path };
}

/** Everything the layer holds, parents before children. Pure. */
export function planHostLayer(entries: ReadonlyMap<string, HostEntry>): readonly Part[] {
  const parts = new Map<string, Part>();
  for (const [path, text] of Object.entries(minimalFiles)) {
    const content = Buffer.from(text);
    parts.set(path.slice(1), { item: { kind: 'file', path: path.slice(1), mode: 0o644, sizeBytes: content.length }, content });
  }
  for (const [path, entry] of entries) parts.set(path.slice(1), partOf(path, entry));
  parts.set('tmp', { item: { kind: 'directory', path: 'tmp', mode: 0o1777 } });
  for (const path of parts.keys()) {
    for (let slash = path.indexOf('/'); slash > 0; slash = path.indexOf('/', slash + 1)) {
      const directory = path.slice(0, slash);
      if (!parts.has(directory)) parts.set(directory, { item: { kind: 'directory', path: directory, mode: 0o755 } });
    }
  }
  // Code units, not a locale: the order is part of the digest. A parent is shorter than what is below it, so it comes first.
  return [...parts].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, part]) => part);
}

async function* layerBytes(parts: readonly Part[], signal: AbortSignal): AsyncGenerator<Uint8Array> {
  for (const { item, hostPath, content } of parts) {
    yield encodeTarHeader(item);
    if (item.kind !== 'file') continue;
    if (content !== undefined) yield content;
    if (hostPath !== undefined) yield* hostFileBytes(hostPath, item.sizeBytes, signal);
    yield tarPadding(item.sizeBytes);
  }
  yield tarEnd;
}

/** Exactly the announced bytes. Throws aborted where the file changed meanwhile. */
async function* hostFileBytes(path: string, sizeBytes: number, signal: AbortSignal): AsyncGenerator<Uint8Array> {
  const file = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  try {
    const info = await file.stat();
    if (!info.isFile() || info.size !== sizeBytes) throw new RuntimeError('aborted', `take host file ${path}: it changed meanwhile`);
    let at = 0;
    while (at < sizeBytes) {
      signal.throwIfAborted();
      const chunk = Buffer.allocUnsafe(Math.min(1024 * 1024, sizeBytes - at));
      const { bytesRead } = await file.read(chunk, 0, chunk.length, at);
      if (bytesRead === 0) throw new RuntimeError('aborted', `take host file ${path}: it became shorter meanwhile`);
      at += bytesRead;
      yield chunk.subarray(0, bytesRead);
    }
  } finally {
    await file.close();
  }
}

function configOf(request: FromHostRequest, platform: Platform, diffId: Digest): Buffer {
  const { executables, entrypoint, env, workingDir, user } = request;
  return Buffer.from(
    JSON.stringify({
      architecture: platform.architecture,
      os: platform.os,
      ...(platform.variant === undefined ? {} : { variant: platform.variant }),
      config: {
        Entrypoint: entrypoint ?? executables.slice(0, 1),
        Env: [...(env?.some((entry) => entry.startsWith('PATH=')) === true ? [] : [defaultPath]), ...(env ?? [])],
        ...(workingDir === undefined ? {} : { WorkingDir: workingDir }),
        ...(user === undefined ? {} : { User: user }),
      },
      rootfs: { type: 'layers', diff_ids: [diffId] },
    }),
  );
}

/** Takes the files and makes the image's blobs. Throws invalidArgument and notFound with the path that is refused. */
export async function imageFromHost(
  request: FromHostRequest,
  context: { readonly contentDir: string; readonly platform: Platform; readonly signal: AbortSignal },
): Promise<MadeImage> {
  const { contentDir, platform, signal } = context;
  if (request.executables.length === 0) throw new RuntimeError('invalidArgument', `make image ${request.name}: needs at least one executable`);
  const taken = new HostFiles();
  for (const path of request.executables) taken.addExecutable(path);
  for (const path of request.files ?? []) taken.addFile(path);
  const parts = planHostLayer(taken.entries);
  const layer = await ingestNew(contentDir, layerBytes(parts, signal));
  const config = configOf(request, platform, layer.digest);
  const configDigest = await ingestBytes(contentDir, config);
  const manifest = Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: mediaTypes.ociManifest,
      config: { mediaType: mediaTypes.ociConfig, digest: configDigest, size: config.length },
      layers: [{ mediaType: mediaTypes.ociLayer, digest: layer.digest, size: layer.sizeBytes }],
    }),
  );
  const digest = await ingestBytes(contentDir, manifest);
  const files = parts.flatMap(({ item, hostPath }) => (item.kind === 'file' && hostPath !== undefined ? [{ path: hostPath, sizeBytes: item.sizeBytes }] : []));
  return { source: madeSource(request.name, contentDir), found: { bytes: manifest, mediaType: mediaTypes.ociManifest, digest }, files };
}

/** Everything is in the content store already. */
function madeSource(name: string, contentDir: string): ImageSource {
  return {
    what: `make image ${name}`,
    document: (descriptor, bytesMax) => readBlob(contentDir, descriptor.digest, bytesMax),
    transfer: async (wanted) => {
      throw new RuntimeError('dataLoss', `blob ${wanted[0]?.digest ?? ''}: was made and is gone`);
    },
  };
}
