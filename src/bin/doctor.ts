/**
 * What this host offers, found by trying: every check that matters runs a small plan in a namespace of its own and reports what
 * the kernel said. In: host facts and a runner of plans. Out: a report. It changes nothing that outlives it.
 */
import { errorMessage } from '#core';
import type { DoctorCheck, DoctorReport } from '#cli';
import { type Plan, type Step, clone, ms, noSlot } from '#plan';
import type { HostFacts } from '#system';

/** Runs a plan in a child that ends with it; rejects with the failed step. */
export type RunPlan = (plan: Plan) => Promise<void>;

interface Probe {
  readonly name: string;
  readonly steps: readonly Step[];
  readonly offers: string;
  /** What a failure means. */
  readonly state: 'limited' | 'missing';
  readonly remedy: string;
}

const runAsRoot = 'run as root';
const scratch = '/tmp';
const inMountNamespace: readonly Step[] = [
  { kind: 'unshare', flags: clone.newMount },
  { kind: 'setPropagation', path: '/', flags: ms.private | ms.recursive },
];
const tmpfsOnScratch: Step = { kind: 'mount', cwd: '', source: 'tmpfs', target: scratch, type: 'tmpfs', flags: 0, data: '' };
const makeDirectory = (path: string): Step => ({ kind: 'makeDirectory', dir: noSlot, path, mode: 0o755, parents: 1 });

const probes: readonly Probe[] = [
  {
    name: 'namespaces',
    offers: 'mount, PID, network, IPC, UTS and cgroup namespaces',
    state: 'missing',
    remedy: 'use a kernel with namespaces',
    steps: [{ kind: 'unshare', flags: clone.newMount | clone.newNet | clone.newIpc | clone.newUts | clone.newCgroup }],
  },
  {
    name: 'overlay',
    offers: 'overlay file systems for container roots',
    state: 'missing',
    remedy: 'load the kernel module overlay',
    steps: [
      ...inMountNamespace,
      tmpfsOnScratch,
      ...['lower', 'upper', 'work', 'merged'].map((name) => makeDirectory(`${scratch}/${name}`)),
      { kind: 'mount', cwd: scratch, source: 'overlay', target: 'merged', type: 'overlay', flags: 0, data: 'lowerdir=lower,upperdir=upper,workdir=work' },
    ],
  },
  {
    name: 'mount API',
    offers: 'mounts by descriptor (open_tree, move_mount, mount_setattr)',
    state: 'missing',
    remedy: 'use Linux 5.15 or later',
    steps: [
      ...inMountNamespace,
      tmpfsOnScratch,
      makeDirectory(`${scratch}/target`),
      { kind: 'newFileSystem', type: 'tmpfs', options: ['size=4096'], attributes: 1, out: 64 },
      { kind: 'openPath', dir: noSlot, path: scratch, flags: 0o10000000, mode: 0, resolve: 0, out: 65 },
      { kind: 'moveMount', from: 64, root: 65, target: '/target', create: 0, noLinks: 1 },
    ],
  },
  {
    name: 'seccomp',
    offers: 'seccomp filters',
    state: 'limited',
    remedy: 'use a kernel with CONFIG_SECCOMP_FILTER',
    // One instruction: BPF_RET with SECCOMP_RET_ALLOW.
    steps: [{ kind: 'setNoNewPrivileges' }, { kind: 'setSeccomp', flags: 0, program: Uint8Array.of(6, 0, 0, 0, 0, 0, 0xff, 0x7f) }],
  },
  {
    name: 'user namespaces',
    offers: 'user namespaces',
    state: 'limited',
    remedy: 'raise user.max_user_namespaces',
    steps: [{ kind: 'unshare', flags: clone.newUser }],
  },
];

async function runProbe(probe: Probe, run: RunPlan, isPrivileged: boolean): Promise<DoctorCheck> {
  try {
    await run({ sections: [{ actor: 'podNamespaces', steps: probe.steps }] });
    return { name: probe.name, state: 'ok', detail: probe.offers };
  } catch (error) {
    return { name: probe.name, state: probe.state, detail: errorMessage(error), remedy: isPrivileged ? probe.remedy : runAsRoot };
  }
}

function describeCgroups({ cgroups }: HostFacts): DoctorCheck {
  const controllers = cgroups.mode === 'v2' ? (cgroups.unified?.controllers ?? []) : cgroups.v1.flatMap((hierarchy) => hierarchy.controllers);
  const missing = ['cpu', 'memory', 'pids'].filter((name) => !controllers.includes(name));
  const detail = `${cgroups.mode}: ${controllers.join(', ')}`;
  return missing.length === 0
    ? { name: 'cgroups', state: 'ok', detail }
    : { name: 'cgroups', state: 'limited', detail: `${detail}; no ${missing.join(', ')}`, remedy: `limits of ${missing.join(', ')} are refused; enable the controllers at boot` };
}

function describeKernel({ kernel }: HostFacts): DoctorCheck {
  const isOld = kernel.major < 5 || (kernel.major === 5 && kernel.minor < 15);
  return isOld
    ? { name: 'kernel', state: 'missing', detail: kernel.release, remedy: 'use Linux 5.15 or later' }
    : { name: 'kernel', state: 'ok', detail: `Linux ${kernel.release}` };
}

function describeCapabilities({ capabilities }: HostFacts): DoctorCheck {
  const all = (1n << BigInt(capabilities.last + 1)) - 1n;
  if (capabilities.own === 0n) return { name: 'capabilities', state: 'missing', detail: 'none', remedy: runAsRoot };
  const hasSysResource = (capabilities.own & (1n << 24n)) !== 0n;
  if ((capabilities.own & all) === all) return { name: 'capabilities', state: 'ok', detail: 'all' };
  return {
    name: 'capabilities',
    state: 'limited',
    detail: hasSysResource ? 'some are missing' : 'CAP_SYS_RESOURCE is missing',
    remedy: 'oom scores cannot be lowered nor hard limits raised; privileged containers get what this process has',
  };
}

/** Every check in the order that people read: the kernel, what it lets us do, the network. `network` is the engine's own check. */
export async function buildDoctorReport({
  facts,
  run,
  network,
}: {
  readonly facts: HostFacts;
  readonly run: RunPlan;
  readonly network: (run: RunPlan) => Promise<DoctorCheck>;
}): Promise<DoctorReport> {
  const isPrivileged = facts.capabilities.own !== 0n;
  const probed: DoctorCheck[] = [];
  for (const probe of probes) probed.push(await runProbe(probe, run, isPrivileged));
  const networkCheck = await network(run);
  probed.push(isPrivileged || networkCheck.state === 'ok' ? networkCheck : { ...networkCheck, remedy: runAsRoot });
  return { checks: [describeKernel(facts), describeCapabilities(facts), describeCgroups(facts), ...probed] };
}
