/**
 * The guest's first file system: a static busybox, the kernel modules that Berth and the tests want, and the first init.
 * In: a kernel package unpacked into a directory. Out: the bytes of a cpio archive ("newc", Documentation/driver-api/early-userspace).
 */
import { globSync, readFileSync } from 'node:fs';
import { basename } from 'node:path';

/** What is loaded before anything else; Debian builds these as modules and the guest has no modprobe to load them on demand. */
const wantedModules = [
  'virtio_pci',
  'virtio_blk',
  'overlay',
  'veth',
  'bridge',
  'br_netfilter',
  'dummy',
  'nf_tables',
  'nf_conntrack_netlink',
  'nft_chain_nat',
  'nft_ct',
  'nft_masq',
  'nft_nat',
  'nft_redir',
  'nft_reject_inet',
  'nft_fib_inet',
  'nft_log',
  'nft_limit',
  'nft_compat',
  // Looks at sockets, for criu.
  'unix_diag',
  'inet_diag',
  'tcp_diag',
  'udp_diag',
  'netlink_diag',
  'af_packet_diag',
  'fuse',
  'tun',
] as const;

const init = `#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
for module in $(cat /modules.order); do insmod /modules/$module.ko || echo "guest: load $module: failed"; done
mount -t ext4 /dev/vda /root || { echo 'guest: mount the disk: failed'; poweroff -f; }
umount /sys
umount /proc
mount -o move /dev /root/dev
exec switch_root /root /berth/tests/guest/init.sh
`;

/** Modules in an order in which each finds what it depends on; read from the modules themselves, as depmod does. */
function orderModules(kernelTree: string): { readonly name: string; readonly content: Buffer }[] {
  const paths = new Map(globSync(`${kernelTree}/{usr/,}lib/modules/*/kernel/**/*.ko`).map((path) => [basename(path, '.ko').replaceAll('-', '_'), path]));
  const ordered = new Map<string, Buffer>();
  const visit = (name: string): void => {
    if (ordered.has(name)) return;
    const path = paths.get(name);
    if (path === undefined) return; // built into the kernel
    const content = readFileSync(path);
    const depends = /\0depends=([^\0]*)\0/.exec(content.toString('latin1'))?.[1] ?? '';
    for (const other of depends.split(',').filter((part) => part !== '')) visit(other.replaceAll('-', '_'));
    ordered.set(name, content);
  };
  for (const name of wantedModules) visit(name);
  return [...ordered].map(([name, content]) => ({ name, content }));
}

function encodeEntry(path: string, mode: number, content: Buffer): Buffer {
  const name = Buffer.from(`${path}\0`);
  // inode, mode, uid, gid, links, mtime, size, device and rdev (two numbers each), name length, checksum
  const numbers = [0, mode, 0, 0, 1, 0, content.length, 0, 0, 0, 0, name.length, 0];
  const header = Buffer.from(`070701${numbers.map((number) => number.toString(16).padStart(8, '0')).join('')}`);
  const pad = (length: number): Buffer => Buffer.alloc((4 - (length % 4)) % 4);
  return Buffer.concat([header, name, pad(header.length + name.length), content, pad(content.length)]);
}

/** The whole archive. `kernelTree` is where the kernel package was unpacked, `busybox` a static busybox. */
export function buildInitramfs(kernelTree: string, busybox: string): Buffer {
  const directory = 0o040755;
  const executable = 0o100755;
  const modules = orderModules(kernelTree);
  const none = Buffer.alloc(0);
  const commands = ['sh', 'mount', 'umount', 'cat', 'echo', 'insmod', 'poweroff', 'switch_root'];
  return Buffer.concat([
    ...['bin', 'proc', 'sys', 'dev', 'root', 'modules'].map((path) => encodeEntry(path, directory, none)),
    encodeEntry('bin/busybox', executable, readFileSync(busybox)),
    ...commands.map((name) => encodeEntry(`bin/${name}`, 0o120777, Buffer.from('busybox'))),
    encodeEntry('init', executable, Buffer.from(init)),
    encodeEntry('modules.order', 0o100644, Buffer.from(modules.map(({ name }) => `${name}\n`).join(''))),
    ...modules.map(({ name, content }) => encodeEntry(`modules/${name}.ko`, 0o100644, content)),
    encodeEntry('TRAILER!!!', 0, none),
  ]);
}
