/**
 * Mount options as the kernel's flags. In: the words of a mount's `options`. Out: attributes, propagation and the rest, which goes to the
 * file system. Pure. Source: runtime-spec config.md "Linux mount options", mount(8), mount_setattr(2).
 */
import { mountAttr, ms } from '#plan';

/** Options of one mount, decoded. */
export interface MountOptions {
  readonly bind: boolean;
  readonly recursive: boolean;
  /** MOUNT_ATTR bits to set and to clear on the mount itself. */
  readonly set: number;
  readonly clear: number;
  /** The same for the mount and everything below it (`rro`, `rnosuid`, …). */
  readonly setRecursive: number;
  readonly clearRecursive: number;
  /** MS_PRIVATE, MS_SLAVE, MS_SHARED or MS_UNBINDABLE; 0: none asked. */
  readonly propagation: number;
  readonly propagationRecursive: boolean;
  readonly copyUp: boolean;
  /** Other flags for what is mounted already. */
  readonly remount: boolean;
  /** Ids are mapped, of the mount alone or of all below it too. */
  readonly idMap?: 'mount' | 'tree';
  /** Words of the whole file system, such as `sync`, which a bind has no say in. */
  readonly superblock: readonly string[];
  /** What the file system itself is given, such as `size=64k`. */
  readonly data: readonly string[];
}

type Attribute = readonly [set: number, clear: number];

const attributes: Readonly<Record<string, Attribute>> = {
  ro: [mountAttr.readOnly, 0],
  rw: [0, mountAttr.readOnly],
  nosuid: [mountAttr.noSuid, 0],
  suid: [0, mountAttr.noSuid],
  nodev: [mountAttr.noDev, 0],
  dev: [0, mountAttr.noDev],
  noexec: [mountAttr.noExec, 0],
  exec: [0, mountAttr.noExec],
  noatime: [mountAttr.noAtime, mountAttr.atimeMask],
  atime: [0, mountAttr.atimeMask],
  strictatime: [mountAttr.strictAtime, mountAttr.atimeMask],
  nostrictatime: [0, mountAttr.atimeMask],
  relatime: [0, mountAttr.atimeMask],
  norelatime: [0, mountAttr.atimeMask],
  nodiratime: [mountAttr.noDirAtime, 0],
  diratime: [0, mountAttr.noDirAtime],
  nosymfollow: [mountAttr.noSymFollow, 0],
  symfollow: [0, mountAttr.noSymFollow],
};

const propagations: Readonly<Record<string, number>> = { private: ms.private, slave: ms.slave, shared: ms.shared, unbindable: ms.unbindable };

/** Words that say nothing more or only matter to fstab. */
const ignored = new Set(['defaults', 'async', 'nofail', 'auto', 'noauto', 'user', 'nouser', 'silent', 'loud', 'iversion', 'noiversion', 'mand', 'nomand', 'nolazytime', '_netdev']);

/** Flags of a file system, whichever mount shows it. Mandatory locks are gone since Linux 5.15, and only some types count versions by an option. */
const superblockWords = new Set(['sync', 'dirsync', 'lazytime']);

/** Takes an earlier word back. */
const undoes: Readonly<Record<string, string>> = { async: 'sync', nolazytime: 'lazytime' };

/** The later of two words that contradict each other counts. Any word is accepted: what is no option of a mount is one of the file system. */
export function decodeMountOptions(options: readonly string[]): MountOptions {
  const state = { bind: false, recursive: false, set: 0, clear: 0, setRecursive: 0, clearRecursive: 0, propagation: 0, propagationRecursive: false, copyUp: false, remount: false };
  const data: string[] = [];
  const superblock = new Set<string>();
  let idMap: MountOptions['idMap'];
  const apply = (set: 'set' | 'setRecursive', clear: 'clear' | 'clearRecursive', [bits, cleared]: Attribute): void => {
    state[set] = (state[set] & ~cleared) | bits;
    state[clear] = (state[clear] & ~bits) | cleared;
  };
  for (const word of options) {
    const rest = word.startsWith('r') ? word.slice(1) : '';
    if (Object.hasOwn(attributes, word)) apply('set', 'clear', attributes[word] ?? [0, 0]);
    else if (Object.hasOwn(attributes, rest)) apply('setRecursive', 'clearRecursive', attributes[rest] ?? [0, 0]);
    else if (Object.hasOwn(propagations, word) || Object.hasOwn(propagations, rest)) {
      state.propagation = propagations[word] ?? propagations[rest] ?? 0;
      state.propagationRecursive = !Object.hasOwn(propagations, word);
    } else if (word === 'bind' || word === 'rbind') {
      state.bind = true;
      state.recursive = word === 'rbind';
    } else if (word === 'tmpcopyup') state.copyUp = true;
    else if (word === 'idmap' || word === 'ridmap') idMap = word === 'idmap' ? 'mount' : 'tree';
    else if (word === 'remount') state.remount = true;
    else if (superblockWords.has(word)) superblock.add(word);
    else if (ignored.has(word)) superblock.delete(undoes[word] ?? '');
    else data.push(word);
  }
  return { ...state, ...(idMap === undefined ? {} : { idMap }), superblock: [...superblock], data };
}
