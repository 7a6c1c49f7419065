/**
 * Cache and memory bandwidth by Intel's Resource Director Technology. In: the document, where the host has its resctrl file system. Out: steps in three places.
 * Pure. Source: config-linux.md "IntelRdt"; the kernel's documentation of resctrl.
 *
 * A group that the document names is used by others too: it is made where it is missing, and stays. Without a name the container gets one of its own.
 */
import { type SpecIntelRdt, type SpecLinux } from '#oci';
import { type Step, errno, fileSystem, noSlot } from '#plan';
import { type HostFacts } from '#system';
import { hostLacks } from './refusals.ts';

/** Steps by who runs them. */
export interface IntelRdtPlan {
  /** On the host, before the container's process is made. */
  readonly host: readonly Step[];
  /** The container's process enters its groups, while it sees the host's files. */
  readonly child: readonly Step[];
  /** What the container's removal takes away; absence is no error. */
  readonly remove: readonly Step[];
}

const origin = '/linux/intelRdt';
const nothing: IntelRdtPlan = { host: [], child: [], remove: [] };

const write = (path: string, text: string): Step => ({ kind: 'writeFile', dir: noSlot, path, data: Buffer.from(text), fileSystem: fileSystem.any, origin });
const make = (path: string): Step => ({ kind: 'makeDirectory', dir: noSlot, path, mode: 0o755, parents: 0, origin, ignore: [errno.exists] });
const removeGroup = (path: string): Step => ({ kind: 'removeDirectory', dir: noSlot, path, origin, ignore: [errno.noEntry] });

function linesOf({ schemata, l3CacheSchema, memBwSchema }: SpecIntelRdt): readonly string[] {
  return [l3CacheSchema, memBwSchema, ...schemata].flatMap((line) => (line === undefined ? [] : [line]));
}

/** Throws failedPrecondition `linux.intelRdt: …` where the host has no resctrl file system. */
export function planIntelRdt({ intelRdt }: Pick<SpecLinux, 'intelRdt'>, { id, host }: { readonly id: string; readonly host: Pick<HostFacts, 'resctrl'> }): IntelRdtPlan {
  if (intelRdt === undefined) return nothing;
  if (host.resctrl === undefined) throw hostLacks('linux.intelRdt', 'this host has no resctrl file system mounted');
  const { closID } = intelRdt;
  const group = closID === '/' ? host.resctrl : `${host.resctrl}/${closID ?? id}`;
  const monitoring = `${group}/mon_groups/${id}`;
  const lines = linesOf(intelRdt);
  return {
    host: [
      ...(closID === '/' ? [] : [make(group)]),
      // One write for all lines, as the kernel wants it; each ends with a new line.
      ...(lines.length === 0 ? [] : [write(`${group}/schemata`, lines.map((line) => `${line}\n`).join(''))]),
      ...(intelRdt.enableMonitoring ? [make(monitoring)] : []),
    ],
    child: [group, ...(intelRdt.enableMonitoring ? [monitoring] : [])].map((directory) => write(`${directory}/tasks`, '0')),
    remove: closID === undefined ? [removeGroup(group)] : intelRdt.enableMonitoring ? [removeGroup(monitoring)] : [],
  };
}
