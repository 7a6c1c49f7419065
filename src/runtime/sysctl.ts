/**
 * Kernel parameters of a container or pod. In: names and values of a document. Out: write steps to procfs. Pure.
 * Only parameters that belong to a namespace of the container's own are written; separators are refused (CVE-2022-0811).
 */
import { invalidArgument } from '#core';
import { type Step, fileSystem, noSlot } from '#plan';

/** Which namespaces are not the host's. */
export interface OwnNamespaces {
  readonly net: boolean;
  readonly ipc: boolean;
  readonly uts: boolean;
  readonly user?: boolean;
}

const ipcNames = new Set(['kernel.msgmax', 'kernel.msgmnb', 'kernel.msgmni', 'kernel.sem', 'kernel.shmall', 'kernel.shmmax', 'kernel.shmmni', 'kernel.shm_rmid_forced']);

function namespaceOf(name: string): keyof OwnNamespaces | undefined {
  if (name.startsWith('net.')) return 'net';
  if (ipcNames.has(name) || name.startsWith('fs.mqueue.')) return 'ipc';
  if (name.startsWith('user.')) return 'user';
  return name === 'kernel.domainname' ? 'uts' : undefined;
}

/** Words with dots between them. A slash stands for a dot inside a word, as in the name of a VLAN: `net.ipv4.conf.eth0/100.rp_filter`; see sysctl.d(5). */
const namePattern = /^[A-Za-z0-9_-]+(?:\/[A-Za-z0-9_-]+)*(?:\.[A-Za-z0-9_-]+(?:\/[A-Za-z0-9_-]+)*)+$/;

/** Both spellings of sysctl.d(5): where a slash comes first, dots and slashes have each other's meaning. */
const dotted = (name: string): string => (/^[^./]*\//.test(name) ? name.replaceAll(/[./]/g, (separator) => (separator === '.' ? '/' : '.')) : name);

const fileOf = (name: string): string => name.replaceAll(/[./]/g, (separator) => (separator === '.' ? '/' : '.'));

/** The writes, in the document's order. `path` names the map, `origin` is its JSON pointer. */
export function planSysctls(sysctls: Readonly<Record<string, string>>, own: OwnNamespaces, { path, origin }: { readonly path: string; readonly origin: string }): readonly Step[] {
  return Object.entries(sysctls).map(([written, value]): Step => {
    const name = dotted(written);
    const place = `${path}[${JSON.stringify(written.slice(0, 120))}]`;
    if (!namePattern.test(name)) throw invalidArgument(place, 'must be words of letters, digits, "_" and "-" separated by dots');
    if (/[\n\0]/.test(value)) throw invalidArgument(place, 'the value must be one line');
    const kind = namespaceOf(name);
    if (kind === undefined) throw invalidArgument(place, 'is no parameter of a namespace, so it would change the host');
    if (own[kind] !== true) throw invalidArgument(place, `needs an own ${kind} namespace, the container uses the host's`);
    return { kind: 'writeFile', dir: noSlot, path: `/proc/sys/${fileOf(name)}`, data: Buffer.from(value), fileSystem: fileSystem.proc, origin: `${origin}/${name}` };
  });
}
