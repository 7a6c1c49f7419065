/**
 * What the suites that compare unpacked trees share: a containerd of their own, and trees as merged by an overlay in words.
 * In: a registry's image, or layers of a store. Out: a line per fact of an entry, to be compared with another unpacker's.
 */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { closeSync, existsSync, mkdirSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { run, shell } from './image-host.ts';

/** Why trees cannot be compared here, or false. */
export function missingPeer(): string | false {
  for (const tool of ['containerd', 'ctr']) if (!existsSync(`/usr/bin/${tool}`)) return `needs ${tool}`;
  return false;
}

/** Numbers of the system calls llistxattr and lgetxattr: Debian's base has perl, and no program for extended attributes. */
const [listXattrs, getXattr] = process.arch === 'arm64' ? [12, 9] : [195, 192];
const readXattrs = `find . -print0 | perl -0 -ne '
  chomp;
  my $names = "\\0" x 65536;
  my $length = syscall(${listXattrs}, $_, $names, 65536);
  die "$_: $!" if $length < 0;
  for my $name (sort split /\\0/, substr $names, 0, $length) {
    next if $name =~ /^trusted\\.overlay\\./;
    my $value = "\\0" x 65536;
    my $size = syscall(${getXattr}, $_, $name, $value, 65536);
    die "$_: $name: $!" if $size < 0;
    print "$_ $name=", unpack("H*", substr $value, 0, $size), "\\n";
  }'`;
/** Shell commands that print, in the directory they run in, everything there is to compare in a tree: lines about its entries. */
export const treeFacts: readonly string[] = [
  `find . ! -type d -printf '/%P type=%y mode=%m owner=%U:%G time=%T@ links=%n size=%s target=%l\\n'`,
  `find . -type d -printf '/%P type=d mode=%m owner=%U:%G\\n/%P time=%T@\\n'`,
  'find . -type f -print0 | xargs -0 -r sha256sum',
  "find . '(' -type b -o -type c ')' -print0 | xargs -0 -r stat -c '%n device=%t:%T'",
  readXattrs,
];

/** Everything there is to compare in a tree, its root included: a line or two per entry, one per attribute, device and content. */
export function describeEntries(dir: string): string[] {
  return treeFacts
    .flatMap((command) => shell(command, dir).split('\n'))
    .filter((line) => line !== '')
    .sort();
}

/**
 * Trees without the directory times that one of them has from the moment it was unpacked: for a directory that a layer changes and does not name,
 * no document says what its time becomes.
 */
export function comparable(trees: readonly (readonly string[])[], startedAtMs: number): string[][] {
  const fresh = new Set(
    trees.flatMap((tree) =>
      tree.flatMap((line) => {
        const [, path, seconds] = /^(\/.*) time=(\d+\.\d+)$/s.exec(line) ?? [];
        return path !== undefined && Number(seconds) * 1000 >= startedAtMs ? [path] : [];
      }),
    ),
  );
  return trees.map((tree) => tree.filter((line) => !fresh.has(/^(\/.*) time=-?\d+\.\d+$/s.exec(line)?.[1] ?? '')));
}

/**
 * Runs shell words that mount trees, each at `$1/N`, in a mount namespace which ends with the look; gives the lines of each. A tree
 * with a name that is listed and is not there, as another unpacker's may have, is one line.
 */
function lookAt(mounts: readonly string[]): string[][] {
  const scratch = mkdtempSync(join(tmpdir(), 'berth-look-'));
  const script = join(scratch, 'look.mjs');
  try {
    for (const index of mounts.keys()) mkdirSync(join(scratch, 'merged', String(index)), { recursive: true });
    writeFileSync(
      script,
      `import { writeFileSync } from 'node:fs';
import { describeEntries } from ${JSON.stringify(import.meta.filename)};
const [, , merged, count, out] = process.argv;
const look = (dir) => {
  try {
    return describeEntries(dir);
  } catch (error) {
    return ['cannot be listed: ' + error.stderr];
  }
};
writeFileSync(out, JSON.stringify(Array.from({ length: Number(count) }, (_, index) => look(merged + '/' + index))));
`,
    );
    const command = `${mounts.join('\n')}\ncd /\nexec ${process.execPath} ${script} "$@"`;
    run('unshare', ['-m', 'sh', '-ec', command, 'sh', `${scratch}/merged`, String(mounts.length), `${scratch}/lines`]);
    // SAFETY: the script above wrote it, with this type.
    return JSON.parse(readFileSync(`${scratch}/lines`, 'utf8')) as string[][];
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

/** Shell words that mount a leased image at a directory, given as shell words too. */
export function mountLeased({ storeDir, lower }: { readonly storeDir: string; readonly lower: readonly string[] }, directory: string): string {
  // Without an upper directory, whose attributes would be those of the root; an overlay of one lower directory alone does not exist.
  return `cd ${storeDir}; ${lower.length === 1 ? `mount --bind ${lower[0]}` : `mount -t overlay overlay -o lowerdir=${lower.join(':')}`} ${directory}`;
}

/** The trees of leased images as containers have them. */
export function describeLeased(images: readonly { readonly storeDir: string; readonly lower: readonly string[] }[]): string[][] {
  return lookAt(images.map((layers, index) => mountLeased(layers, `"$1/${index}"`)));
}

/** The tree that umoci unpacks from an image of a layout, and with it the layers applied one over the other. */
export function describeUmoci(image: string): string[] {
  const bundle = mkdtempSync(join(tmpdir(), 'berth-umoci-'));
  try {
    run('umoci', ['unpack', '--image', image, join(bundle, 'image')]);
    return describeEntries(join(bundle, 'image/rootfs'));
  } finally {
    rmSync(bundle, { recursive: true, force: true });
  }
}

/** Debian's containerd in a scratch directory, without its CRI door. */
export class Containerd implements AsyncDisposable {
  readonly #dir: string;
  readonly #child: ChildProcess;

  private constructor(dir: string, child: ChildProcess) {
    this.#dir = dir;
    this.#child = child;
  }

  static async start(): Promise<Containerd> {
    const dir = mkdtempSync(join(tmpdir(), 'berth-containerd-'));
    const unused = ['internal.v1.opt', 'grpc.v1.cri', 'snapshotter.v1.btrfs', 'snapshotter.v1.zfs', 'snapshotter.v1.devmapper', 'snapshotter.v1.aufs'];
    writeFileSync(
      join(dir, 'config.toml'),
      `version = 2\nroot = "${dir}/root"\nstate = "${dir}/run"\ndisabled_plugins = ${JSON.stringify(unused.map((name) => `io.containerd.${name}`))}\n[grpc]\n  address = "${dir}/socket"\n`,
    );
    const log = openSync(join(dir, 'log'), 'a');
    const child = spawn('containerd', ['--config', join(dir, 'config.toml')], { stdio: ['ignore', log, log] });
    closeSync(log);
    const containerd = new Containerd(dir, child);
    for (let tries = 0; tries < 400; tries += 1) {
      try {
        containerd.ctr(['version']);
        return containerd;
      } catch (error) {
        if (child.exitCode !== null || tries === 399) {
          await containerd[Symbol.asyncDispose]();
          throw error;
        }
      }
      await sleep(50);
    }
    throw new Error('bug: unreachable');
  }

  /** Output of `ctr` with these arguments. */
  ctr(args: readonly string[]): string {
    return execFileSync('ctr', ['--address', `${this.#dir}/socket`, ...args], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
  }

  /** Pulls and unpacks from a registry without TLS. */
  pull(reference: string): void {
    this.ctr(['images', 'pull', '--plain-http', reference]);
  }

  /** Shell words that mount an image at a directory, given as shell words too. */
  mountCommand(reference: string, directory: string): string {
    return `ctr --address ${this.#dir}/socket images mount ${reference} ${directory} >/dev/null`;
  }

  /** The trees of images as containers have them. */
  describe(references: readonly string[]): string[][] {
    return lookAt(references.map((reference, index) => this.mountCommand(reference, `"$1/${index}"`)));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const ended = new Promise((end) => this.#child.once('exit', end));
    if (this.#child.exitCode === null && this.#child.kill('SIGKILL')) await ended;
    rmSync(this.#dir, { recursive: true, force: true });
  }
}
