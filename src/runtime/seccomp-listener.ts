/**
 * The filter of system calls as steps, and who answers for calls that the profile asks about. In: a decoded profile, the container's name and bundle. Out:
 * steps and sections, or errors with the document's path. Pure.
 * Source: opencontainers/runtime-spec 1.3, config-linux.md "Seccomp", listenerPath and "The Container Process State"; seccomp_unotify(2).
 *
 * The process installs its filter and hands the listener to its parent, which sends it to the agent's socket, with a document that says whose it is, before the
 * process goes on. Nothing that the process itself still has to do needs a call that the filter may forbid, but writing and reading.
 */
import { type RuntimeSpec, type SpecSeccomp, formatJson } from '#oci';
import { type Section, type Step, childSlot } from '#plan';
import { type Architecture } from '#system';
import { type HookPlace } from './hooks.ts';
import { unsupported } from './refusals.ts';
import { compileSeccomp, hasListener } from './seccomp.ts';
import { localSlots } from './slots.ts';

/** Barrier at which a process waits for its agent; user namespaces have small numbers, hooks 1000. */
const listenerBarrier = 2000;
const field = 'linux.seccomp.listenerPath';
const origin = '/linux/seccomp/listenerPath';

/** Installs the filter, and hands over its listener where it has one. */
export function planFilter(seccomp: SpecSeccomp | undefined, architecture: Architecture): readonly Step[] {
  if (seccomp === undefined) return [];
  const { flags, program } = compileSeccomp(seccomp, architecture, 'linux.seccomp');
  return [
    hasListener(seccomp)
      ? { kind: 'setSeccompListener', flags, program, out: localSlots.listener, origin: '/linux/seccomp' }
      : { kind: 'setSeccomp', flags, program, origin: '/linux/seccomp' },
  ];
}

/** Waits until the agent has the listener; goes where the process has its last number. */
export function awaitAgent(seccomp: SpecSeccomp | undefined): readonly Step[] {
  return seccomp !== undefined && hasListener(seccomp) ? [{ kind: 'barrier', barrier: listenerBarrier, origin }] : [];
}

/**
 * Which process the agent hears of. Numbers that nobody knows before it is made are put in where the document is sent.
 */
export type ListenedProcess = { readonly kind: 'init' } | { readonly kind: 'exec'; readonly initPid: number };

/** A document with holes for a number: the pieces around them. */
function fillable(pieces: readonly string[]): { readonly state: Uint8Array; readonly pidAt: readonly number[] } {
  let size = 0;
  const ends = pieces.map((piece) => (size += Buffer.byteLength(piece)));
  return { state: Buffer.from(pieces.join('')), pidAt: ends.slice(0, -1) };
}

/** What the parent does while the process waits. Throws unimplemented where nobody says what the container is called. */
export function planListener(spec: RuntimeSpec, place: HookPlace | undefined, listened: ListenedProcess): readonly Section[] {
  const { seccomp } = spec.linux;
  if (seccomp === undefined || !hasListener(seccomp)) return [];
  if (place === undefined) throw unsupported(field, 'without a bundle directory');
  const { listenerPath = '', listenerMetadata } = seccomp;
  const { ociVersion, annotations } = spec;
  const head = formatJson({ ociVersion, fds: ['seccompFd'], ...(listenerMetadata === undefined ? {} : { metadata: listenerMetadata }) }).slice(0, -1);
  const container = { ociVersion, id: place.id, status: listened.kind === 'init' ? 'creating' : 'running', bundle: place.bundle, annotations };
  const pieces =
    listened.kind === 'init'
      ? [`${head},"pid":`, `,"state":${formatJson(container).slice(0, -1)},"pid":`, '}}']
      : [`${head},"pid":`, `,"state":${formatJson({ ...container, pid: listened.initPid })}}`];
  const path = listenerPath.startsWith('/') ? listenerPath : `${place.bundle}/${listenerPath}`;
  return [
    {
      actor: 'podNamespaces',
      barrier: listenerBarrier,
      steps: [{ kind: 'sendListener', listener: localSlots.listener, path, ...fillable(pieces), process: childSlot, origin }],
    },
  ];
}
