/**
 * What a layer holds, as a tree of names: enough to answer "what is at this path, seen through the layers below?".
 * In: entries as they are placed. Out: nodes. Pure; file content and file attributes are not kept here, so that a layer of a
 * million files fits in memory.
 */
import type { LayerEntryAttributes } from '#plan';

/** Attributes of a directory, needed again when a later layer names something below it without naming it. */
export type DirectoryAttributes = Omit<LayerEntryAttributes, 'path'>;

/** A directory of one layer and what that layer has in it. */
export class DirectoryNode {
  readonly children = new Map<string, LayerNode>();
  attributes: DirectoryAttributes;
  /** Hides what lower layers have in this directory. */
  isOpaque: boolean;

  constructor(attributes: DirectoryAttributes, isOpaque = false) {
    this.attributes = attributes;
    this.isOpaque = isOpaque;
  }
}

/** A symbolic link; its target is text of a stranger and resolved below the root only. */
export class LinkNode {
  readonly target: string;
  readonly ordinal: number;

  constructor(target: string, ordinal: number) {
    this.target = target;
    this.ordinal = ordinal;
  }
}

/** A file that a hard link brought up from the layer with this number (0 is the base): entry `ordinal` of that layer's archive. */
export class CopiedNode {
  readonly layer: number;
  readonly ordinal: number;
  /** Names that it got in this layer, the linked one first. */
  readonly paths: string[] = [];

  constructor(layer: number, ordinal: number) {
    this.layer = layer;
    this.ordinal = ordinal;
  }
}

/** A whiteout is null; a file, device or FIFO is the ordinal of its archive entry. */
export type LayerNode = DirectoryNode | LinkNode | CopiedNode | number | null;

/** Attributes of a directory that no archive names. */
export const plainDirectory: DirectoryAttributes = { mode: 0o755, uid: 0, gid: 0, mtimeNs: 0n, xattrs: [] };

/** The node at a path of one tree, without following links; undefined where nothing is. */
export function nodeAt(tree: DirectoryNode, path: readonly string[]): LayerNode | undefined {
  let node: LayerNode | undefined = tree;
  for (const name of path) {
    if (!(node instanceof DirectoryNode)) return undefined;
    node = node.children.get(name);
    if (node === undefined) return undefined;
  }
  return node;
}

/** A node found below, and the number of the layer that has it. */
export interface FoundNode {
  readonly node: Exclude<LayerNode, null>;
  readonly layer: number;
}

/**
 * What a path shows through a stack of layers (base first), as the overlay file system would: whiteouts and opaque
 * directories hide what is below them, and so does anything that is no directory on the way.
 */
export function findBelow(layers: readonly DirectoryNode[], path: readonly string[]): FoundNode | undefined {
  for (let layer = layers.length - 1; layer >= 0; layer -= 1) {
    const outcome = findInLayer(layers[layer], path);
    if (outcome.kind === 'found') return { node: outcome.node, layer };
    if (outcome.kind === 'hidden') return undefined;
  }
  return undefined;
}

type Outcome = { readonly kind: 'found'; readonly node: Exclude<LayerNode, null> } | { readonly kind: 'hidden' } | { readonly kind: 'absent' };

function findInLayer(tree: DirectoryNode | undefined, path: readonly string[]): Outcome {
  let directory = tree;
  let found: Exclude<LayerNode, null> | undefined = tree;
  let isHidden = false;
  for (const name of path) {
    if (directory === undefined) return { kind: 'hidden' };
    isHidden ||= directory.isOpaque;
    const child = directory.children.get(name);
    if (child === undefined) return { kind: isHidden ? 'hidden' : 'absent' };
    if (child === null) return { kind: 'hidden' };
    found = child;
    directory = child instanceof DirectoryNode ? child : undefined;
  }
  return found === undefined ? { kind: 'absent' } : { kind: 'found', node: found };
}
