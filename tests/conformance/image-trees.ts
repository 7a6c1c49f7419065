/**
 * What is in the images that critest wants: `image-trees.ts DIRECTORY` makes one compressed tar archive per layer. In: the packages that prepare.sh
 * unpacked, the machine's libraries and compiler. Out: DIRECTORY/NAME.tar.gz, equal at each run on the same packages. Images are made of these
 * by images.ts, also where no compiler is.
 */
import { execFileSync } from 'node:child_process';
import { chmodSync, copyFileSync, existsSync, linkSync, mkdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { gzipSync } from 'node:zlib';
import type { LayerFile } from './images.ts';

const home = new URL('../..', import.meta.url).pathname;
const packages = join(home, 'build/conformance/packages');
const environment = { PATH: '/usr/sbin:/usr/bin:/sbin:/bin', LC_ALL: 'C' };

/** Runs a program of the machine and gives its output. */
function run(file: string, args: readonly string[]): Buffer {
  return execFileSync(file, args, { env: environment, stdio: ['ignore', 'pipe', 'pipe'], maxBuffer: 256 * 1024 * 1024 });
}

/** What the suite calls by name, or what a person wants in such a container. All but `ls` are one file: the suite masks /bin/ls and goes on using the others. */
const applets = [
  ...['sh', 'ash', 'basename', 'brctl', 'cat', 'chmod', 'chown', 'cp', 'cut', 'date', 'dd', 'df', 'dirname', 'du', 'echo', 'env', 'expr', 'false', 'find', 'free'],
  ...['grep', 'head', 'hostname', 'httpd', 'id', 'ip', 'kill', 'killall', 'ln', 'mkdir', 'mknod', 'mount', 'mv', 'nc', 'netstat', 'nslookup', 'pidof', 'ping'],
  ...['printf', 'ps', 'pwd', 'readlink', 'rm', 'rmdir', 'sed', 'seq', 'sleep', 'sort', 'stat', 'stty', 'sync', 'tail', 'tee', 'test', 'timeout', 'top', 'touch'],
  ...['tr', 'true', 'umount', 'uname', 'wc', 'wget', 'which', 'whoami', 'xargs', 'yes'],
];

/** Puts a program and the libraries that it is linked with below `tree`, at the paths that it has here. */
function addProgram(tree: string, source: string, target: string): void {
  mkdirSync(dirname(join(tree, target)), { recursive: true });
  copyFileSync(source, join(tree, target));
  chmodSync(join(tree, target), 0o755);
  // Prints `name => /path (address)` and, for the loader, `/path (address)`; what is missing has no path.
  const libraries = run('ldd', [source]).toString();
  const missing = /^\s*(\S+) => not found/m.exec(libraries)?.[1];
  if (missing !== undefined) throw new Error(`copy ${source}: its library ${missing} is not on this machine`);
  for (const [path] of libraries.matchAll(/\/\S+/g)) {
    const place = join(tree, path);
    if (existsSync(place)) continue;
    mkdirSync(dirname(place), { recursive: true });
    copyFileSync(path, place);
  }
}

const passwd = [
  'root:x:0:0:root:/root:/bin/sh',
  'daemon:x:1:1:daemon:/usr/sbin:/bin/false',
  'www-data:x:33:33:www-data:/var/www:/bin/false',
  'nobody:x:65534:65534:nobody:/home:/bin/false',
];
const group = ['root:x:0:', 'daemon:x:1:', 'tty:x:5:', 'www-data:x:33:', 'nobody:x:65534:'];

function writeAccounts(tree: string, more: { readonly passwd?: readonly string[]; readonly group?: readonly string[] } = {}): void {
  mkdirSync(join(tree, 'etc'), { recursive: true });
  writeFileSync(join(tree, 'etc/passwd'), `${[...passwd, ...(more.passwd ?? [])].join('\n')}\n`);
  writeFileSync(join(tree, 'etc/group'), `${[...group, ...(more.group ?? [])].join('\n')}\n`);
}

/** The tools of the suite's busybox image, with `ipcs` and `pgrep` of the machine, as Debian's busybox has none. */
function makeTools(tree: string): void {
  const busybox = join(packages, 'bin/busybox');
  addProgram(tree, busybox, 'bin/busybox');
  for (const name of applets) linkSync(join(tree, 'bin/busybox'), join(tree, 'bin', name));
  copyFileSync(busybox, join(tree, 'bin/ls'));
  addProgram(tree, '/usr/bin/ipcs', 'bin/ipcs');
  addProgram(tree, '/usr/bin/pgrep', 'bin/pgrep');
  for (const directory of ['dev', 'proc', 'sys', 'root', 'home', 'mnt', 'var/www', 'usr/bin', 'usr/sbin']) mkdirSync(join(tree, directory), { recursive: true });
  for (const directory of ['tmp', 'run']) mkdirSync(join(tree, directory));
  chmodSync(join(tree, 'tmp'), 0o1777);
  symlinkSync('/run', join(tree, 'var/run'));
  writeAccounts(tree);
}

/** nginx without its modules: only the core is asked for a page. */
function makeNginx(tree: string, port: number): void {
  addProgram(tree, join(packages, 'usr/sbin/nginx'), 'usr/sbin/nginx');
  for (const directory of ['etc/nginx', 'usr/share/nginx/html', 'var/log/nginx', 'var/lib/nginx']) mkdirSync(join(tree, directory), { recursive: true });
  writeFileSync(join(tree, 'usr/share/nginx/html/index.html'), '<h1>Welcome to nginx!</h1>\n');
  writeFileSync(
    join(tree, 'etc/nginx/nginx.conf'),
    `user nobody nobody;
worker_processes 1;
pid /var/run/nginx.pid;
error_log /dev/stderr;
events {}
http {
  access_log /dev/stdout;
  server {
    listen ${port};
    root /usr/share/nginx/html;
  }
}
`,
  );
}

/** A server whose first words are what the suite looks for in its log. */
function makeHttpd(tree: string): void {
  mkdirSync(join(tree, 'usr/local/apache2/htdocs'), { recursive: true });
  mkdirSync(join(tree, 'usr/local/bin'), { recursive: true });
  writeFileSync(join(tree, 'usr/local/apache2/htdocs/index.html'), '<html><body><h1>It works!</h1></body></html>\n');
  const script = join(tree, 'usr/local/bin/httpd-foreground');
  writeFileSync(script, '#!/bin/sh\necho "Command line: \'httpd -D FOREGROUND\'" >&2\nexec httpd -f -p 80 -h /usr/local/apache2/htdocs\n');
  chmodSync(script, 0o755);
}

function compile(source: string, target: string): void {
  mkdirSync(dirname(target), { recursive: true });
  run('musl-gcc', ['-static', '-Os', '-s', '-Wall', '-Werror', '-o', target, source]);
}

/** Layers by name, each made in a directory of that name. */
const makers: Readonly<Record<LayerFile, (tree: string) => void>> = {
  tools: makeTools,
  nginx: (tree) => makeNginx(tree, 80),
  'nginx-12003': (tree) => makeNginx(tree, 12003),
  httpd: makeHttpd,
  // A set-user-ID program that tells its effective user, as the upstream image's does.
  nnp: (tree) => {
    compile(join(home, 'tests/conformance/effective-uid.c'), join(tree, 'nnp'));
    chmodSync(join(tree, 'nnp'), 0o4755);
  },
  pause: (tree) => {
    compile(join(home, 'tests/conformance/pause.c'), join(tree, 'pause'));
    chmodSync(join(tree, 'pause'), 0o755);
  },
  groups: (tree) => writeAccounts(tree, { passwd: ['default-user:x:1000:1000::/home:/bin/sh'], group: ['default-user:x:1000:', 'group-defined-in-image:x:50000:default-user'] }),
};

const [target] = process.argv.slice(2);
if (target === undefined) throw new Error('usage: image-trees.ts DIRECTORY');
rmSync(target, { recursive: true, force: true });
mkdirSync(target, { recursive: true });
for (const [name, make] of Object.entries(makers)) {
  const tree = join(target, name);
  mkdirSync(tree);
  make(tree);
  const tar = run('tar', ['-C', tree, '--sort=name', '--numeric-owner', '--owner=0', '--group=0', '--mtime=@0', '-c', '.']);
  rmSync(tree, { recursive: true });
  writeFileSync(join(target, `${name}.tar.gz`), gzipSync(tar));
}
