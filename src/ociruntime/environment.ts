/** What a caller's environment adds to a container's process. In: the caller's request, a process object. Out: a process object and a number of descriptors. Pure. */
import type { RuntimeSpec, SpecProcess } from '#oci';
import { capabilityNames } from '#runtime';
import type { FrontRequest, OciLog } from './types.ts';

/**
 * Of several variables with one name the last counts, and an empty HOME is none. Source: runc, whose containers see it so; the kernel would pass all of them on and leave the choice to the program.
 */
export function settleEnvironment(process: SpecProcess): SpecProcess {
  const nameOf = (entry: string): string => entry.slice(0, entry.indexOf('='));
  const last = new Map(process.env.map((entry, index) => [nameOf(entry), index]));
  const env = process.env.filter((entry, index) => last.get(nameOf(entry)) === index && entry !== 'HOME=');
  return { ...process, env };
}

/** True where the home directory is to be looked up in the container. */
export function lacksHome({ env }: SpecProcess): boolean {
  return !env.some((entry) => entry.startsWith('HOME='));
}

/**
 * The process without capabilities that no kernel has, and without ambient ones that the kernel would not give it. A document may ask for both, and gets a warning. Sources: runtime-spec 1.3,
 * config.md "Linux Process"; runc, whose own template has had such ambient ones.
 */
export function settleCapabilities(process: SpecProcess): { readonly process: SpecProcess; readonly dropped: readonly string[]; readonly unknown: readonly string[] } {
  if (process.capabilities === undefined) return { process, dropped: [], unknown: [] };
  const asked = process.capabilities;
  const isKnown = (name: string): boolean => capabilityNames.some((known) => known === name);
  const { bounding, effective, inheritable, permitted, ambient } = asked;
  const unknown = [...new Set([bounding, effective, inheritable, permitted, ambient].flat())].filter((name) => !isKnown(name));
  const capabilities = {
    bounding: bounding.filter(isKnown),
    effective: effective.filter(isKnown),
    inheritable: inheritable.filter(isKnown),
    permitted: permitted.filter(isKnown),
    ambient: ambient.filter(isKnown),
  };
  const possible = (name: string): boolean => capabilities.permitted.includes(name) && capabilities.inheritable.includes(name);
  return {
    process: { ...process, capabilities: { ...capabilities, ambient: capabilities.ambient.filter(possible) } },
    dropped: capabilities.ambient.filter((name) => !possible(name)),
    unknown,
  };
}

/** How many sockets the caller's service manager has opened for it. Source: sd_listen_fds(3). */
export function countListenFds({ env, pid }: Pick<FrontRequest, 'env' | 'pid'>): number {
  const count = Number(env['LISTEN_FDS'] ?? '0');
  return env['LISTEN_PID'] === String(pid) && Number.isInteger(count) && count > 0 ? count : 0;
}

/** A process as runc would make it; the log is told what it will not have. */
export function settleProcess(process: SpecProcess, log: Pick<OciLog, 'debug' | 'warn'>): SpecProcess {
  const { process: settled, dropped, unknown } = settleCapabilities(process);
  if (unknown.length > 0) log.warn(`ignoring unknown or unavailable capabilities: ${JSON.stringify(unknown.slice(0, 10).map((name) => name.slice(0, 80)))}`);
  // Documents of older templates have them, so that a warning would be in every output.
  for (const name of dropped) log.debug(`can't raise ambient capability ${name}: operation not permitted`);
  return settleEnvironment(settled);
}

/** A terminal that the front copies is as large as the caller's from the beginning. */
export function settleSize(process: SpecProcess, { size }: Pick<FrontRequest, 'size'>): SpecProcess {
  return process.terminal && size.columns > 0 && size.rows > 0 ? { ...process, consoleSize: { height: size.rows, width: size.columns } } : process;
}

/** The document as it is made for this caller, whose service manager's sockets are told. Source: runc, whose containers find them by process 1. */
export function settleSpec(spec: RuntimeSpec, listenFds: number, log: Pick<OciLog, 'debug' | 'warn'>): RuntimeSpec {
  if (spec.process === undefined) return spec;
  const told = listenFds === 0 ? [] : [`LISTEN_FDS=${listenFds}`, 'LISTEN_PID=1'];
  return { ...spec, process: settleProcess({ ...spec.process, env: [...spec.process.env, ...told] }, log) };
}
