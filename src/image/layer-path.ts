/**
 * Names inside a layer's archive. In: text of a stranger. Out: path components, or invalidArgument. Pure.
 * Source: image-spec "layer.md"; CVE-2025-47290 and others about names that lead out of the layer.
 */
import { RuntimeError, limits } from '#core';

const nameBytesMax = 255;

/** An error about one entry of a layer. */
export function entryError(path: string, cause: string): RuntimeError {
  return new RuntimeError('invalidArgument', `unpack layer entry ${JSON.stringify(path.slice(0, 300))}: ${cause}`);
}

/**
 * Components of an entry's name. A leading slash, doubled slashes and `.` are taken out, as every tar program does; `..` is
 * refused. The root itself gives no components.
 */
export function decodeLayerPath(path: string): readonly string[] {
  const components = path.split('/').filter((component) => component !== '' && component !== '.');
  if (components.includes('..')) throw entryError(path, 'names must not contain ".."');
  if (components.length > limits.tarDepthMax) throw entryError(path, `${components.length} directories deep, at most ${limits.tarDepthMax}`);
  if (components.some((component) => Buffer.byteLength(component) > nameBytesMax)) throw entryError(path, `a name is longer than ${nameBytesMax} bytes`);
  return components;
}

/** What a file name means to the layer format. */
export type LayerName = { readonly kind: 'plain' } | { readonly kind: 'opaque' } | { readonly kind: 'whiteout'; readonly hides: string } | { readonly kind: 'metadata' };

/** Sorts `.wh.` names out. Names beginning with `.wh..wh.` are bookkeeping of an old file system and mean nothing, `.wh..wh..opq` excepted. */
export function classifyLayerName(name: string, path: string): LayerName {
  if (!name.startsWith('.wh.')) return { kind: 'plain' };
  if (name === '.wh..wh..opq') return { kind: 'opaque' };
  if (name.startsWith('.wh..wh.')) return { kind: 'metadata' };
  const hides = name.slice('.wh.'.length);
  if (hides === '' || hides === '.' || hides === '..') throw entryError(path, 'is a whiteout of no name');
  return { kind: 'whiteout', hides };
}

/** Extended attributes by which an overlay steers itself; content must not set them. */
export function isReservedXattr(name: string): boolean {
  return name.startsWith('trusted.overlay.') || name.startsWith('user.overlay.');
}
