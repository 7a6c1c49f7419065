/**
 * Archive entries → the records that the confined child executes, and the index of what the layer holds.
 *
 * The layer becomes a directory of its own, lower part of an overlay, so everything that the archive says relative to the layers
 * below must be settled here: parents that it does not name get the attributes they have below (an overlay would else show the
 * upper ones), linked parents are followed as they would be in a running container, and a hard link to a file below brings
 * that file up. Whoever needed the layers below is marked, and is not shared between images.
 *
 * Pure: no file is touched, names are checked here and again by the child.
 */
import { RuntimeError, limits } from '#core';
import type { LayerRecord } from '#plan';
import { classifyLayerName, decodeLayerPath, entryError, isReservedXattr } from './layer-path.ts';
import { CopiedNode, type DirectoryAttributes, DirectoryNode, type LayerNode, LinkNode, findBelow, nodeAt, plainDirectory } from './layer-tree.ts';
import type { TarEntry } from './tar-header.ts';
import type { TarHandler } from './tar.ts';

/** What the compiler is given and whom it tells. */
export interface LayerCompilerOptions {
  /** The lowest layer of its image: whiteouts have nothing to hide and would be visible as devices. */
  readonly isBase: boolean;
  /** Trees of the layers below, base first; asked for only when needed, and then once. */
  readonly parents: () => readonly DirectoryNode[];
  readonly emit: (record: LayerRecord) => void;
  /** Told of everything that was placed, for the layer's index. */
  readonly onPlaced?: (placed: PlacedEntry) => void;
}

/** A device or FIFO in a few characters, as the layer's index has it: `c 1:3`. `type` is that of stat(2). A FIFO has no numbers. */
export function describeDevice({ type, major, minor }: { readonly type: number; readonly major: number; readonly minor: number }): string {
  if (type === deviceTypes.fifo) return 'p';
  return `${type === deviceTypes.blockDevice ? 'b' : 'c'} ${major}:${minor}`;
}

/** Where an entry comes from: its number in the archive of this layer, or (copied) in that of the layer with this number. */
export interface EntryOrigin {
  readonly ordinal: number;
  readonly layer?: number;
}

/** One thing placed in the layer. */
export type PlacedEntry =
  | { readonly kind: 'directory'; readonly path: string; readonly attributes: DirectoryAttributes; readonly isOpaque: boolean }
  | { readonly kind: 'file'; readonly path: string; readonly attributes: DirectoryAttributes; readonly origin: EntryOrigin; readonly sizeBytes: number }
  /** `device` says which, as `describeDevice` does. */
  | { readonly kind: 'node'; readonly path: string; readonly attributes: DirectoryAttributes; readonly origin: EntryOrigin; readonly device: string }
  | { readonly kind: 'link'; readonly path: string; readonly attributes: DirectoryAttributes; readonly origin: EntryOrigin; readonly target: string }
  | { readonly kind: 'hardLink'; readonly path: string; readonly target: string }
  | { readonly kind: 'whiteout'; readonly path: string };

interface Place {
  readonly path: readonly string[];
  /** The directory in this layer; undefined while only lower layers have it. */
  readonly node: DirectoryNode | undefined;
  /** Lower layers do not show through here. */
  readonly isCut: boolean;
}

const linkHopsMax = 40;
const xattrValueBytesMax = 64 * 1024;
const xattrsBytesMax = 512 * 1024;
const dataBytesMax = 1024 * 1024;
const deviceTypes = { characterDevice: 0o020000, blockDevice: 0o060000, fifo: 0o010000 } as const;

/** Compiles one archive; entries and content come through `entry` and `data`, copies from lower layers after its end. */
export class LayerCompiler implements TarHandler {
  readonly root = new DirectoryNode(plainDirectory);
  readonly #options: LayerCompilerOptions;
  #parents: readonly DirectoryNode[] | undefined;
  #copies: CopiedNode[] = [];
  #needsParents = false;
  #rootAttributes: DirectoryAttributes | undefined;
  #entries = 0;
  #contentBytes = 0;

  constructor(options: LayerCompilerOptions) {
    this.#options = options;
  }

  /** True once anything depended on the layers below: the layer then belongs to this stack of layers alone. */
  get needsParents(): boolean {
    return this.#needsParents;
  }

  /** Attributes of the layer's own root, where the archive names it. */
  get rootAttributes(): DirectoryAttributes | undefined {
    return this.#rootAttributes;
  }

  get entryCount(): number {
    return this.#entries;
  }

  /** Bytes of file content so far, holes included. */
  get contentBytes(): number {
    return this.#contentBytes;
  }

  /** Files to bring up from lower layers once the archive has ended, with the names they get. */
  pendingCopies(): readonly { readonly layer: number; readonly ordinal: number; readonly paths: readonly string[] }[] {
    return this.#copies
      .map((copy) => ({ layer: copy.layer, ordinal: copy.ordinal, paths: copy.paths.filter((path) => nodeAt(this.root, path.split('/')) === copy) }))
      .filter(({ paths }) => paths.length > 0);
  }

  entry(entry: TarEntry, ordinal: number): void {
    this.#entries += 1;
    if (this.#entries > limits.layerEntriesMax) throw new RuntimeError('resourceExhausted', `unpack layer: more than ${limits.layerEntriesMax} entries`);
    this.#contentBytes += entry.sizeBytes;
    if (this.#contentBytes > limits.layerBytesMax) throw new RuntimeError('resourceExhausted', `unpack layer: more than ${limits.layerBytesMax} bytes of content`);
    const components = decodeLayerPath(entry.path);
    const name = components.at(-1);
    if (name === undefined) {
      if (entry.type !== 'directory') throw entryError(entry.path, 'the root must be a directory');
      this.#rootAttributes = attributesOf(entry);
      this.root.attributes = this.#rootAttributes;
      return;
    }
    const kind = classifyLayerName(name, entry.path);
    // Content of a `.wh.` file, which no writer produces, would be taken for the content of the entry before.
    if (kind.kind !== 'plain' && entry.sizeBytes > 0) throw entryError(entry.path, 'a whiteout must be empty');
    if (kind.kind === 'metadata') return;
    if (components.slice(0, -1).some((component) => classifyLayerName(component, entry.path).kind !== 'plain')) throw entryError(entry.path, 'lies below a whiteout name');
    const parent = this.#directory(components.slice(0, -1), entry.path);
    if (kind.kind === 'opaque') this.#opaque(parent);
    else if (kind.kind === 'whiteout') this.#whiteout(parent, kind.hides);
    else this.#plain(entry, ordinal, parent, name);
  }

  data(chunk: Uint8Array): void {
    for (let at = 0; at < chunk.length; at += dataBytesMax) this.#options.emit({ op: 'data', data: chunk.subarray(at, at + dataBytesMax) });
  }

  /** Emits one copied entry under its names; called with the entry found again in its own layer. Its content follows through `data`. */
  copied(entry: TarEntry, origin: { readonly layer: number; readonly ordinal: number; readonly paths: readonly string[] }): void {
    const [first, ...others] = origin.paths;
    if (first === undefined) return;
    this.#contentBytes += entry.sizeBytes;
    this.#emitEntry(entry, { layer: origin.layer, ordinal: origin.ordinal }, first);
    // Links must follow the content, so the caller asks for them when it is through.
    this.#laterLinks = others.map((path) => ({ path, target: first }));
  }

  #laterLinks: { readonly path: string; readonly target: string }[] = [];

  /** Emits the further names of the entry given to `copied`, after its content. */
  copiedLinks(): void {
    for (const link of this.#laterLinks) this.#emitHardLink(link.path, link.target);
    this.#laterLinks = [];
  }

  #below(path: readonly string[]): ReturnType<typeof findBelow> {
    this.#needsParents = true;
    this.#parents ??= this.#options.parents();
    return findBelow(this.#parents, path);
  }

  /**
   * The directory at the components, links followed below the root. With `create` it exists in this layer afterwards.
   * Undefined where it does not exist and must not be made.
   */
  #walk(components: readonly string[], entryPath: string, options: { readonly create: boolean }): Place | undefined {
    const start: Place = { path: [], node: this.root, isCut: this.root.isOpaque };
    let stack: Place[] = [start];
    const remaining = [...components].reverse();
    let hops = 0;
    for (let name = remaining.pop(); name !== undefined; name = remaining.pop()) {
      const here = stack.at(-1) ?? start;
      if (name === '' || name === '.') continue;
      if (name === '..') {
        if (stack.length > 1) stack.pop();
        continue;
      }
      const step = this.#enter(here, name, entryPath, options);
      if (step === undefined) return undefined;
      if (!(step instanceof LinkNode)) {
        stack.push(step);
        continue;
      }
      hops += 1;
      if (hops > linkHopsMax) throw entryError(entryPath, 'too many symbolic links in its path');
      if (step.target.startsWith('/')) stack = [start];
      remaining.push(...step.target.split('/').reverse());
    }
    return stack.at(-1);
  }

  /** One step down: the directory of that name, or the link that is there. */
  #enter(here: Place, name: string, entryPath: string, options: { readonly create: boolean }): Place | LinkNode | undefined {
    const path = [...here.path, name];
    if (path.length > limits.tarDepthMax) throw entryError(entryPath, `${path.length} directories deep, at most ${limits.tarDepthMax}`);
    const own = here.node?.children.get(name);
    if (own instanceof DirectoryNode) return { path, node: own, isCut: here.isCut || own.isOpaque };
    if (own instanceof LinkNode) return own;
    if (own !== undefined && own !== null) throw entryError(entryPath, `${JSON.stringify(path.join('/'))} is not a directory`);
    const below = own === null || here.isCut ? undefined : this.#below(path)?.node;
    if (below instanceof LinkNode) return below;
    if (below !== undefined && !(below instanceof DirectoryNode)) throw entryError(entryPath, `${JSON.stringify(path.join('/'))} is not a directory`);
    if (!options.create) return below === undefined ? undefined : { path, node: undefined, isCut: false };
    const node = this.#placeDirectory(here, name, below?.attributes ?? plainDirectory);
    return { path, node, isCut: here.isCut || node.isOpaque };
  }

  /** The directory, made in this layer where it is missing. */
  #directory(components: readonly string[], entryPath: string): Place & { readonly node: DirectoryNode } {
    const place = this.#walk(components, entryPath, { create: true });
    if (place?.node === undefined) throw new RuntimeError('internal', 'bug: a directory was not made');
    return { ...place, node: place.node };
  }

  #placeDirectory(parent: Place, name: string, attributes: DirectoryAttributes): DirectoryNode {
    if (parent.node === undefined) throw new RuntimeError('internal', 'bug: a parent is not in this layer');
    const path = [...parent.path, name].join('/');
    const existing = parent.node.children.get(name);
    this.#options.emit({ op: 'directory', path, ...attributes });
    if (existing instanceof DirectoryNode) {
      existing.attributes = attributes;
      this.#options.onPlaced?.({ kind: 'directory', path, attributes, isOpaque: existing.isOpaque });
      return existing;
    }
    // Something else stood here in this layer: what lower layers have under this name stays hidden.
    const isOpaque = existing !== undefined && !this.#options.isBase;
    if (isOpaque) this.#options.emit({ op: 'opaque', path });
    const node = new DirectoryNode(attributes, isOpaque);
    parent.node.children.set(name, node);
    this.#options.onPlaced?.({ kind: 'directory', path, attributes, isOpaque });
    return node;
  }

  #opaque(place: Place & { readonly node: DirectoryNode }): void {
    if (this.#options.isBase) {
      this.#needsParents = true;
      return;
    }
    place.node.isOpaque = true;
    // The layer's root cannot be named in a record; nothing shows through an opaque root, which no tool writes.
    if (place.path.length === 0) throw entryError('.wh..wh..opq', 'an opaque root is not supported');
    const path = place.path.join('/');
    this.#options.emit({ op: 'opaque', path });
    this.#options.onPlaced?.({ kind: 'directory', path, attributes: place.node.attributes, isOpaque: true });
  }

  #whiteout(parent: Place & { readonly node: DirectoryNode }, name: string): void {
    if (this.#options.isBase) {
      this.#needsParents = true;
      return;
    }
    // Below an opaque directory there is nothing to hide; and in a directory that an overlay does not merge, a whiteout is listed as a name without an entry.
    if (parent.isCut) return;
    const existing = parent.node.children.get(name);
    if (existing instanceof DirectoryNode) {
      this.#opaque({ path: [...parent.path, name], node: existing, isCut: true });
    } else if (existing === undefined) {
      // Whatever this layer itself puts here stays: whiteouts apply to lower layers only.
      const path = [...parent.path, name].join('/');
      parent.node.children.set(name, null);
      this.#options.emit({ op: 'whiteout', path });
      this.#options.onPlaced?.({ kind: 'whiteout', path });
    }
  }

  #plain(entry: TarEntry, ordinal: number, parent: Place & { readonly node: DirectoryNode }, name: string): void {
    const path = [...parent.path, name].join('/');
    if (entry.type === 'directory') {
      this.#placeDirectory(parent, name, attributesOf(entry));
    } else if (entry.type === 'hardLink') {
      this.#hardLink(entry, parent, name);
    } else {
      parent.node.children.set(name, entry.type === 'link' ? new LinkNode(entry.linkTarget, ordinal) : ordinal);
      this.#emitEntry(entry, { ordinal }, path);
    }
  }

  #emitEntry(entry: TarEntry, origin: EntryOrigin, path: string): void {
    const attributes = attributesOf(entry);
    switch (entry.type) {
      case 'file':
        this.#options.emit({ op: 'file', path, ...attributes, size: BigInt(entry.sizeBytes) });
        this.#options.onPlaced?.({ kind: 'file', path, attributes, origin, sizeBytes: entry.sizeBytes });
        return;
      case 'link':
        if (entry.linkTarget === '') throw entryError(entry.path, 'is a symbolic link to nothing');
        this.#options.emit({ op: 'link', path, ...attributes, target: entry.linkTarget });
        this.#options.onPlaced?.({ kind: 'link', path, attributes, origin, target: entry.linkTarget });
        return;
      case 'characterDevice':
      case 'blockDevice':
      case 'fifo':
        // Character device 0:0 is how an overlay writes a whiteout.
        if (entry.type === 'characterDevice' && entry.major === 0 && entry.minor === 0) throw entryError(entry.path, 'character device 0:0 is reserved');
        this.#options.emit({ op: 'node', path, ...attributes, type: deviceTypes[entry.type], major: entry.major, minor: entry.minor });
        this.#options.onPlaced?.({ kind: 'node', path, attributes, origin, device: describeDevice({ type: deviceTypes[entry.type], major: entry.major, minor: entry.minor }) });
        return;
      case 'directory':
      case 'hardLink':
        throw new RuntimeError('internal', 'bug: placed elsewhere');
    }
  }

  #emitHardLink(path: string, target: string): void {
    this.#options.emit({ op: 'hardLink', path, target });
    this.#options.onPlaced?.({ kind: 'hardLink', path, target });
  }

  #hardLink(entry: TarEntry, parent: Place & { readonly node: DirectoryNode }, name: string): void {
    const components = decodeLayerPath(entry.linkTarget);
    const targetName = components.at(-1);
    if (targetName === undefined) throw entryError(entry.path, 'is a hard link to the root');
    const place = this.#walk(components.slice(0, -1), entry.path, { create: false });
    const target = place === undefined ? undefined : [...place.path, targetName];
    const path = [...parent.path, name].join('/');
    const own = place?.node?.children.get(targetName);
    if (target === undefined || place === undefined || own === null)
      throw entryError(entry.path, `is a hard link to ${JSON.stringify(entry.linkTarget.slice(0, 300))}, which does not exist`);
    if (target.join('/') === path) throw entryError(entry.path, 'is a hard link to itself');
    const node = own ?? this.#copyFromBelow(entry, place, target);
    if (node instanceof DirectoryNode) throw entryError(entry.path, 'is a hard link to a directory');
    parent.node.children.set(name, node);
    if (node instanceof CopiedNode) node.paths.push(path);
    else this.#emitHardLink(path, target.join('/'));
  }

  #copyFromBelow(entry: TarEntry, place: Place, target: readonly string[]): LayerNode & CopiedNode {
    const below = place.isCut ? undefined : this.#below(target);
    if (below === undefined) throw entryError(entry.path, `is a hard link to ${JSON.stringify(entry.linkTarget.slice(0, 300))}, which does not exist`);
    const { node, layer } = below;
    if (node instanceof DirectoryNode) throw entryError(entry.path, 'is a hard link to a directory');
    const copy = node instanceof CopiedNode ? new CopiedNode(node.layer, node.ordinal) : new CopiedNode(layer, node instanceof LinkNode ? node.ordinal : node);
    const directory = this.#directory(target.slice(0, -1), entry.path);
    directory.node.children.set(target.at(-1) ?? '', copy);
    copy.paths.push(target.join('/'));
    this.#copies.push(copy);
    return copy;
  }
}

function attributesOf(entry: TarEntry): DirectoryAttributes {
  const xattrs = entry.xattrs.filter(({ name }) => !isReservedXattr(name));
  const bytes = xattrs.reduce((sum, { name, value }) => sum + name.length + value.length, 0);
  if (bytes > xattrsBytesMax || xattrs.some(({ value }) => value.length > xattrValueBytesMax))
    throw entryError(entry.path, `has ${bytes} bytes of extended attributes, at most ${xattrsBytesMax}, ${xattrValueBytesMax} each`);
  return { mode: entry.type === 'link' ? 0o777 : entry.mode, uid: entry.uid, gid: entry.gid, mtimeNs: entry.mtimeNs, xattrs };
}
