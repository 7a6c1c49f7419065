/**
 * Which images there are and what names mean. In: what was installed, names that people give. Out: records, and images as doors see them.
 *
 * Every change is one transaction of records; the images in memory follow it, so that listing touches neither disk nor lock. No content is touched here.
 */
import { type Clock, type Records, RuntimeError, assert } from '#core';
import { type Digest, type ImageConfig, type ImageReference, formatReference, imageUserOf, isDigest, parseReference, repositoryDigest, repositoryTag } from '#oci';
import type { BlobDescriptor, InstalledImage, InstalledManifest } from './install.io.ts';
import type { StoredImage } from './types.ts';

const imageKind = 'storedImage';
/** Records of an earlier form, which did not say what each blob is. Such an image has to be pulled or imported again. */
const earlierImageKind = 'image';
const leaseKind = 'imageLease';
const pullKind = 'imagePull';
/** Shorter beginnings of an id are too likely to be meant as names. */
const shortIdMin = 4;

/** An image as it is recorded. */
export interface ImageRecord {
  readonly kind: 'image' | 'artifact';
  readonly config: ImageConfig;
  readonly names: readonly string[];
  readonly digests: readonly string[];
  /** One config may come with differently packed layers; the newest is last. */
  readonly manifests: readonly InstalledManifest[];
  /** Digest of the manifest that a name stands for. */
  readonly targets: Readonly<Record<string, Digest>>;
  /** Keys of layers, base first. */
  readonly layers: readonly Digest[];
  readonly createdAtNs: bigint;
  readonly pinned: boolean;
}

/** Layers that somebody uses. */
export interface LeaseRecord {
  readonly imageId: Digest;
  /** Keys of layers, base first. */
  readonly layers: readonly Digest[];
}

/** A pull that has not ended well: what it has brought already is kept for the next one. */
export interface PullRecord {
  /** Documents and layers. */
  readonly blobs: readonly Digest[];
  /** Diff IDs and chain IDs. */
  readonly layers: readonly Digest[];
  readonly atNs: bigint;
}

/** Small documents of the manifests: indexes, manifests, configs. */
export function documentsOf({ manifests }: Pick<ImageRecord, 'manifests'>): readonly Digest[] {
  return [...new Set(manifests.flatMap((manifest) => [...manifest.documents, manifest.digest, manifest.config.digest]))];
}

/** The blobs of layers, each once. */
export function layerBlobsOf({ manifests }: Pick<ImageRecord, 'manifests'>): readonly BlobDescriptor[] {
  return [...new Map(manifests.flatMap(({ layers }) => layers).map((blob) => [blob.digest, blob])).values()];
}

/** The repositories that an image is known to be in, by its repository digests. */
export function sourcesOf({ digests }: Pick<ImageRecord, 'digests'>): readonly ImageReference[] {
  return digests.map((text) => parseReference(text));
}

/** An error about a name. */
function nameError(name: string, cause: string): RuntimeError {
  return new RuntimeError('invalidArgument', `image name ${JSON.stringify(name.slice(0, 300))}: ${cause}`);
}

/** The normalised tag that a new name stands for. Throws invalidArgument on a digest. */
export function decodeNewTag(name: string): string {
  const reference = parseReference(name);
  const tag = repositoryTag(reference);
  if (tag === undefined || reference.digest !== undefined) throw nameError(name, 'must have no digest');
  return tag;
}

/** Images and leases of one set of records. */
export class ImageCatalog {
  readonly #records: Records;
  readonly #clock: Clock;
  readonly #images = new Map<Digest, StoredImage>();

  constructor(options: { readonly records: Records; readonly clock: Clock }) {
    this.#records = options.records;
    this.#clock = options.clock;
    for (const { id } of this.#records.list(earlierImageKind)) this.#records.delete(earlierImageKind, id);
    for (const { id, record } of this.records()) this.#images.set(id, describeImage(id, record));
  }

  /** All images, in the order of their ids. */
  list(): StoredImage[] {
    return [...this.#images.values()].sort((a, b) => (a.id < b.id ? -1 : 1));
  }

  has(id: Digest): boolean {
    return this.#images.has(id);
  }

  read(id: Digest): ImageRecord | undefined {
    // SAFETY: only this class writes records of this kind.
    return this.#records.get(imageKind, id) as ImageRecord | undefined;
  }

  records(): { readonly id: Digest; readonly record: ImageRecord }[] {
    // SAFETY: only this class writes records of this kind, under digests.
    return this.#records.list(imageKind).map(({ id, value }) => ({ id: id as Digest, record: value as ImageRecord }));
  }

  /** The image of a name, a `name@digest`, an id or an unambiguous beginning of one; undefined when there is none. */
  resolve(nameOrId: string): StoredImage | undefined {
    const images = this.list();
    const asId = isDigest(nameOrId) ? nameOrId : /^[0-9a-f]{64}$/.test(nameOrId) ? `sha256:${nameOrId}` : undefined;
    if (asId !== undefined) return images.find(({ id }) => id === asId);
    const named = findByName(nameOrId, images);
    if (named !== undefined) return named;
    const short = nameOrId.startsWith('sha256:') ? nameOrId.slice(7) : nameOrId;
    if (short.length < shortIdMin || !/^[0-9a-f]+$/.test(short)) return undefined;
    const matches = images.filter(({ id }) => id.startsWith(`sha256:${short}`));
    if (matches.length > 1) throw new RuntimeError('invalidArgument', `image ${JSON.stringify(nameOrId)}: the id is ambiguous, ${matches.length} images begin so`);
    return matches[0];
  }

  /** As `resolve`. Throws notFound. */
  find(nameOrId: string): { readonly image: StoredImage; readonly record: ImageRecord } {
    const image = this.resolve(nameOrId);
    const record = image === undefined ? undefined : this.read(image.id);
    if (image === undefined || record === undefined) throw new RuntimeError('notFound', `image ${JSON.stringify(nameOrId.slice(0, 300))}: not found`);
    return { image, record };
  }

  /** The manifest that a name of the image stands for: that of the tag or digest, else the newest. */
  manifestOf(nameOrId: string, record: ImageRecord): InstalledManifest {
    const key = targetKey(nameOrId);
    const digest = key === undefined ? undefined : record.targets[key];
    const found = record.manifests.find((manifest) => manifest.digest === digest) ?? record.manifests.at(-1);
    if (found === undefined) throw new RuntimeError('dataLoss', `image ${JSON.stringify(nameOrId.slice(0, 300))}: its record names no manifest`);
    return found;
  }

  /** Records what was installed; tags that another image had move here. The record of the pull that brought it goes in the same transaction. */
  add(installed: InstalledImage, naming: { readonly tags: readonly string[]; readonly digests: readonly string[]; readonly pullId?: string }): StoredImage {
    const { id, manifest } = installed;
    const existing = this.read(id);
    const others = (existing?.manifests ?? []).filter(({ digest }) => digest !== manifest.digest);
    const targets = Object.fromEntries([...naming.tags, ...naming.digests].map((name) => [name, manifest.digest]));
    return this.#put(
      id,
      {
        kind: installed.kind,
        config: installed.config,
        names: union(existing?.names, naming.tags),
        digests: union(existing?.digests, naming.digests),
        manifests: [...others, manifest],
        targets: { ...existing?.targets, ...targets },
        layers: installed.layers,
        createdAtNs: existing?.createdAtNs ?? this.#clock.nowNs(),
        pinned: existing?.pinned ?? false,
      },
      { moved: naming.tags, ...(naming.pullId === undefined ? {} : { endedPull: naming.pullId }) },
    );
  }

  /** Gives the image a further name, which moves here from another image. Throws notFound, invalidArgument. */
  tag(nameOrId: string, name: string): StoredImage {
    const tag = decodeNewTag(name);
    const { image, record } = this.find(nameOrId);
    const target = this.manifestOf(nameOrId, record).digest;
    return this.#put(image.id, { ...record, names: union(record.names, [tag]), targets: { ...record.targets, [tag]: target } }, { moved: [tag] });
  }

  /** Notes that a repository has this manifest of the image. The image may be gone meanwhile. */
  addDigest(id: Digest, reference: ImageReference, manifest: Digest): void {
    const record = this.read(id);
    if (record === undefined) return;
    const digest = repositoryDigest(reference, manifest);
    this.#put(id, { ...record, digests: union(record.digests, [digest]), targets: { ...record.targets, [digest]: manifest } });
  }

  /** Sets or clears the mark that keeps an image from every collection. Throws notFound. */
  pin(nameOrId: string, pinned: boolean): StoredImage {
    const { image, record } = this.find(nameOrId);
    return this.#put(image.id, { ...record, pinned });
  }

  /** The image's layers are kept under these keys from now on. */
  replaceLayers(id: Digest, layers: readonly Digest[]): void {
    const record = this.read(id);
    if (record !== undefined) this.#put(id, { ...record, layers });
  }

  /**
   * Takes one name away. True when the image stays because it has others; else the caller removes it. What is no name of the image, such as its id,
   * takes nothing away.
   */
  untag(image: StoredImage, name: string): boolean {
    const record = this.read(image.id);
    const key = targetKey(name);
    if (record === undefined || key === undefined) return false;
    const names = record.names.filter((other) => other !== key);
    const digests = record.digests.filter((other) => other !== key);
    const isTag = names.length < record.names.length;
    // The last tag takes the image along; a digest does so only where no tag is left.
    if (isTag ? names.length === 0 : digests.length === record.digests.length || (names.length === 0 && digests.length === 0)) return false;
    this.#put(image.id, { ...record, names, digests, targets: without(record.targets, [key]) });
    return true;
  }

  forget(id: Digest): void {
    this.#records.delete(imageKind, id);
    this.#images.delete(id);
  }

  readLease(id: string): LeaseRecord | undefined {
    // SAFETY: only this class writes records of this kind.
    return this.#records.get(leaseKind, id) as LeaseRecord | undefined;
  }

  leases(): { readonly id: string; readonly lease: LeaseRecord }[] {
    // SAFETY: only this class writes records of this kind.
    return this.#records.list(leaseKind).map(({ id, value }) => ({ id, lease: value as LeaseRecord }));
  }

  putLease(id: string, lease: LeaseRecord): void {
    this.#records.put(leaseKind, id, lease);
  }

  forgetLease(id: string): void {
    this.#records.delete(leaseKind, id);
  }

  /** Pulls under way, and those that a failure or a crash interrupted. */
  pulls(): { readonly id: string; readonly pull: PullRecord }[] {
    // SAFETY: only this class writes records of this kind.
    return this.#records.list(pullKind).map(({ id, value }) => ({ id, pull: value as PullRecord }));
  }

  /** Records what a pull is about to bring, before it does. */
  putPull(id: string, pull: Omit<PullRecord, 'atNs'>): void {
    this.#records.put(pullKind, id, { ...pull, atNs: this.#clock.nowNs() } satisfies PullRecord);
  }

  forgetPull(id: string): void {
    this.#records.delete(pullKind, id);
  }

  #put(id: Digest, record: ImageRecord, also: { readonly moved?: readonly string[]; readonly endedPull?: string } = {}): StoredImage {
    const { moved = [], endedPull } = also;
    const changed = new Map<Digest, ImageRecord>([[id, record]]);
    if (moved.length > 0) {
      for (const other of this.records()) {
        if (other.id === id || !other.record.names.some((name) => moved.includes(name))) continue;
        const names = other.record.names.filter((name) => !moved.includes(name));
        changed.set(other.id, { ...other.record, names, targets: without(other.record.targets, moved) });
      }
    }
    this.#records.transaction(() => {
      for (const [changedId, value] of changed) this.#records.put(imageKind, changedId, value);
      if (endedPull !== undefined) this.forgetPull(endedPull);
    });
    for (const [changedId, value] of changed) this.#images.set(changedId, describeImage(changedId, value));
    const image = this.#images.get(id);
    assert(image !== undefined, 'an image was recorded and is not there');
    return image;
  }
}

/** The tag or repository digest that a text stands for, or undefined for an id and for what is no reference. */
function targetKey(text: string): string | undefined {
  if (isDigest(text)) return undefined;
  let reference: ImageReference;
  try {
    reference = parseReference(text);
  } catch {
    // Not a name of anything; whether it is an id is looked at elsewhere.
    return undefined;
  }
  return reference.digest === undefined ? formatReference(reference) : repositoryDigest(reference, reference.digest);
}

function findByName(name: string, images: readonly StoredImage[]): StoredImage | undefined {
  const key = targetKey(name);
  return key === undefined ? undefined : images.find(({ names, digests }) => names.includes(key) || digests.includes(key));
}

function union<T>(left: readonly T[] | undefined, right: readonly T[]): readonly T[] {
  return [...new Set([...(left ?? []), ...right])];
}

function without(targets: Readonly<Record<string, Digest>>, names: readonly string[]): Readonly<Record<string, Digest>> {
  return Object.fromEntries(Object.entries(targets).filter(([name]) => !names.includes(name)));
}

function describeImage(id: Digest, record: ImageRecord): StoredImage {
  const { config, manifests } = record;
  const newest = manifests.slice(-1);
  const layerBytes = layerBlobsOf({ manifests: newest }).reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
  return {
    kind: record.kind,
    id,
    names: record.names,
    digests: record.digests,
    config,
    process: { entrypoint: config.entrypoint, command: config.cmd, env: config.env, workingDir: config.workingDir, user: config.user, stopSignal: config.stopSignal ?? '' },
    sizeBytes: newest.reduce((sum, manifest) => sum + manifest.sizeBytes + manifest.config.sizeBytes, layerBytes),
    createdAtNs: record.createdAtNs,
    pinned: record.pinned,
    ...userOf(config.user),
  };
}

/** An image whose USER is nonsense can be listed; running it says what is wrong. */
function userOf(text: string): { readonly uid?: number; readonly username?: string } {
  try {
    const user = imageUserOf(text);
    return user.kind === 'uid' ? { uid: user.uid } : user.kind === 'name' ? { username: user.name } : {};
  } catch {
    return {};
  }
}
