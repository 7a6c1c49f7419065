/**
 * The closed list of what the interpreter can do. One row per step: its number, its fields in wire order, what the
 * interpreter does (`does`, printed into the generated C header and docs), and one sentence for people (`says`).
 *
 * In: nothing. Out: the table, from which the TypeScript types, the encoder, the decoder, `berth explain` and
 * `native/steps.gen.h` are all derived. This file holds no policy: a step is a kernel call or a short fixed sequence of them.
 *
 * Numbers are never reused. A new step gets the next free number of its group.
 */

/** Wire types. `slot` is an index into the slot table (65535: none); `text` and `texts` carry no NUL bytes. */
export type FieldType = 'u32' | 'i32' | 'u64' | 'slot' | 'text' | 'bytes' | 'texts' | 'u32s';

/** Values of the wire types in TypeScript. */
export interface FieldValues {
  u32: number;
  i32: number;
  u64: bigint;
  slot: number;
  text: string;
  bytes: Uint8Array;
  texts: readonly string[];
  u32s: readonly number[];
}

/** What sentences may show. */
export interface Wording {
  /** Prints environment values and file contents instead of `<redacted>`. */
  readonly showSecrets: boolean;
  /** For errors: leaves out what only a reader of the whole plan wants, such as the environment. */
  readonly brief?: boolean;
}

interface StepDefinition<Fields extends Readonly<Record<string, FieldType>>> {
  readonly op: number;
  readonly fields: Fields;
  /** Exact behaviour of the interpreter, in one or two sentences; copied into the C header. */
  readonly does: string;
  /** One sentence without final stop, starting with a verb in lower case, for errors and `berth explain`. */
  readonly says: (step: { readonly [F in keyof Fields]: FieldValues[Fields[F]] }, wording: Wording) => string;
}

function step<const Fields extends Readonly<Record<string, FieldType>>>(definition: StepDefinition<Fields>): StepDefinition<Fields> {
  return definition;
}

/** Slot number that stands for "no slot": paths are then resolved from the process's own root or working directory. */
export const noSlot = 65535;
/** Slots below this number belong to the pod and live as long as its shim; those from here on to one plan execution. */
export const podSlotCount = 64;

/** CLONE_* flags, as in linux/sched.h. */
export const clone = {
  newTime: 0x80,
  newMount: 0x20000,
  newCgroup: 0x2000000,
  newUts: 0x4000000,
  newIpc: 0x8000000,
  newUser: 0x10000000,
  newPid: 0x20000000,
  newNet: 0x40000000,
} as const;

/** RESOLVE_* flags of openat2(2). */
export const resolve = { noCrossMount: 1, noMagicLinks: 2, noSymlinks: 4, beneath: 8, inRoot: 16 } as const;

/** O_* flags of open(2) on x86-64 and arm64 where they agree; the interpreter adds O_CLOEXEC. */
export const open = { readOnly: 0, writeOnly: 1, readWrite: 2, create: 0o100, exclusive: 0o200, truncate: 0o1000, nonBlock: 0o4000, directory: 0o200000, noFollow: 0o400000, path: 0o10000000 } as const;

/** MS_* flags of mount(2). */
export const ms = {
  readOnly: 1, noSuid: 2, noDev: 4, noExec: 8, remount: 32, bind: 4096, move: 8192, recursive: 16384,
  unbindable: 1 << 17, private: 1 << 18, slave: 1 << 19, shared: 1 << 20, relatime: 1 << 21, strictAtime: 1 << 24,
} as const;

/** MOUNT_ATTR_* flags of fsmount(2) and mount_setattr(2). */
export const mountAttr = { readOnly: 1, noSuid: 2, noDev: 4, noExec: 8, relatime: 0, noAtime: 0x10, strictAtime: 0x20, atimeMask: 0x70, noDirAtime: 0x80, idmap: 0x100000, noSymFollow: 0x200000 } as const;

/** What `writeFile` verifies the opened file to be on. */
export const fileSystem = { any: 0, proc: 1, sysfs: 2, cgroup: 3 } as const;

/** What `moveMount` makes where its target is missing. */
export const createTarget = { none: 0, directory: 1, file: 2, asSource: 3 } as const;

const at = (slot: number, path: string): string => (slot === noSlot ? path : path === '' ? `slot ${slot}` : `${path} below slot ${slot}`);
const octal = (mode: number): string => `0${(mode & 0o7777).toString(8)}`;
const hex = (value: number | bigint): string => `0x${value.toString(16)}`;
const namesOf = (flags: number, table: Readonly<Record<string, number>>): string => {
  const names = Object.entries(table).filter(([, bit]) => bit !== 0 && (flags & bit) === bit).map(([name]) => name);
  return names.length === 0 ? 'none' : names.join(', ');
};
const spaceNames: Readonly<Record<string, number>> = { time: clone.newTime, mount: clone.newMount, cgroup: clone.newCgroup, uts: clone.newUts, ipc: clone.newIpc, user: clone.newUser, pid: clone.newPid, net: clone.newNet };
const propagationNames: Readonly<Record<string, number>> = { unbindable: ms.unbindable, private: ms.private, slave: ms.slave, shared: ms.shared };
const mountNames: Readonly<Record<string, number>> = { ro: ms.readOnly, nosuid: ms.noSuid, nodev: ms.noDev, noexec: ms.noExec, remount: ms.remount, bind: ms.bind, rec: ms.recursive };
const attrNames: Readonly<Record<string, number>> = { ro: mountAttr.readOnly, nosuid: mountAttr.noSuid, nodev: mountAttr.noDev, noexec: mountAttr.noExec, noatime: mountAttr.noAtime, idmap: mountAttr.idmap };
const netlinkNames: Readonly<Record<number, string>> = { 0: 'route', 12: 'netfilter' };
const content = (data: Uint8Array, { showSecrets }: Wording): string => (showSecrets ? JSON.stringify(Buffer.from(data).toString('utf8')) : `${data.length} bytes`);
/** Control files of the kernel hold no secrets, so their values are always printed. */
const control = (data: Uint8Array): string => JSON.stringify(Buffer.from(data).toString('utf8').trimEnd());
const bitsOf = (mask: Uint8Array): string => {
  const bits = [...mask].flatMap((byte, index) => [0, 1, 2, 3, 4, 5, 6, 7].filter((bit) => ((byte >> bit) & 1) !== 0).map((bit) => index * 8 + bit));
  const starts = bits.filter((bit, index) => bits[index - 1] !== bit - 1);
  const ends = bits.filter((bit, index) => bits[index + 1] !== bit + 1);
  return bits.length === 0 ? 'none' : starts.map((start, index) => (start === ends[index] ? String(start) : `${start}-${ends[index]}`)).join(',');
};
const redactEnv = (env: readonly string[], { showSecrets }: Wording): string =>
  env.map((entry) => (showSecrets ? entry : `${entry.slice(0, entry.indexOf('='))}=<redacted>`)).join(' ');

/** Every step. A row's key is the step's kind. */
export const vocabulary = {
  // --- control flow (1 to 9)
  skip: step({
    op: 1, fields: { count: 'u32' },
    does: 'Continues after the next `count` steps.',
    says: (s) => `skip the next ${s.count} steps`,
  }),
  barrier: step({
    op: 2, fields: { barrier: 'u32' },
    does: 'In a child: reports the barrier and waits. The shim then runs the host sections tagged with this barrier; barrier 1 (start) is released by a start request only, every other one as soon as those sections are done.',
    says: (s) => (s.barrier === 1 ? 'wait for the start request' : `wait at barrier ${s.barrier}`),
  }),
  ask: step({
    op: 3, fields: { root: 'slot', files: 'texts', bytesMax: 'u32' },
    does: 'Reads each file below the root (openat2 with RESOLVE_IN_ROOT and no magic links; O_NONBLOCK; regular files of at most bytesMax only) and sends them to the caller, each with errno or content; waits for the sections that the caller sends back and runs those for this actor next.',
    says: (s) => `read ${s.files.join(' and ')} inside the root and ask for the sections that depend on them`,
  }),

  // --- files (10 to 29)
  openPath: step({
    op: 10, fields: { dir: 'slot', path: 'text', flags: 'u32', mode: 'u32', resolve: 'u32', out: 'slot' },
    does: 'openat2(dir, path, flags|O_CLOEXEC, mode, resolve) into slot out. EAGAIN is retried 32 times.',
    says: (s) => `open ${at(s.dir, s.path)} (${namesOf(s.flags, open)}) into slot ${s.out}`,
  }),
  closeSlot: step({
    op: 11, fields: { slot: 'slot' },
    does: 'Closes the slot; an empty slot is no error.',
    says: (s) => `close slot ${s.slot}`,
  }),
  makeDirectory: step({
    op: 12, fields: { dir: 'slot', path: 'text', mode: 'u32', parents: 'u32' },
    does: 'mkdir below dir with exactly this mode whatever the umask; parents=1 makes missing parents (mode 0755) and accepts an existing directory. Below a slot every component is resolved with RESOLVE_IN_ROOT.',
    says: (s) => `make the directory ${at(s.dir, s.path)} with mode ${octal(s.mode)}`,
  }),
  makeFile: step({
    op: 13, fields: { dir: 'slot', path: 'text', mode: 'u32', data: 'bytes' },
    does: 'Creates or truncates a regular file below dir (never through a final link) with this mode and content.',
    says: (s, w) => `write the file ${at(s.dir, s.path)} with mode ${octal(s.mode)} (${content(s.data, w)})`,
  }),
  writeFile: step({
    op: 14, fields: { dir: 'slot', path: 'text', data: 'bytes', fileSystem: 'u32' },
    does: 'Opens an existing file for writing (no links, no magic links, not across mounts when fileSystem is proc; 0 any, 1 procfs, 2 sysfs, 3 cgroup or cgroup2), verifies the file system by fstatfs and writes data in one write(2).',
    says: (s, w) => `write ${s.fileSystem === fileSystem.any ? content(s.data, w) : control(s.data)} to ${at(s.dir, s.path)}`,
  }),
  makeLink: step({
    op: 15, fields: { dir: 'slot', path: 'text', target: 'text' },
    does: 'symlinkat(target, dir, path), the parent resolved with RESOLVE_IN_ROOT below a slot.',
    says: (s) => `make the link ${at(s.dir, s.path)} to ${s.target}`,
  }),
  makeNode: step({
    op: 16, fields: { dir: 'slot', path: 'text', mode: 'u32', major: 'u32', minor: 'u32', uid: 'u32', gid: 'u32' },
    does: 'Makes the missing parents (0755), then mknodat below dir with RESOLVE_IN_ROOT; mode holds the type bits; sets mode and owner exactly.',
    says: (s) => `make the device node ${at(s.dir, s.path)} ${s.major}:${s.minor} with mode ${octal(s.mode)}, owner ${s.uid}:${s.gid}`,
  }),
  changeOwner: step({
    op: 17, fields: { dir: 'slot', path: 'text', uid: 'u32', gid: 'u32' },
    does: 'fchownat by descriptor after opening with O_PATH|O_NOFOLLOW (RESOLVE_IN_ROOT below a slot).',
    says: (s) => `give ${at(s.dir, s.path)} to ${s.uid}:${s.gid}`,
  }),
  removeFile: step({
    op: 18, fields: { dir: 'slot', path: 'text' },
    does: 'unlinkat.',
    says: (s) => `remove the file ${at(s.dir, s.path)}`,
  }),
  removeDirectory: step({
    op: 19, fields: { dir: 'slot', path: 'text' },
    does: 'unlinkat with AT_REMOVEDIR.',
    says: (s) => `remove the empty directory ${at(s.dir, s.path)}`,
  }),
  removeTree: step({
    op: 20, fields: { dir: 'slot', path: 'text' },
    does: 'Removes a tree without following links and without crossing into another file system; a missing tree is no error.',
    says: (s) => `remove the tree ${at(s.dir, s.path)}`,
  }),
  copyTree: step({
    op: 21, fields: { fromDir: 'slot', from: 'text', dir: 'slot', path: 'text' },
    does: 'Copies the entries of a directory (regular files, directories, links; mode, owner, times, xattrs kept) into an existing empty directory, both resolved with RESOLVE_IN_ROOT below slots; a missing or non-empty source or target directory is no error and copies nothing when from is missing.',
    says: (s) => `copy what ${at(s.fromDir, s.from)} holds into ${at(s.dir, s.path)}`,
  }),
  fillDirectory: step({
    op: 22, fields: { fromDir: 'slot', from: 'text', dir: 'slot', path: 'text', bytesMax: 'u64', entriesMax: 'u32' },
    does: 'Makes an existing empty directory a copy of another: the entries as copyTree does, then the owner, mode, times and xattrs of the directory itself; both resolved with RESOLVE_IN_ROOT below slots. A missing from is no error and changes nothing, one that is no directory is ENOTDIR, the root of fromDir itself is EINVAL; more bytes or entries than the bounds are EDQUOT.',
    says: (s) => `make ${at(s.dir, s.path)} a copy of the directory ${at(s.fromDir, s.from)}, of at most ${s.bytesMax} bytes and ${s.entriesMax} entries`,
  }),
  syncFileSystem: step({
    op: 23, fields: { dir: 'slot', path: 'text' },
    does: 'Opens the directory (links followed: it is the engine\'s own) and calls syncfs: everything written to its file system before is on the disk afterwards.',
    says: (s) => `write the file system of ${at(s.dir, s.path)} to its disk`,
  }),
  shiftTree: step({
    op: 24, fields: { fromDir: 'slot', from: 'text', dir: 'slot', path: 'text', uids: 'u32s', gids: 'u32s' },
    does: 'Copies a layer into an existing empty directory with mapped owners: every kind of entry, holes, hard links, modes, times and xattrs; ids of access control lists and of file capabilities are mapped too. uids and gids are triples: first id inside, first id outside, count. What has no mapping gets 65534 and loses its set-id bits. No link is followed, the end is synced, a failure names the entry.',
    says: (s) => `copy the layer ${at(s.fromDir, s.from)} to ${at(s.dir, s.path)} for the user ids ${s.uids.join(' ')} and group ids ${s.gids.join(' ')}`,
  }),

  // --- namespaces (30 to 39)
  unshare: step({
    op: 30, fields: { flags: 'u32' },
    does: 'unshare(flags). Forbidden to the host actor.',
    says: (s) => `create new namespaces: ${namesOf(s.flags, spaceNames)}`,
  }),
  openNamespace: step({
    op: 31, fields: { type: 'u32', out: 'slot' },
    does: 'Opens /proc/thread-self/ns/<type> of the executing process into slot out (for pid: pid_for_children).',
    says: (s) => `keep the own ${namesOf(s.type, spaceNames)} namespace in slot ${s.out}`,
  }),
  enterNamespace: step({
    op: 32, fields: { slot: 'slot', type: 'u32' },
    does: 'setns(slot, type); ESRCH for a mount or PID namespace that the actor is in already. Forbidden to the host actor.',
    says: (s) => `enter the ${namesOf(s.type, spaceNames)} namespace of slot ${s.slot}`,
  }),
  exportSlot: step({
    op: 33, fields: { slot: 'slot', podSlot: 'slot' },
    does: 'In a child: hands the descriptor to the shim, which keeps it in the pod slot or, from 64 on, in that slot for the children of this plan that come later.',
    says: (s) => `hand slot ${s.slot} to the shim as ${s.podSlot < podSlotCount ? 'pod slot' : 'slot'} ${s.podSlot}`,
  }),
  fork: step({
    op: 34, fields: { flags: 'u32' },
    does: 'In a child: continues in a new process made with CLONE_PARENT and these namespace flags, so that the shim is its parent; reports the new pid and ends the old process. Used last before execute, so that what is seen inside a joined PID namespace holds nothing.',
    says: (s) => `continue in a new process (new namespaces: ${namesOf(s.flags, spaceNames)})`,
  }),
  setHostname: step({
    op: 35, fields: { name: 'text' },
    does: 'sethostname.',
    says: (s) => `set the hostname to ${s.name}`,
  }),
  setDomainname: step({
    op: 36, fields: { name: 'text' },
    does: 'setdomainname.',
    says: (s) => `set the NIS domain name to ${s.name}`,
  }),
  forkInside: step({
    op: 37, fields: { flags: 'u32' },
    does: 'As fork, with CLONE_NEWPID among the flags and the slots kept: continues as the init of a new PID namespace, which nobody else lives in. For a process that had to enter a user namespace first.',
    says: (s) => `continue as the init of a new PID namespace (new namespaces: ${namesOf(s.flags, spaceNames)})`,
  }),

  // --- network (40 to 49)
  netlink: step({
    op: 40, fields: { protocol: 'u32', messages: 'bytes', slotPatches: 'u32s' },
    does: 'Opens a netlink socket of this protocol in the current network namespace, writes the descriptor numbers of slots into the messages (pairs: byte offset, slot), sends all messages in one datagram and reads one acknowledgement per message that asks for it; extended acks are on, and the message of the first error becomes the detail. With NETLINK_NETFILTER the batch is acknowledged per message too.',
    says: (s) => `send ${s.messages.length} bytes of ${netlinkNames[s.protocol] ?? s.protocol} netlink messages`,
  }),

  // --- mounts (50 to 69)
  setPropagation: step({
    op: 50, fields: { path: 'text', flags: 'u32' },
    does: 'mount(NULL, path, NULL, flags, NULL) with propagation flags (MS_REC allowed).',
    says: (s) => `make ${s.path} ${namesOf(s.flags, propagationNames)}${(s.flags & ms.recursive) === 0 ? '' : ' recursively'}`,
  }),
  openTree: step({
    op: 51, fields: { dir: 'slot', path: 'text', resolve: 'u32', recursive: 'u32', out: 'slot' },
    does: 'Opens the path with O_PATH through openat2, then open_tree(fd, "", AT_EMPTY_PATH|OPEN_TREE_CLONE|OPEN_TREE_CLOEXEC, AT_RECURSIVE when recursive=1) into slot out.',
    says: (s) => `clone the mount at ${at(s.dir, s.path)}${s.recursive === 0 ? '' : ' with what is mounted below it'} into slot ${s.out}`,
  }),
  newFileSystem: step({
    op: 52, fields: { type: 'text', options: 'texts', attributes: 'u32', out: 'slot' },
    does: 'fsopen, one fsconfig per option (`key=value` or a flag; `source=` sets the source), FSCONFIG_CMD_CREATE, fsmount with these MOUNT_ATTR flags into slot out. The log of the fs context becomes the detail of a failure.',
    says: (s) => `create a ${s.type} file system (${[...s.options, namesOf(s.attributes, attrNames)].join(', ')}) in slot ${s.out}`,
  }),
  mount: step({
    op: 53, fields: { cwd: 'text', source: 'text', target: 'text', type: 'text', flags: 'u32', data: 'text' },
    does: 'mount(2) after changing to cwd (when not empty), so that many layers fit one page of options; the working directory is restored afterwards.',
    says: (s) => `mount ${s.type === '' ? s.source : s.type} on ${s.target} (${namesOf(s.flags, mountNames)}${s.data === '' ? '' : `; ${s.data}`})`,
  }),
  setMountAttributes: step({
    op: 54, fields: { slot: 'slot', path: 'text', recursive: 'u32', set: 'u64', clear: 'u64', propagation: 'u64', userNamespace: 'slot' },
    does: 'mount_setattr on the mount of the slot (empty path: the slot itself; otherwise below it with RESOLVE_IN_ROOT). userNamespace is for MOUNT_ATTR_IDMAP.',
    says: (s) => `set mount attributes of ${at(s.slot, s.path)}${s.recursive === 0 ? '' : ' recursively'}: set ${namesOf(Number(s.set), attrNames)}, clear ${namesOf(Number(s.clear), attrNames)}, propagation ${namesOf(Number(s.propagation), propagationNames)}`,
  }),
  moveMount: step({
    op: 55, fields: { from: 'slot', root: 'slot', target: 'text', create: 'u32', noLinks: 'u32' },
    does: 'Resolves target below root with RESOLVE_IN_ROOT (noLinks=1 adds RESOLVE_NO_SYMLINKS and wants a plain directory; noLinks=2 adds RESOLVE_NO_SYMLINKS and allows a target on procfs), creating it and its parents when missing (0 no, 1 directory 0755, 2 empty file 0644, 3 the one of these that is attached); create=1 on an existing file and create=2 on an existing directory fail with ENOTDIR or EISDIR; refuses any other target on procfs and a path that leads to the root itself (EINVAL; an empty target means it); move_mount by descriptors, so a swapped path has no effect.',
    says: (s) => `attach the mount of slot ${s.from} at ${at(s.root, s.target)}`,
  }),
  pivotRoot: step({
    op: 56, fields: { root: 'slot' },
    does: 'fchdir(root), pivot_root(".", "."), umount2(".", MNT_DETACH), chdir("/").',
    says: (s) => `make slot ${s.root} the root and detach the old one`,
  }),
  unmount: step({
    op: 57, fields: { path: 'text', flags: 'u32' },
    does: 'umount2(path, flags|UMOUNT_NOFOLLOW).',
    says: (s) => `unmount ${s.path}`,
  }),
  maskPath: step({
    op: 58, fields: { root: 'slot', path: 'text' },
    does: 'Opens the path below root with O_PATH; missing is no error. Covers a directory with an empty read-only tmpfs, anything else with the /dev/null of root, which is opened first and verified to be character device 1:3.',
    says: (s) => `mask ${s.path}`,
  }),
  readonlyPath: step({
    op: 59, fields: { root: 'slot', path: 'text' },
    does: 'Opens the path below root with O_PATH; missing is no error. Clones the tree, sets it read-only and attaches it over itself by descriptor.',
    says: (s) => `make ${s.path} read-only`,
  }),
  pinNamespace: step({
    op: 60, fields: { slot: 'slot', path: 'text' },
    does: 'Bind-mounts the namespace descriptor of the slot on an existing file (mount(2) from /proc/self/fd).',
    says: (s) => `pin the namespace of slot ${s.slot} at ${s.path}`,
  }),
  requirePropagation: step({
    op: 61, fields: { dir: 'slot', path: 'text', wanted: 'u32' },
    does: 'Opens the path with O_PATH (links followed) and looks its mount up in /proc/self/mountinfo: EINVAL, with the mount point as detail, unless that is shared or, where wanted is MS_SLAVE, shared or a slave.',
    says: (s) => `verify that the mount at ${at(s.dir, s.path)} is ${s.wanted === ms.shared ? 'shared' : 'shared or a slave'}`,
  }),

  // --- the process (70 to 99)
  setRlimit: step({
    op: 70, fields: { resource: 'u32', soft: 'u64', hard: 'u64' },
    does: 'prlimit on the executing process; 2^64-1 is infinity.',
    says: (s) => `limit resource ${s.resource} to ${s.soft} (hard ${s.hard})`,
  }),
  setUmask: step({ op: 71, fields: { mask: 'u32' }, does: 'umask.', says: (s) => `set the umask to ${octal(s.mask)}` }),
  setGroups: step({ op: 72, fields: { gids: 'u32s' }, does: 'setgroups.', says: (s) => `set the supplementary groups to ${s.gids.length === 0 ? 'none' : s.gids.join(', ')}` }),
  setUser: step({
    op: 73, fields: { uid: 'u32', gid: 'u32' },
    does: 'PR_SET_KEEPCAPS, setresgid, setresuid. Pipes and terminals among the standard streams are given to the user, as /dev/stdout must be reopenable; a failure of that is passed over.',
    says: (s) => `become user ${s.uid}, group ${s.gid}`,
  }),
  limitCapabilities: step({
    op: 74, fields: { bounding: 'u64' },
    does: 'Drops every capability outside this set from the bounding set; a capability unknown to the kernel is passed over.',
    says: (s) => `limit the bounding capabilities to ${hex(s.bounding)}`,
  }),
  setCapabilities: step({
    op: 75, fields: { effective: 'u64', permitted: 'u64', inheritable: 'u64', ambient: 'u64' },
    does: 'capset, then clears the ambient set and raises the given ones.',
    says: (s) => `set capabilities: effective ${hex(s.effective)}, permitted ${hex(s.permitted)}, inheritable ${hex(s.inheritable)}, ambient ${hex(s.ambient)}`,
  }),
  setNoNewPrivileges: step({ op: 76, fields: {}, does: 'PR_SET_NO_NEW_PRIVS.', says: () => 'forbid gaining privileges by execve' }),
  setSeccomp: step({
    op: 77, fields: { flags: 'u32', program: 'bytes' },
    does: 'seccomp(SECCOMP_SET_MODE_FILTER, flags, program); program is an array of struct sock_filter.',
    says: (s) => `install a seccomp filter of ${s.program.length / 8} instructions`,
  }),
  setSeccompListener: step({
    op: 150, fields: { flags: 'u32', program: 'bytes', out: 'slot' },
    does: 'In a child: as setSeccomp with SECCOMP_FILTER_FLAG_NEW_LISTENER; the parent takes the listener into its slot out (64 to 254) before the child goes on.',
    says: (s) => `install a seccomp filter of ${s.program.length / 8} instructions with a listener`,
  }),
  sendListener: step({
    op: 151, fields: { listener: 'slot', path: 'text', state: 'bytes', pidAt: 'u32s', process: 'slot' },
    does: 'In a child: connects to the Unix stream socket at path (at most 107 bytes) and sends state, with the number of the process whose /proc directory is in slot process put in at each byte of pidAt (ascending, at most 4), and with the first byte the descriptor of slot listener.',
    says: (s) => `send the listener of the seccomp filter to ${s.path}`,
  }),
  changeDirectory: step({
    op: 78, fields: { path: 'text', create: 'u32' },
    does: 'Makes the directory when missing and create=1 (mode 0755, owner of the process), chdir, then verifies by getcwd that it is inside the root (an unreachable directory fails with EPERM).',
    says: (s) => `change to the working directory ${s.path}`,
  }),
  setDumpable: step({ op: 79, fields: { dumpable: 'u32' }, does: 'PR_SET_DUMPABLE.', says: (s) => (s.dumpable === 0 ? 'forbid tracing this process' : 'allow tracing this process') }),
  setParentDeathSignal: step({ op: 80, fields: { signal: 'u32' }, does: 'PR_SET_PDEATHSIG, then fails with ESRCH when the parent has gone already.', says: (s) => `get signal ${s.signal} when the shim ends` }),
  newSession: step({ op: 81, fields: { controllingTerminal: 'u32' }, does: 'setsid; controllingTerminal=1 makes the standard input the controlling terminal.', says: (s) => `start a session${s.controllingTerminal === 0 ? '' : ' with the terminal'}` }),
  openTerminal: step({
    op: 82, fields: { root: 'slot', path: 'text', columns: 'u32', rows: 'u32', consoleTarget: 'text' },
    does: 'Opens path (the container\'s own /dev/ptmx) below root, verifies character device 5:2 on devpts, unlocks it, gets the other side with TIOCGPTPEER as standard input, output and error, hands the master to the shim; a non-empty consoleTarget is covered with a bind of the terminal by descriptor.',
    says: (s) => `open a terminal of ${s.columns} by ${s.rows}`,
  }),
  execute: step({
    op: 83, fields: { file: 'text', argv: 'texts', env: 'texts' },
    does: 'Every descriptor but 0, 1 and 2 is closed at exec. execve(file) when it has a slash, else through PATH of env (default /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin); the standard streams are those of the process request. Signal dispositions and mask are reset first.',
    says: (s, w) => `execute ${JSON.stringify(s.argv.length === 0 ? [s.file] : s.argv)}${w.brief === true ? '' : ` with ${s.env.length === 0 ? 'no environment' : redactEnv(s.env, w)}`}`,
  }),
  executePause: step({
    op: 84, fields: {},
    does: 'Executes the shared binary in its pause role: no descriptors, no capabilities, not dumpable, waits for children for ever.',
    says: () => 'wait for ever as the init of the PID namespace',
  }),
  joinKeyring: step({ op: 85, fields: { name: 'text' }, does: 'KEYCTL_JOIN_SESSION_KEYRING.', says: (s) => `join a new session keyring ${s.name}` }),
  setPersonality: step({ op: 86, fields: { persona: 'u32' }, does: 'personality(2).', says: (s) => `set the personality to ${hex(s.persona)}` }),
  giveStreams: step({
    op: 87, fields: { uid: 'u32', gid: 'u32' },
    does: 'Gives pipes and terminals among the standard streams to this user and group, as setUser does, for one whose ids are mapped in a user namespace that is entered next; a failure is passed over.',
    says: (s) => `give the standard streams to ${s.uid}:${s.gid}`,
  }),
  connect: step({
    op: 90, fields: { address: 'bytes', port: 'u32', timeoutMs: 'u32', out: 'slot' },
    does: 'Connects a TCP socket to an IPv4 (4 bytes) or IPv6 (16 bytes) address; ETIMEDOUT after timeoutMs. A socket that is connected to itself, since nobody listens, is ECONNREFUSED.',
    says: (s) => `connect to ${s.address.length === 4 ? [...s.address].join('.') : `[${Buffer.from(s.address).toString('hex')}]`} port ${s.port}`,
  }),
  relay: step({
    op: 91, fields: { slot: 'slot' },
    does: 'Closes everything but the streams and the socket of the slot, and copies between them until the other side of the socket has ended; the end of the input is passed on alone. Takes the place of execute.',
    says: (s) => `copy between slot ${s.slot} and the standard streams`,
  }),
  listen: step({
    op: 92, fields: { path: 'text', out: 'slot' },
    does: 'Opens the directory of path (no final link), binds an AF_UNIX socket of type SOCK_SEQPACKET there through that descriptor, so that a path of any length will do, with mode 0600, and listens. An existing file is EADDRINUSE.',
    says: (s) => `listen at ${s.path} for the start of the container`,
  }),
  awaitStart: step({
    op: 93, fields: { slot: 'slot' },
    does: 'In a child: closes every other slot, clears the parent death signal, reports barrier 1 and lets the parent go; then accepts connections on the socket of the slot until one says go. That one takes the place of the control socket: a failure, the execution and, by its end, the success of execve are told there.',
    says: () => 'wait for the start at the container\'s socket',
  }),
  keepDescriptors: step({
    op: 94, fields: { count: 'u32' },
    does: 'Descriptors 3 to 2+count, which the caller handed over and the front kept in place, survive execute; EBADF where one of them is not open. Goes before setSeccomp and execute.',
    says: (s) => `keep ${s.count} descriptors of the caller`,
  }),
  findExecutable: step({
    op: 96, fields: { file: 'text', env: 'texts' },
    does: 'Looks for the program as execute would, without executing it: a path with a slash must be a file that may be executed (its errno, EISDIR, EACCES), another one must be one in a directory of PATH (ENOENT).',
    says: (s) => `find the program ${JSON.stringify(s.file)}`,
  }),

  // --- cgroups (100 to 109)
  attachDeviceFilter: step({
    op: 100, fields: { cgroup: 'text', program: 'bytes' },
    does: 'Loads the eBPF program (array of struct bpf_insn) as BPF_PROG_TYPE_CGROUP_DEVICE and attaches it to the cgroup2 directory, replacing what this step attached there before.',
    says: (s) => `attach a device filter of ${s.program.length / 8} instructions to ${s.cgroup}`,
  }),
  killCgroup: step({
    op: 101, fields: { cgroup: 'text', timeoutMs: 'u32' },
    does: 'Kills every process below the cgroup directory: cgroup.kill where it exists, else every pid of every cgroup.procs below, repeated until empty; ETIMEDOUT after timeoutMs. A missing cgroup is no error.',
    says: (s) => `kill every process in the cgroup ${s.cgroup}`,
  }),
  removeCgroup: step({
    op: 102, fields: { cgroup: 'text', timeoutMs: 'u32' },
    does: 'Removes the cgroup directory and those below it, deepest first, retrying EBUSY until timeoutMs. A missing cgroup is no error.',
    says: (s) => `remove the cgroup ${s.cgroup}`,
  }),
  freezeCgroup: step({
    op: 155, fields: { cgroup: 'text', frozen: 'u32', timeoutMs: 'u32' },
    does: 'Writes the state to cgroup.freeze (cgroup2) or freezer.state (v1) of the directory; frozen=1 waits until every process below has stopped. After timeoutMs, and where waiting fails, everything is thawed again: ETIMEDOUT.',
    says: (s) => `${s.frozen === 0 ? 'thaw' : 'freeze'} every process in the cgroup ${s.cgroup}`,
  }),

  // --- processes that are nobody's child here (160 to 169)
  signalProcess: step({
    op: 160, fields: { pid: 'u32', startTime: 'u64', signal: 'u32' },
    does: 'pidfd_open(pid), compares field 22 of its /proc/<pid>/stat with startTime (ESRCH where it is another process), pidfd_send_signal.',
    says: (s) => `send signal ${s.signal} to process ${s.pid}`,
  }),

  // --- the standard streams
  reopenNull: step({
    op: 161, fields: {},
    does: 'Those of the standard streams that are the null device, however they came, become /dev/null of the own root, where that is character device 1:3 and no link leads there; else they stay, as they do when it cannot be opened.',
    says: () => 'take /dev/null of the own root for streams that lead nowhere',
  }),

  // --- how a process is scheduled, and what a container gets beside mounts (130 to 149)
  setScheduler: step({
    op: 130, fields: { policy: 'u32', flags: 'u64', nice: 'i32', priority: 'u32', runtime: 'u64', deadline: 'u64', period: 'u64' },
    does: 'sched_setattr on the executing process.',
    says: (s) => `set the scheduler to policy ${s.policy}, nice ${s.nice}, priority ${s.priority}, flags ${hex(s.flags)}`,
  }),
  setIoPriority: step({
    op: 131, fields: { priority: 'u32' },
    does: 'ioprio_set(IOPRIO_WHO_PROCESS, 0, priority); the class is in bits 13 and up.',
    says: (s) => `set the I/O priority to ${s.priority & 0x1fff} of class ${s.priority >>> 13}`,
  }),
  setCpuAffinity: step({
    op: 132, fields: { mask: 'bytes' },
    does: 'sched_setaffinity on the executing process; bit 0 of the first byte is CPU 0.',
    says: (s) => `run on the CPUs ${bitsOf(s.mask)}`,
  }),
  moveNetDevice: step({
    op: 133, fields: { network: 'slot', name: 'text', newName: 'text' },
    does: 'In a child: takes the link of this name down, moves it into the network namespace of the slot under the new name, enters that namespace, gives the link the permanent addresses of scope global back that it had, and takes it up.',
    says: (s) => `move the network device ${s.name} into the namespace of slot ${s.network} as ${s.newName}`,
  }),
  setMemoryPolicy: step({
    op: 134, fields: { mode: 'u32', nodes: 'bytes' },
    does: 'set_mempolicy on the executing process; bit 0 of the first byte is node 0, no byte at all means no set.',
    says: (s) => `set the memory policy ${hex(s.mode)} of the nodes ${bitsOf(s.nodes)}`,
  }),
  copyMode: step({
    op: 135, fields: { fromDir: 'slot', from: 'text', slot: 'slot' },
    does: 'Gives the root directory of the file system in the slot the mode of a directory, resolved with RESOLVE_IN_ROOT below fromDir; where that is missing or no directory nothing happens.',
    says: (s) => `give slot ${s.slot} the mode of ${at(s.fromDir, s.from)}`,
  }),
  moveRoot: step({
    op: 136, fields: { root: 'slot' },
    does: 'fchdir(root), mount(".", "/", MS_MOVE), chroot("."), chdir("/"): what pivotRoot does where the root is one that cannot be pivoted away from.',
    says: (s) => `move the mount of slot ${s.root} onto the root`,
  }),

  // --- hooks (120 to 122)
  runHook: step({
    op: 120, fields: { file: 'text', argv: 'texts', env: 'texts', cwd: 'text', state: 'bytes', pidAt: 'u32', process: 'slot', timeoutMs: 'u32' },
    does: 'In a child: runs a program in a process group of its own and waits for it. Its standard input is a file that holds state, with a process number put in at byte pidAt (4294967295: none): that of the /proc directory in slot process, or without a slot its own. ETIMEDOUT after timeoutMs, when the group is killed; ECHILD when it ended by a signal or with another exit code than 0; else the errno of execve. The detail has the end of its output.',
    says: (s) => `run the hook ${s.file}`,
  }),
  linkRoot: step({
    op: 121, fields: { process: 'slot', below: 'text', path: 'text' },
    does: 'symlink(/proc/N/root<below>, path), where N is the process whose /proc directory is in the slot.',
    says: (s) => `make the link ${s.path} to ${s.below === '' ? '/' : s.below} as the process of slot ${s.process} sees it`,
  }),
  changeRoot: step({
    op: 122, fields: { slot: 'slot' },
    does: 'fchdir(slot), chroot("."). For a child that has entered a mount namespace and goes on with the tree that it had before.',
    says: (s) => `make slot ${s.slot} the root of this process alone`,
  }),
  closeSlots: step({
    op: 123, fields: {},
    does: 'Closes every slot of this process. For one whose own program may look into it before it executes: what a plan holds leads to the host.',
    says: () => 'close all slots',
  }),
} as const;

/** The table as a type, from which those of the steps follow. */
export type Vocabulary = typeof vocabulary;
/** Name of a step. */
export type StepKind = keyof Vocabulary;

type FieldsOf<K extends StepKind> = { readonly [F in keyof Vocabulary[K]['fields']]: Vocabulary[K]['fields'][F] extends FieldType ? FieldValues[Vocabulary[K]['fields'][F]] : never };

/** What every step may carry besides its own fields. */
export interface StepCommon {
  /** Place in the document that this step comes from, such as `/mounts/3`; stays in TypeScript. */
  readonly origin?: string;
  /** Errno numbers (positive) that count as success. */
  readonly ignore?: readonly number[];
  /** Steps to pass over when an ignored errno came back. */
  readonly skipOnIgnored?: number;
}

/** One step: its kind, its fields and what every step may carry. */
export type StepOf<K extends StepKind> = { readonly kind: K } & FieldsOf<K> & StepCommon;
export type Step = { [K in StepKind]: StepOf<K> }[StepKind];

/** Who executes a section. Numbers are the wire's. */
export const actors = { host: 0, podNamespaces: 1, containerSetup: 2, payload: 3 } as const;
export type Actor = keyof typeof actors;

/** The start barrier; see the step `barrier`. */
export const startBarrier = 1;

/** Steps that one actor runs in order. */
export interface Section {
  readonly actor: Actor;
  /** Host sections only: run when a child reaches this barrier; 0 or absent: in order, before any child. */
  readonly barrier?: number;
  /** Child sections that begin a process: CLONE_* namespace flags of its clone. */
  readonly cloneFlags?: number;
  /** Slot of a PID namespace to create the child in. */
  readonly pidNamespace?: number;
  /** Slot of a cgroup2 directory to create the child in (CLONE_INTO_CGROUP). */
  readonly cgroup?: number;
  readonly steps: readonly Step[];
}

/** A list of sections. `host` and `podNamespaces` run to their end in order; `containerSetup` and `payload` share one child. */
export interface Plan {
  readonly sections: readonly Section[];
}
