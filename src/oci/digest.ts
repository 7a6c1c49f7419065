/**
 * Content digests as data. In: text. Out: a branded `Digest`. No hashing and no I/O here.
 * Source: image-spec "descriptor.md", section Digests: registered algorithms sha256 and sha512.
 */
import { type Branded, RuntimeError } from '#core';
import { type Decoder, decodeString } from './decode.ts';

/** `sha256:` and 64, or `sha512:` and 128, lower-case hex digits; safe as path components once split. */
export type Digest = Branded<'Digest'>;

const digestPattern = /^(?:sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})$/;

/** True for a digest of a registered algorithm in its canonical spelling. */
export function isDigest(text: string): text is Digest {
  return digestPattern.test(text);
}

/** The text as a digest. Throws invalidArgument with `what` (such as `image reference "x@y"`) before the cause. */
export function parseDigest(text: string, what = 'digest'): Digest {
  if (!isDigest(text)) throw new RuntimeError('invalidArgument', `${what}: ${JSON.stringify(text.slice(0, 140))} is no sha256 or sha512 digest`);
  return text;
}

/** A digest inside a JSON document. */
export const decodeDigest: Decoder<Digest> = (value, path) => parseDigest(decodeString(value, path), path);

/** Algorithm and hex digits, each usable as one path component. */
export function digestParts(digest: Digest): { readonly algorithm: 'sha256' | 'sha512'; readonly hex: string } {
  return { algorithm: digest.startsWith('sha256:') ? 'sha256' : 'sha512', hex: digest.slice(7) };
}

/** The digest of an algorithm's hex digits, as `createHash(…).digest('hex')` gives them. Throws invalidArgument on another shape. */
export function digestOf(algorithm: 'sha256' | 'sha512', hex: string): Digest {
  return parseDigest(`${algorithm}:${hex}`);
}
