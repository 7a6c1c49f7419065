/** How images are told and named on a command line. In: words and summaries. Out: values and lines. No I/O but the engine's. */
import { RuntimeError } from '#core';
import { type Platform, parseReference, repositoryTag } from '#oci';
import type { Engine, ImageSummary } from '#pod';
import { formatBytes, formatTable, printable, shortId } from './human.ts';

/** One line: names, id, size. */
export function describeImage(image: ImageSummary): string {
  const kind = image.kind === 'artifact' ? '  artifact' : '';
  return `${printable(image.names.join(' ') || image.digests[0] || shortId(image.id))}  ${shortId(image.id)}  ${formatBytes(image.sizeBytes)}${kind}`;
}

/** A reference, as it was written. Throws invalidArgument. */
export function decodeName(text: string): string {
  parseReference(text);
  return text;
}

/** A name that a stored image can get: with a tag or none, without a digest. Throws invalidArgument. */
export function decodeTag(text: string): string {
  if (parseReference(text).digest !== undefined) throw new RuntimeError('invalidArgument', `image name ${JSON.stringify(text.slice(0, 300))}: must have no digest`);
  return text;
}

/** A repository, without tag and digest. Throws invalidArgument. */
export function decodeRepository(text: string): string {
  const { digest } = parseReference(text);
  if (digest !== undefined || text.lastIndexOf(':') > text.lastIndexOf('/'))
    throw new RuntimeError('invalidArgument', `repository ${JSON.stringify(text.slice(0, 300))}: must have neither tag nor digest`);
  return text;
}

const platformPart = /^[a-z0-9][a-z0-9._-]{0,63}$/;

/** `os/architecture` or `os/architecture/variant`, as image indexes have them. Throws invalidArgument. */
export function decodePlatformText(text: string): Platform {
  const [os = '', architecture = '', variant, ...rest] = text.split('/');
  const parts = [os, architecture, ...(variant === undefined ? [] : [variant])];
  if (rest.length > 0 || !parts.every((part) => platformPart.test(part)))
    throw new RuntimeError('invalidArgument', 'must be os/architecture or os/architecture/variant, such as linux/arm64');
  return { os, architecture, ...(variant === undefined ? {} : { variant }) };
}

/** The image. Throws notFound `VERB image "NAME": no such image`. */
export async function getImage(engine: Engine, { verb, name }: { readonly verb: string; readonly name: string }): Promise<ImageSummary> {
  const image = await engine.imageStatus(name);
  if (image === undefined) throw new RuntimeError('notFound', `${verb} image ${JSON.stringify(name)}: no such image`);
  return image;
}

/** The full name that `text` is, where the image has it among its names. */
export function nameOf(image: ImageSummary, text: string): string | undefined {
  try {
    const reference = parseReference(text);
    const tag = reference.digest === undefined ? repositoryTag(reference) : undefined;
    return tag !== undefined && image.names.includes(tag) ? tag : undefined;
  } catch {
    // An id is no reference.
    return undefined;
  }
}

/** A table, or a sentence where it would have no rows. */
export function tableOr(sentence: string, headings: readonly string[], rows: readonly (readonly string[])[]): string {
  return rows.length === 0 ? sentence : formatTable(headings, rows).join('\n');
}
