/**
 * Image references as people and manifests write them. In: text. Out: registry, repository, tag and digest, normalised
 * to docker.io where no registry is named. No I/O.
 *
 * Grammar: `[registry/]repository[:tag][@digest]`. Source: the reference grammar of the distribution project and the
 * name and tag patterns of the distribution specification.
 */
import { RuntimeError } from '#core';
import { type Digest, isDigest, parseDigest } from './digest.ts';

/** A normalised image reference. */
export interface ImageReference {
  /** Host with optional port, such as `docker.io`, `127.0.0.1:5000` or `[::1]:5000`. */
  readonly registry: string;
  /** Path within the registry, such as `library/busybox`. */
  readonly repository: string;
  /** Absent only where a digest is given; a reference without both gets `latest`. */
  readonly tag?: string;
  readonly digest?: Digest;
}

const defaultRegistry = 'docker.io';
const repositoryBytesMax = 255;
const tagPattern = /^\w[\w.-]{0,127}$/;
const componentPattern = /^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*$/;
const hostPattern = /^(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)*|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?$/;

/** A first path component that can only be a host: it has a dot, a port, brackets or capitals, or is `localhost`. */
function looksLikeHost(component: string): boolean {
  return component === 'localhost' || /[.:[]/.test(component) || component !== component.toLowerCase();
}

function splitRegistry(name: string): { readonly registry: string; readonly repository: string } {
  const slash = name.indexOf('/');
  const first = name.slice(0, Math.max(slash, 0));
  if (slash < 0 || !looksLikeHost(first)) return { registry: defaultRegistry, repository: slash < 0 ? `library/${name}` : name };
  const repository = name.slice(slash + 1);
  if (first !== defaultRegistry && first !== 'index.docker.io') return { registry: first, repository };
  return { registry: defaultRegistry, repository: repository.includes('/') ? repository : `library/${repository}` };
}

function whyBadRepository(repository: string): string | undefined {
  if (repository.length > repositoryBytesMax) return `repository is longer than ${repositoryBytesMax} characters`;
  if (repository !== repository.toLowerCase()) return 'repository must be lower case';
  const bad = repository.split('/').find((component) => !componentPattern.test(component));
  if (bad === undefined) return undefined;
  return bad === '' ? 'repository has an empty part' : `repository part ${JSON.stringify(bad)} may have letters, digits and single separators (. _ __ -) between them`;
}

/**
 * Parses and normalises a reference: `busybox` is `docker.io/library/busybox:latest`.
 * Throws invalidArgument `image reference "…": cause`.
 */
export function parseReference(text: string): ImageReference {
  const fail = (cause: string): RuntimeError => new RuntimeError('invalidArgument', `image reference ${JSON.stringify(text.slice(0, 300))}: ${cause}`);
  if (text === '') throw fail('must not be empty');
  if (/^(?:sha256:|sha512:)?[0-9a-f]{64}(?:[0-9a-f]{64})?$/.test(text)) throw fail('is an image id, not a name');
  const at = text.indexOf('@');
  const digestText = at < 0 ? undefined : text.slice(at + 1);
  if (digestText !== undefined && !isDigest(digestText)) throw fail(`${JSON.stringify(digestText.slice(0, 140))} is no sha256 or sha512 digest`);
  const named = at < 0 ? text : text.slice(0, at);
  const colon = named.lastIndexOf(':');
  const hasTag = colon > named.lastIndexOf('/');
  const tag = hasTag ? named.slice(colon + 1) : undefined;
  if (tag !== undefined && !tagPattern.test(tag)) throw fail(`tag ${JSON.stringify(tag.slice(0, 140))} must be 1 to 128 letters, digits, "_", "." or "-"`);
  const name = hasTag ? named.slice(0, colon) : named;
  if (name === '') throw fail('has no repository');
  const { registry, repository } = splitRegistry(name);
  if (!hostPattern.test(registry)) throw fail(`${JSON.stringify(registry)} is no registry host`);
  const cause = whyBadRepository(repository);
  if (cause !== undefined) throw fail(cause);
  const digest = digestText === undefined ? undefined : parseDigest(digestText);
  const tagged = tag ?? (digest === undefined ? 'latest' : undefined);
  return { registry, repository, ...(tagged === undefined ? {} : { tag: tagged }), ...(digest === undefined ? {} : { digest }) };
}

/** `registry/repository`, without tag and digest. */
export function referenceName(reference: ImageReference): string {
  return `${reference.registry}/${reference.repository}`;
}

/** The whole normalised text, tag and digest included where present. */
export function formatReference(reference: ImageReference): string {
  const tag = reference.tag === undefined ? '' : `:${reference.tag}`;
  const digest = reference.digest === undefined ? '' : `@${reference.digest}`;
  return `${referenceName(reference)}${tag}${digest}`;
}

/** What a reference is recorded as: `name:tag` as a repository tag, or undefined for one by digest alone. */
export function repositoryTag(reference: ImageReference): string | undefined {
  return reference.tag === undefined ? undefined : `${referenceName(reference)}:${reference.tag}`;
}

/** `name@digest`, the repository digest of CRI. */
export function repositoryDigest(reference: ImageReference, digest: Digest): string {
  return `${referenceName(reference)}@${digest}`;
}
