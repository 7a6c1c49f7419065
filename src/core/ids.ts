/** Ids and names: their patterns, brands and generation from given randomness. No I/O. */
import { RuntimeError } from './errors.ts';

declare const brand: unique symbol;
/** A string that only a decoder of this project may produce. */
export type Branded<Name extends string> = string & { readonly [brand]: Name };

/** Id of a pod sandbox: 64 hex digits in practice, always one path component. */
export type PodSandboxId = Branded<'PodSandboxId'>;
/** Id of a container, shaped like a PodSandboxId. */
export type ContainerId = Branded<'ContainerId'>;

const idPattern = /^[a-z0-9][a-z0-9_.-]{0,127}$/i;

/** True where the text may be used as one path component and as an id: 1 to 128 characters of letters, digits, `_.-`. */
export function isSafeId(text: string): boolean {
  return idPattern.test(text) && text !== '.' && text !== '..';
}

function decodeId(kind: string, text: string): string {
  if (!isSafeId(text)) throw new RuntimeError('invalidArgument', `${kind} id ${JSON.stringify(text.slice(0, 140))}: must match ${idPattern.source}`);
  return text;
}

/** The text as a pod sandbox id. Throws invalidArgument where it could not be a path component. */
export function podSandboxId(text: string): PodSandboxId {
  // SAFETY: decodeId has just checked the pattern that the brand stands for.
  return decodeId('pod sandbox', text) as PodSandboxId;
}

/** The text as a container id. Throws invalidArgument where it could not be a path component. */
export function containerId(text: string): ContainerId {
  // SAFETY: decodeId has just checked the pattern that the brand stands for.
  return decodeId('container', text) as ContainerId;
}

/** 64 lower-case hex digits from 32 random bytes, the shape of ids that Kubernetes tools expect. */
export function encodeId(random32Bytes: Uint8Array): string {
  return Buffer.from(random32Bytes).toString('hex');
}
