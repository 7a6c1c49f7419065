/**
 * Hooks of a container as steps. In: a decoded runtime-spec, where the container's bundle is. Out: sections and steps, or errors with the
 * document's path. Pure. Source: opencontainers/runtime-spec 1.3, config.md "POSIX-platform Hooks" and runtime.md "Lifecycle".
 *
 * prestart, createRuntime: on the host, in a child of the shim beside the waiting container. createContainer: the container's process itself runs
 * them, before its root changes; below a user namespace a child of the shim does, in its place. startContainer: the same, as the last thing before its payload, with the payload's rights. poststart, poststop:
 * plans of their own. Nobody waits in the shim's loop.
 */
import { limits } from '#core';
import { type HookKind, type RuntimeSpec, type SpecHook, encodeRuntimeSpec, formatJson } from '#oci';
import { type Plan, type Section, type Step, childSlot, clone, errno, noSlot, open } from '#plan';
import { type NamespaceTable, cloneFlagOf } from './namespaces.ts';
import { localSlots } from './slots.ts';

/** What a container is called, and the directory for what hooks read: `config.json` and `rootfs`, a link to its root. */
export interface HookPlace {
  readonly id: string;
  /** Absolute; made by `bundleSteps`, removed by the owner. */
  readonly bundle: string;
  /** The bundle is the caller's own: it has what hooks read already, and nothing is made in it. */
  readonly isOwn?: true;
  /** Where hooks of the host begin; default: the bundle. */
  readonly directory?: string;
}

/** Barrier at which a container waits for hooks of the host; user namespaces have small numbers. */
const hooksBarrier = 1000;
const noPid = 0xffff_ffff;

/** Whose number stands in the state document. */
type StatePid = { readonly of: 'waiting' } | { readonly of: 'itself' } | { readonly of: 'known'; readonly pid: number } | { readonly of: 'nobody' };

// prestart is of the first versions of the specification, whose only state before `running` is `created`; validation programs and crun hold to it.
const statusOf: Readonly<Record<HookKind, string>> = {
  prestart: 'created',
  createRuntime: 'creating',
  createContainer: 'creating',
  startContainer: 'created',
  poststart: 'running',
  poststop: 'stopped',
};

/** The state document and the byte where the process's number belongs. */
function planState(spec: RuntimeSpec, place: HookPlace, kind: HookKind, pid: StatePid): { readonly state: Uint8Array; readonly pidAt: number } {
  const known = pid.of === 'known' ? { pid: pid.pid } : {};
  const { ociVersion, annotations } = spec;
  const document = formatJson({ ociVersion, id: place.id, status: statusOf[kind], bundle: place.bundle, annotations, ...known });
  if (pid.of === 'known' || pid.of === 'nobody') return { state: Buffer.from(document), pidAt: noPid };
  const head = Buffer.from(`${document.slice(0, -1)},"pid":`);
  return { state: Buffer.concat([head, Buffer.from('}')]), pidAt: head.length };
}

/** How long a hook may take, in milliseconds. */
function timeoutOf({ timeout }: SpecHook): number {
  return timeout === undefined ? limits.hookTimeoutMsDefault : timeout * 1000;
}

/** All the time that the hooks of these kinds may take together, in milliseconds. */
export function hooksTimeoutMs({ hooks }: Pick<RuntimeSpec, 'hooks'>, kinds: readonly HookKind[]): number {
  return kinds.flatMap((kind) => hooks[kind] ?? []).reduce((sum, hook) => sum + timeoutOf(hook), 0);
}

/** Whether a document has hooks at all. */
export function hasHooks({ hooks }: Pick<RuntimeSpec, 'hooks'>): boolean {
  return Object.values(hooks).some((list) => list.length > 0);
}

function planList(spec: RuntimeSpec, place: HookPlace, kind: HookKind, pid: StatePid): readonly Step[] {
  return (spec.hooks[kind] ?? []).map((hook, index): Step => ({
    kind: 'runHook',
    file: hook.path,
    argv: hook.args,
    env: hook.env,
    // Nothing of the host can be named inside the container; elsewhere hooks expect the bundle.
    cwd: kind === 'startContainer' ? '/' : (place.directory ?? place.bundle),
    ...planState(spec, place, kind, pid),
    process: pid.of === 'waiting' ? childSlot : noSlot,
    timeoutMs: timeoutOf(hook),
    origin: `/hooks/${kind}/${index}`,
  }));
}

/** The bundle directory with its config.json, whose `root.path` is `rootfs`; for documents with hooks. */
export function bundleSteps(spec: RuntimeSpec, { bundle, isOwn }: HookPlace): readonly Step[] {
  if (!hasHooks(spec) || isOwn === true) return [];
  const config = formatJson(encodeRuntimeSpec({ ...spec, root: { ...spec.root, path: 'rootfs' } }));
  return [
    { kind: 'makeDirectory', dir: noSlot, path: bundle, mode: 0o700, parents: 1, origin: '/hooks' },
    { kind: 'makeFile', dir: noSlot, path: `${bundle}/config.json`, mode: 0o600, data: Buffer.from(config), origin: '/hooks' },
  ];
}

/** Namespaces that a hook of createContainer is in, by their names in procfs; that of mounts comes last, for it takes the root along. */
const visited = [
  { type: 'network', file: 'net' },
  { type: 'ipc', file: 'ipc' },
  { type: 'uts', file: 'uts' },
  { type: 'cgroup', file: 'cgroup' },
  { type: 'pid', file: 'pid' },
  { type: 'mount', file: 'mnt' },
] as const;

/** What a container's plan needs for hooks before its root changes. */
export interface CreationHooks {
  /** Steps of the container's process: keeps its own PID namespace in reach; goes before namespaces are entered. */
  readonly early: readonly Step[];
  /** Steps of the container's process, right before the pivot. */
  readonly late: readonly Step[];
  /** What runs on the host while it waits. */
  readonly sections: readonly Section[];
}

/**
 * The hooks of prestart, createRuntime and createContainer. `rootPath` is where the container's process sees its root until the pivot. The host has no
 * mount of that root: `rootfs` in the bundle leads to it through the process's own directory in procfs, and goes with it.
 */
export function planCreationHooks(spec: RuntimeSpec, place: HookPlace | undefined, table: NamespaceTable, rootPath: string): CreationHooks {
  if (place === undefined || !hasHooks(spec)) return { early: [], late: [], sections: [] };
  const onHost = [...planList(spec, place, 'prestart', { of: 'waiting' }), ...planList(spec, place, 'createRuntime', { of: 'waiting' })];
  const isMapped = table.user.kind !== 'host';
  const inside = isMapped ? [] : planList(spec, place, 'createContainer', { of: 'itself' });
  const visiting = isMapped ? planVisit(spec, place, table) : [];
  // A joined PID namespace counts for children only: a hook in it would show the host's mounts and every capability to whoever may trace there.
  const joined = table.pid.kind === 'slot' || table.pid.kind === 'path' ? table.pid.slot : undefined;
  const aside = inside.length > 0 && joined !== undefined;
  const enter = (slot: number): Step => ({ kind: 'enterNamespace', slot, type: clone.newPid, origin: '/hooks/createContainer' });
  const link: Step = { kind: 'linkRoot', process: childSlot, below: rootPath, path: `${place.bundle}/rootfs`, origin: '/hooks' };
  const sections: readonly Section[] = [
    ...(place.isOwn === true ? [] : [{ actor: 'host', barrier: hooksBarrier, steps: [link] } as const]),
    // A session of its own, so that cancelling it ends everything that the hooks began.
    ...[onHost, visiting].flatMap((steps): readonly Section[] =>
      steps.length === 0 ? [] : [{ actor: 'podNamespaces', barrier: hooksBarrier, steps: [{ kind: 'newSession', controllingTerminal: 0 }, ...steps] }],
    ),
  ];
  return {
    early: aside ? [{ kind: 'openPath', dir: noSlot, path: '/proc/self/ns/pid', flags: open.readOnly, mode: 0, resolve: 0, out: localSlots.ownPid }] : [],
    late: [...(sections.length === 0 ? [] : [{ kind: 'barrier', barrier: hooksBarrier } as const]), ...(aside ? [enter(localSlots.ownPid), ...inside, enter(joined)] : inside)],
    sections,
  };
}

/**
 * The hooks of createContainer below a user namespace, whose process has left the host's files behind before it has its mounts: a child of the shim enters
 * its namespaces, but for the user namespace, and keeps the host's tree as its root. A PID namespace that is joined stays out, as above.
 */
function planVisit(spec: RuntimeSpec, place: HookPlace, table: NamespaceTable): readonly Step[] {
  const isAlone = table.pid.kind === 'new';
  const hooks = planList(spec, place, 'createContainer', isAlone ? { of: 'known', pid: 1 } : { of: 'waiting' });
  if (hooks.length === 0) return [];
  const { scratch, sources } = localSlots;
  const origin = '/hooks/createContainer';
  const entered = visited.filter(({ type }) => table[type].kind !== 'host' && (type !== 'pid' || isAlone));
  return [
    { kind: 'openPath', dir: noSlot, path: '/', flags: open.path | open.directory, mode: 0, resolve: 0, out: scratch, origin },
    ...entered.map(({ file }, index): Step => ({ kind: 'openPath', dir: childSlot, path: `ns/${file}`, flags: open.readOnly, mode: 0, resolve: 0, out: sources + index, origin })),
    ...entered.map(({ type }, index): Step => ({ kind: 'enterNamespace', slot: sources + index, type: cloneFlagOf[type], origin })),
    { kind: 'changeRoot', slot: scratch, origin },
    ...hooks,
  ];
}

/** The hooks of startContainer, right before the payload. */
export function planStartHooks(spec: RuntimeSpec, place: HookPlace | undefined): readonly Step[] {
  return place === undefined ? [] : planList(spec, place, 'startContainer', { of: 'itself' });
}

const alone = (steps: readonly Step[]): Plan => ({ sections: [{ actor: 'podNamespaces', steps: [{ kind: 'newSession', controllingTerminal: 0 }, ...steps] }] });
const unlink = ({ bundle }: HookPlace): Step => ({ kind: 'removeFile', dir: noSlot, path: `${bundle}/rootfs`, ignore: [errno.noEntry] });

/** One plan per hook of poststart, in order. `pid` is the running process. */
export function planPoststart(spec: RuntimeSpec, place: HookPlace, pid: number): readonly Plan[] {
  const link: Step = { kind: 'makeLink', dir: noSlot, path: `${place.bundle}/rootfs`, target: `/proc/${pid}/root`, origin: '/hooks' };
  const prepare = place.isOwn === true ? [] : [unlink(place), link];
  return planList(spec, place, 'poststart', { of: 'known', pid }).map((step) => alone([...prepare, step]));
}

/** One plan per hook of poststop, in order; a failure of one concerns no other. The bundle is made again, for it may have gone with the pod's other remains. */
export function planPoststop(spec: RuntimeSpec, place: HookPlace): readonly Plan[] {
  const prepare = place.isOwn === true ? [] : [...bundleSteps(spec, place), unlink(place)];
  return planList(spec, place, 'poststop', { of: 'nobody' }).map((step) => alone([...prepare, step]));
}
