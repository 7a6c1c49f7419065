/** Lists that registries give, as data. In: bodies of answers. Out: tags and descriptors, or invalidArgument with the place. Pure. */
import { type RuntimeError, invalidArgument } from '#core';
import {
  type Decoder,
  type Descriptor,
  type Digest,
  arrayOf,
  decodeDescriptor,
  decodeManifestDocument,
  decodeString,
  digestParts,
  fieldsOf,
  mapOf,
  mediaTypes,
  parseJson,
} from '#oci';
import type { ReferrerDescriptor } from './types.ts';

/** Source: distribution-spec v1.1, the pattern of a tag. */
const tagPattern = /^\w[\w.-]{0,127}$/;

const decodeTag: Decoder<string> = (value, path) => {
  const tag = decodeString(value, path);
  if (!tagPattern.test(tag)) throw invalidArgument(path, `${JSON.stringify(tag.slice(0, 140))} is no tag`);
  return tag;
};

/** One page of a list of tags; a registry writes `null` for none. */
export function decodeTags(body: Buffer, what: string): readonly string[] {
  return fieldsOf(parseJson(body.toString('utf8'), what), what).optional('tags', arrayOf(decodeTag)) ?? [];
}

/** One page of a list of referrers, which is an index. */
export function decodeReferrers(body: Buffer, what: string): readonly ReferrerDescriptor[] {
  const document = decodeManifestDocument(body, { what, mediaType: mediaTypes.ociIndex });
  if (document.kind !== 'index') throw notAnIndex(what);
  return document.manifests.map(referrerOf);
}

function notAnIndex(what: string): RuntimeError {
  return invalidArgument(what, 'not an index');
}

function referrerOf({ mediaType, digest, size, artifactType, annotations }: Descriptor): ReferrerDescriptor {
  return { mediaType, digest, size, annotations, ...(artifactType === undefined ? {} : { artifactType }) };
}

/** What a manifest of ours says it is about, as the entry that belongs into the list of its subject; undefined where it has no subject. */
export function decodeSubject(
  bytes: Uint8Array,
  manifest: { readonly mediaType: string; readonly digest: Digest },
): { readonly subject: Digest; readonly entry: ReferrerDescriptor } | undefined {
  const what = `manifest ${manifest.digest}`;
  const fields = fieldsOf(parseJson(Buffer.from(bytes).toString('utf8'), what), what);
  const subject = fields.optional('subject', decodeDescriptor);
  if (subject === undefined) return undefined;
  // Source: distribution-spec v1.1, "Listing Referrers": without an artifact type of its own a manifest has that of its config.
  const artifactType = fields.optional('artifactType', decodeString) || fields.optional('config', decodeDescriptor)?.mediaType;
  const annotations = fields.withDefault('annotations', mapOf(decodeString), {});
  return { subject: subject.digest, entry: { ...manifest, size: bytes.length, annotations, ...(artifactType === undefined ? {} : { artifactType }) } };
}

/** The list with one more entry, as the document that is stored under its tag; undefined where the entry is in it. */
export function encodeReferrers(known: readonly ReferrerDescriptor[], entry: ReferrerDescriptor): Buffer | undefined {
  if (known.some(({ digest }) => digest === entry.digest)) return undefined;
  return Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: mediaTypes.ociIndex, manifests: [...known, entry] }));
}

/** Tag under which a registry without a list of referrers keeps one. Source: distribution-spec v1.1, "Referrers Tag Schema". */
export function referrersTag(digest: Digest): string {
  const { algorithm, hex } = digestParts(digest);
  return `${algorithm.slice(0, 32)}-${hex.slice(0, 64)}`;
}
