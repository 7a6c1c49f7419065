/** `features`. In: the kernel's release. Out: the document for the caller. */
import { release } from 'node:os';
import { decodeKernelRelease } from '#system';
import { describeFeatures } from './features.ts';
import type { OciContext, Outcome } from './types.ts';

/** `features`. */
export function showFeatures({ front }: OciContext, version: string): Outcome {
  front.write(1, describeFeatures({ version, kernel: decodeKernelRelease(release()) }));
  return { kind: 'exit', code: 0 };
}
