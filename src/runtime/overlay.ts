/** Options of an overlay mount. In: names of directories. Out: the text for mount(2), or an error where it is too long. Pure. */
import { RuntimeError, assert } from '#core';
import { overlayLabel } from './lsm.ts';

/** mount(2) takes one page of options, its end included. */
const optionBytesMax = 4095;

/** The layers of an overlay, and the directories that make it writable. */
export interface OverlayDirectories {
  /** Short names relative to the working directory of the mount, or absolute ones, the topmost layer first. */
  readonly lower: readonly string[];
  readonly writable?: { readonly upper: string; readonly work: string };
  /** Further options of the file system, such as `volatile`. */
  readonly options?: readonly string[];
}

/** The text of the options; `what` begins the error where they need more than a page. Throws resourceExhausted. */
export function overlayOptions({ lower, writable, options = [] }: OverlayDirectories, what: string): string {
  for (const name of [...lower, ...(writable === undefined ? [] : [writable.upper, writable.work])])
    assert(name !== '' && !/[:,\\]/.test(name), `an overlay directory is named ${JSON.stringify(name)}`);
  const text = [`lowerdir=${lower.join(':')}`, ...(writable === undefined ? [] : [`upperdir=${writable.upper}`, `workdir=${writable.work}`]), ...options].join(',');
  if (Buffer.byteLength(text) > optionBytesMax)
    throw new RuntimeError('resourceExhausted', `${what}: ${lower.length} layers need ${Buffer.byteLength(text)} bytes of options, at most ${optionBytesMax}`);
  return text;
}

/** Options of a container's root besides its directories. */
export function rootOptions(root: { readonly volatile?: boolean; readonly userAttributes?: boolean; readonly mountLabel?: string }): readonly string[] {
  return [...(root.volatile === true ? ['volatile'] : []), ...(root.userAttributes === true ? ['userxattr'] : []), ...overlayLabel(root.mountLabel)];
}
