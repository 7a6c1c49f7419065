/**
 * The index beside each layer: one JSON line per entry, with a checksum per file, for verification and for the layers above.
 * In: placed entries. Out: lines, and from lines the tree again. Pure. Written by this project only, but kept on disk: a line that
 * cannot be read is `dataLoss`, never a guess.
 */
import { RuntimeError } from '#core';
import { arrayOf, decodeNonEmptyString, decodeSafeInteger, decodeString, decodeUint32, parseJson } from '#oci';
import type { EntryOrigin, PlacedEntry } from './layer-compiler.ts';
import { CopiedNode, type DirectoryAttributes, DirectoryNode, type LayerNode, LinkNode, nodeAt, plainDirectory } from './layer-tree.ts';

const kinds = { directory: 'd', file: 'f', node: 'n', link: 'l', hardLink: 'h', whiteout: 'w' } as const;

function attributeFields({ mode, uid, gid, mtimeNs, xattrs }: DirectoryAttributes): unknown[] {
  return [mode, uid, gid, mtimeNs.toString(), xattrs.map(({ name, value }) => [name, Buffer.from(value).toString('base64')])];
}

function originFields({ ordinal, layer }: EntryOrigin): unknown[] {
  return [ordinal, layer ?? -1];
}

/** One line with its newline. `sha256` is the hex checksum of a file's content, holes included. */
export function encodeIndexLine(placed: PlacedEntry, sha256 = ''): string {
  const head = [kinds[placed.kind], placed.path];
  switch (placed.kind) {
    case 'directory':
      return `${JSON.stringify([...head, ...attributeFields(placed.attributes), placed.isOpaque ? 1 : 0])}\n`;
    case 'file':
      return `${JSON.stringify([...head, ...attributeFields(placed.attributes), ...originFields(placed.origin), placed.sizeBytes, sha256])}\n`;
    case 'node':
      return `${JSON.stringify([...head, ...attributeFields(placed.attributes), ...originFields(placed.origin), placed.device])}\n`;
    case 'link':
      return `${JSON.stringify([...head, ...attributeFields(placed.attributes), ...originFields(placed.origin), placed.target])}\n`;
    case 'hardLink':
      return `${JSON.stringify([...head, placed.target])}\n`;
    case 'whiteout':
      return `${JSON.stringify(head)}\n`;
  }
}

const decodeXattr = arrayOf(decodeString, 2);

function attributesFrom(line: readonly unknown[]): DirectoryAttributes {
  return {
    mode: decodeUint32(line[2], 'mode'),
    uid: decodeUint32(line[3], 'uid'),
    gid: decodeUint32(line[4], 'gid'),
    mtimeNs: BigInt(decodeString(line[5], 'mtime')),
    xattrs: arrayOf(decodeXattr)(line[6], 'xattrs').map(([name = '', value = '']) => ({ name, value: Buffer.from(value, 'base64') })),
  };
}

function nodeOf(line: readonly unknown[], kind: string, existing: LayerNode | undefined, root: DirectoryNode): LayerNode {
  if (kind === 'w') return null;
  if (kind === 'h') return nodeAt(root, decodeString(line[2], 'target').split('/')) ?? null;
  const attributes = attributesFrom(line);
  if (kind === 'd') {
    const node = existing instanceof DirectoryNode ? existing : new DirectoryNode(attributes);
    node.attributes = attributes;
    node.isOpaque ||= line[7] === 1;
    return node;
  }
  const [ordinal, layer] = [decodeSafeInteger(line[7], 'ordinal'), decodeSafeInteger(line[8], 'layer')];
  if (layer >= 0) return new CopiedNode(layer, ordinal);
  return kind === 'l' ? new LinkNode(decodeNonEmptyString(line[9], 'target'), ordinal) : ordinal;
}

/** The whole index as a tree, for `findBelow`. Later lines replace earlier ones. Throws dataLoss on a damaged index. */
export function decodeIndexTree(text: string): DirectoryNode {
  const root = new DirectoryNode(plainDirectory);
  try {
    for (const row of text.split('\n')) {
      if (row === '') continue;
      const line = arrayOf((value) => value)(parseJson(row, 'line'), 'line');
      const [kind, path] = [decodeString(line[0], 'kind'), decodeString(line[1], 'path').split('/')];
      const parent = nodeAt(root, path.slice(0, -1));
      const name = path.at(-1);
      if (!(parent instanceof DirectoryNode) || name === undefined)
        throw new RuntimeError('dataLoss', `entry ${JSON.stringify(path.join('/').slice(0, 200))} without its directory`);
      parent.children.set(name, nodeOf(line, kind, parent.children.get(name), root));
    }
  } catch (cause) {
    throw new RuntimeError('dataLoss', `read layer index: ${cause instanceof Error ? cause.message : 'damaged'}`, { cause });
  }
  return root;
}
