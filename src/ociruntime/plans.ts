/**
 * The plans of a container that has a record: its making, its end, and what the front does by itself in between. In: the record, the document, the host's facts. Out: plans.
 * Pure: the same record and document give the same plans, so that a failure of a step that was compiled by an earlier command can be told by its sentence.
 */
import { limits } from '#core';
import type { RuntimeSpec } from '#oci';
import { type Plan, type Step, errno, noSlot } from '#plan';
import {
  type HookPlace,
  type PlanContainerInput,
  identityOf,
  planContainer,
  planContainerKill,
  planContainerRemoval,
  planFreeze,
  planPayload,
  planPoststart,
  planPoststop,
  planRemains,
  planThaw,
  resolveIdentity,
} from '#runtime';
import { type AskedFile, type HostFacts, decodeAsk } from '#system';
import type { FrontPlans } from './front-file.ts';
import { type ContainerRecord, stateFiles } from './record.ts';

/** A container as its plans depend on it. */
export interface ContainerFacts {
  readonly stateRoot: string;
  readonly record: ContainerRecord;
  readonly spec: RuntimeSpec;
  readonly host: HostFacts;
}

const sigkill = 9;
const removal = { timeoutMs: limits.ociRemovalTimeoutMs };
const hostPlan = (steps: readonly Step[]): Plan => ({ sections: [{ actor: 'host', steps }] });
const stepsOf = ({ sections }: Plan): readonly Step[] => sections.flatMap(({ steps }) => steps);

/** Where hooks find the bundle. */
export function hookPlaceOf({ id, bundle }: ContainerRecord): HookPlace {
  return { id, bundle, isOwn: true };
}

/** The document without a label for files where the kernel has no SELinux, which then means nothing: callers write it whatever the host is. */
function settleMountLabel(spec: RuntimeSpec, host: HostFacts): RuntimeSpec {
  if (host.securityModules.includes('selinux')) return spec;
  const { mountLabel: _label, ...linux } = spec.linux;
  return { ...spec, linux };
}

/** What `planContainer` is asked. */
export function creationInput({ stateRoot, record, spec, host }: ContainerFacts): PlanContainerInput {
  const { creation, rootfs, bundle, cgroup, id } = record;
  return {
    spec: settleMountLabel(spec, host),
    host,
    cgroup,
    bundle,
    rootfs: { kind: 'directory', path: rootfs },
    hookPlace: hookPlaceOf(record),
    start: { kind: 'socket', path: stateFiles(stateRoot, id).socket },
    newKeyring: !creation.noNewKeyring,
    pivot: !creation.noPivot,
    preserveFds: creation.preserveFds,
    askIdentity: creation.askHome,
  };
}

/** The home directory that the files of the container's root give a user; everything else is as the document has it. */
export function homeOf(files: readonly AskedFile[], uid: number): string {
  const passwd = files.find(({ path }) => path === '/etc/passwd');
  return resolveIdentity({ uid, supplementalGroups: [], policy: 'Strict' }, passwd === undefined || passwd.errno !== 0 ? {} : { passwd: passwd.content }).home;
}

/** The plan that makes the container's first process, and the answer to its question. */
export function planCreation(facts: ContainerFacts): { readonly plan: Plan; readonly answer: (payload: Uint8Array) => Plan } {
  const input = creationInput(facts);
  const { process } = facts.spec;
  return {
    plan: planContainer(input),
    answer: (payload) => {
      // The plan was compiled with this process, so that there is one.
      const identity = process === undefined ? { uid: 0, gid: 0, groups: [], home: '/' } : identityOf(process);
      return planPayload(input, { ...identity, home: homeOf(decodeAsk(Buffer.from(payload)), identity.uid) });
    },
  };
}

/** Whether the end of the first process is the end of all: the kernel kills who is left in its PID namespace. */
function endsTogether({ linux }: RuntimeSpec): boolean {
  return linux.namespaces.some(({ type, path }) => type === 'pid' && path === undefined);
}

/** SIGKILL for the first process; one that is gone is no error. */
function killFirst({ pid, startTime }: ContainerRecord): readonly Step[] {
  return pid === 0 ? [] : [{ kind: 'signalProcess', pid, startTime, signal: sigkill, ignore: [errno.noProcess] }];
}

/** A signal for a process; ESRCH where it is gone. */
export function planSignal({ pid, startTime }: Pick<ContainerRecord, 'pid' | 'startTime'>, signal: number): Plan {
  return hostPlan([{ kind: 'signalProcess', pid, startTime, signal }]);
}

/** What SIGKILL means for a container whose processes do not end with the first; undefined where they do. */
export function planKillAll({ record, spec, host }: ContainerFacts): Plan | undefined {
  return endsTogether(spec) ? undefined : hostPlan([...killFirst(record), ...stepsOf(planContainerKill(host, record.cgroup, removal))]);
}

/** Ends whatever is left and removes the groups. The state directory stays: who is interrupted here begins anew. */
export function planRemoval({ record, spec, host }: Pick<ContainerFacts, 'record' | 'spec' | 'host'>): Plan {
  const remains = planRemains(spec, { rootfs: { kind: 'directory', path: record.rootfs }, id: record.id, host });
  return hostPlan([...killFirst(record), ...stepsOf(planContainerRemoval(host, record.cgroup, removal)), ...remains]);
}

/** The hooks of a container's start, one plan each. */
export function planStarted({ record, spec }: Pick<ContainerFacts, 'record' | 'spec'>): readonly Plan[] {
  return planPoststart(spec, hookPlaceOf(record), record.pid);
}

/** The hooks of a container's end, one plan each; `directory` is where they begin, since the bundle may be gone. */
export function planStopped({ record, spec }: Pick<ContainerFacts, 'record' | 'spec'>, directory: string): readonly Plan[] {
  return planPoststop(spec, { ...hookPlaceOf(record), directory });
}

/** What the front does without asking. */
export function planFront(facts: ContainerFacts): FrontPlans {
  const { stateRoot, record, spec, host } = facts;
  const kill = planKillAll(facts);
  const canPause = record.freezeFile !== '';
  const { directory } = stateFiles(stateRoot, record.id);
  return {
    startByCompiler: (spec.hooks.poststart ?? []).length > 0,
    ...(kill === undefined ? {} : { kill }),
    ...(canPause ? { pause: planFreeze(host, record.cgroup, removal), resume: planThaw(host, record.cgroup) } : {}),
    ...((spec.hooks.poststop ?? []).length > 0 ? {} : { delete: hostPlan([...stepsOf(planRemoval(facts)), { kind: 'removeTree', dir: noSlot, path: directory }]) }),
  };
}
