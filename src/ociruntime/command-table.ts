/**
 * The commands and flags of the OCI runtime as a table. In: nothing. Out: data that `cli.ts` reads command lines with and `help.ts` prints. Names and forms are runc's (its
 * release 1.5), so that callers need not know whom they call; the words of the help are the project's own.
 */
import type { Flag } from './flags.ts';
import type { Command } from './options.ts';

/** One of the commands. */
export type CommandName = Command['name'];

/** A command as the help tells it and as its words are counted. */
export interface CommandEntry {
  readonly name: CommandName;
  /** One line. */
  readonly summary: string;
  /** The words after the flags. */
  readonly words: string;
  readonly description: string;
  readonly flags: readonly Flag[];
  /** Flags may stand behind the other words; not where those are a command line of their own. */
  readonly flagsAnywhere: boolean;
  readonly wordsMin: number;
  readonly wordsMax: number;
}

/** The name that help, version and messages tell. */
export const programName = 'berth-oci';

/** The newest release of the runtime specification that documents may have. */
export const specVersion = '1.3.0';

/** State of containers where no `--root` is given. */
export const defaultStateRoot = '/run/berth-oci';

const text = (names: Flag['names'], help: string, standard?: string): Flag => ({ names, kind: 'text', help, ...(standard === undefined ? {} : { standard }) });
const number = (names: Flag['names'], help: string, standard?: string): Flag => ({ names, kind: 'number', help, ...(standard === undefined ? {} : { standard }) });
const toggle = (names: Flag['names'], help: string): Flag => ({ names, kind: 'switch', help });
const list = (names: Flag['names'], help: string): Flag => ({ names, kind: 'texts', help });
const hidden = (flag: Flag): Flag => ({ ...flag, hidden: true });

/** Every command and the program itself have it. */
export const helpFlag: Flag = toggle(['help', 'h'], 'show help');

/** Flags before the command. */
export const globalFlags: readonly Flag[] = [
  toggle(['debug'], 'log what is done, too'),
  text(['log'], 'file that log lines are added to (standard error without it)'),
  text(['log-format'], 'form of log lines: text or json', '"text"'),
  text(['root'], 'directory with the state of containers; best on a tmpfs', `"${defaultStateRoot}"`),
  toggle(['systemd-cgroup'], 'let systemd make control groups (not supported)'),
  text(['rootless'], 'run without privileges: true, false or auto (true is not supported)', '"auto"'),
  helpFlag,
  toggle(['version', 'v'], 'print the version'),
];

const id = '<container-id>';
const consoleSocket = text(['console-socket'], 'path of a Unix socket that is sent the terminal of the process');
const pidfdSocket = (what: string): Flag => text(['pidfd-socket'], `path of a Unix socket that is sent a descriptor of ${what} (not supported)`);
const pidFile = text(['pid-file'], 'file that the process id is written to');
const bundle = text(['bundle', 'b'], 'directory of the bundle (the current one without it)');
const preserveFds = number(['preserve-fds'], 'descriptors that the process is handed besides its streams and those of LISTEN_FDS', '0');
const noPivot = toggle(['no-pivot'], 'change the root without pivot_root, for roots on a ramdisk');
const noNewKeyring = toggle(['no-new-keyring'], 'let the container keep the session keyring of the caller');
const noSubreaper = toggle(['no-subreaper'], 'leave orphaned processes to the reaper of the caller');
const detach = (names: Flag['names']): Flag => toggle(names, 'do not wait for the process');
const format = text(['format', 'f'], 'form of the output: table or json', '"table"');

/** Flags of checkpoint and of restore alike. */
const criuFlags: readonly Flag[] = [
  text(['image-path'], 'directory of the images (./checkpoint without it)'),
  text(['work-path'], 'directory of work files and logs'),
  toggle(['tcp-established'], 'allow open TCP connections'),
  toggle(['ext-unix-sk'], 'allow Unix sockets that lead outside'),
  toggle(['shell-job'], 'allow processes with a terminal of the caller'),
  toggle(['lazy-pages'], 'bring memory pages when they are needed'),
  toggle(['file-locks'], 'keep file locks'),
  text(['manage-cgroups-mode'], 'what criu does with control groups: soft, full, strict or ignore'),
  list(['empty-ns'], 'a namespace that is made anew without what was in it: network'),
  toggle(['auto-dedup'], 'remove memory pages from images that are not needed any more'),
];

interface Defaults {
  readonly flags?: readonly Flag[];
  readonly words?: string;
  readonly flagsAnywhere?: boolean;
  readonly wordsMin?: number;
  readonly wordsMax?: number;
}

function entry(name: CommandName, summary: string, description: string, { flags = [], words = id, flagsAnywhere = true, wordsMin = 1, wordsMax = 1 }: Defaults = {}): CommandEntry {
  return { name, summary, words, description, flags: [...flags, helpFlag], flagsAnywhere, wordsMin, wordsMax };
}

const creationFlags: readonly Flag[] = [bundle, consoleSocket, pidfdSocket('the first process'), pidFile, noPivot, noNewKeyring, preserveFds];

/** All commands in the order of the help. */
export const commandTable: readonly CommandEntry[] = [
  entry('checkpoint', 'write the state of a running container to disk', 'Writes the processes of a container to images, with criu, and ends them unless told otherwise.', {
    flags: [
      ...criuFlags,
      text(['parent-path'], 'directory of earlier images of a pre-dump, relative to the images'),
      toggle(['leave-running'], 'leave the processes running'),
      toggle(['tcp-skip-in-flight'], 'pass over TCP connections that are being opened'),
      toggle(['link-remap'], 'allow files without a name'),
      number(['status-fd'], 'descriptor that is sent a zero byte once lazy pages can be asked for', '-1'),
      text(['page-server'], 'ADDRESS:PORT of a page server'),
      toggle(['pre-dump'], 'write the memory only, and leave the processes running'),
    ],
  }),
  entry('create', 'create a container', 'Makes a container from a bundle: a directory with a config.json. Its process waits until `start`.', { flags: creationFlags }),
  entry('delete', 'remove a container that has ended', 'Removes the control groups and the state of a container, and of one that was never started its process.', {
    flags: [toggle(['force', 'f'], 'kill what still runs; a container that does not exist is no error')],
  }),
  entry('events', 'print statistics and out-of-memory events', 'Prints a line of JSON for every event, and statistics at an interval, until the container ends.', {
    flags: [{ names: ['interval'], kind: 'duration', help: 'time between statistics', standard: '5s' }, toggle(['stats'], 'print statistics once')],
  }),
  entry('exec', 'run a further process in a container', 'Runs a program in the namespaces of a container that runs.', {
    words: `${id} <program> [arguments]  or  -p process.json ${id}`,
    flagsAnywhere: false,
    wordsMax: Number.POSITIVE_INFINITY,
    flags: [
      consoleSocket,
      pidfdSocket('the process'),
      text(['cwd'], 'working directory in the container'),
      list(['env', 'e'], 'environment variable NAME=VALUE; may be repeated'),
      toggle(['tty', 't'], 'give the process a terminal'),
      text(['user', 'u'], 'user as UID[:GID]'),
      { names: ['additional-gids', 'g'], kind: 'numbers', help: 'further group; may be repeated' },
      text(['process', 'p'], 'file with the whole process object'),
      detach(['detach', 'd']),
      pidFile,
      text(['process-label'], 'SELinux label of the process'),
      text(['apparmor'], 'AppArmor profile of the process'),
      toggle(['no-new-privs'], 'forbid the process to gain privileges'),
      list(['cap', 'c'], 'capability that the process gets besides its own; may be repeated'),
      preserveFds,
      list(['cgroup'], 'control group below the container’s, as [CONTROLLER[,CONTROLLER]:]PATH; may be repeated'),
      toggle(['ignore-paused'], 'also in a paused container'),
    ],
  }),
  entry('kill', 'send a signal to the first process of a container', 'The signal is a name or a number; without it, SIGTERM.', {
    words: `${id} [signal]`,
    wordsMax: 2,
    flags: [hidden(toggle(['all', 'a'], 'a container that has ended is no error'))],
  }),
  entry('list', 'list containers', 'Lists the containers whose state is below --root.', {
    words: '',
    wordsMin: 0,
    wordsMax: 0,
    flags: [format, toggle(['quiet', 'q'], 'print ids only')],
  }),
  entry('pause', 'stop all processes of a container for a while', 'Freezes the processes of a container.'),
  entry('ps', 'list the processes of a container', 'Runs ps(1) on the host and prints the lines that belong to the container.', {
    words: `${id} [ps options]`,
    flagsAnywhere: false,
    wordsMax: Number.POSITIVE_INFINITY,
    flags: [format],
  }),
  entry('restore', 'bring a container back from disk', 'Makes a container from a bundle and from the images that `checkpoint` wrote.', {
    flags: [
      consoleSocket,
      ...criuFlags,
      bundle,
      detach(['detach', 'd']),
      pidFile,
      noSubreaper,
      noPivot,
      text(['lsm-profile'], 'profile of a security module as TYPE:NAME'),
      text(['lsm-mount-context'], 'SELinux context of mounts'),
    ],
  }),
  entry('resume', 'let paused processes go on', 'Thaws the processes of a container.'),
  entry('run', 'create and start a container', 'Makes a container, starts it, waits for it and removes it.', {
    flags: [...creationFlags, detach(['detach', 'd']), toggle(['keep'], 'do not remove the container when it has ended'), noSubreaper],
  }),
  entry('spec', 'write a config.json to begin with', 'Writes a config.json that runs `sh` in the directory rootfs. A file that is there already is left alone.', {
    words: '',
    wordsMin: 0,
    wordsMax: 0,
    flags: [bundle, toggle(['rootless'], 'for a caller without privileges (not supported)')],
  }),
  entry('start', 'start a container that was created', 'Lets the process of a container execute its program.'),
  entry('state', 'print the state of a container', 'Prints the state as JSON; see runtime.md of the OCI runtime specification.'),
  entry('update', 'change the limits of a container', 'Changes what the flags name. With --resources all other flags are ignored.', {
    flags: [
      text(['resources', 'r'], 'file with a linux.resources object, or - for standard input'),
      number(['blkio-weight'], 'share of block I/O, 10 to 1000', '0'),
      text(['cpu-period'], 'period of the CPU quota in microseconds'),
      text(['cpu-quota'], 'CPU time in each period in microseconds'),
      text(['cpu-burst'], 'CPU time that may be saved up, in microseconds'),
      text(['cpu-share'], 'share of CPU time relative to others'),
      text(['cpu-rt-period'], 'period of the realtime quota in microseconds'),
      text(['cpu-rt-runtime'], 'realtime CPU time in each period in microseconds'),
      text(['cpuset-cpus'], 'CPUs that may be used'),
      text(['cpuset-mems'], 'memory nodes that may be used'),
      hidden(text(['kernel-memory'], 'ignored')),
      hidden(text(['kernel-memory-tcp'], 'ignored')),
      text(['memory'], 'memory limit in bytes, or with k, m, g'),
      text(['cpu-idle'], '1: run only when nobody else wants the CPU'),
      text(['memory-reservation'], 'memory below which nothing is taken away'),
      text(['memory-swap'], 'limit of memory and swap together; -1: none'),
      number(['pids-limit'], 'number of processes and threads', '0'),
      text(['l3-cache-schema'], 'Intel RDT schema of the L3 cache (not supported)'),
      text(['mem-bw-schema'], 'Intel RDT schema of memory bandwidth (not supported)'),
    ],
  }),
  entry('features', 'print what this runtime can do', 'Prints the features document of the OCI runtime specification.', { words: '', wordsMin: 0, wordsMax: 0 }),
];
