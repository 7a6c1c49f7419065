/** What a verification finds and a repair is told. Pure. */
import type { Digest } from '#oci';
import { type ImageRecord, documentsOf, layerBlobsOf } from './catalog.ts';
import type { VerifyProblem } from './types.ts';

/** An image that is looked at; a removed one whose layers a container still uses has no record. */
export interface VerifiedImage {
  readonly id: Digest;
  readonly names: readonly string[];
  readonly record: ImageRecord | undefined;
  readonly layers: readonly Digest[];
}

/** Something damaged, and which images have it. */
export interface Damage {
  readonly kind: VerifyProblem['kind'];
  /** Digest of the blob or key of the layer. */
  readonly key: Digest;
  /** As it is reported: the blob's digest, or the layer's diff ID. */
  readonly digest: Digest;
  readonly detail: string;
}

/** What became of a damage. */
export type RepairOutcome = { readonly state: 'repaired' } | { readonly state: 'unrepairable'; readonly reason: string };

/** True when the image has the blob or layer. */
export function concerns({ record, layers }: VerifiedImage, { kind, key }: Pick<Damage, 'kind' | 'key'>): boolean {
  if (kind !== 'blob') return layers.includes(key);
  return record !== undefined && (documentsOf(record).includes(key) || layerBlobsOf(record).some(({ digest }) => digest === key));
}
