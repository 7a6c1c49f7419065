/**
 * Profiles that filters of two runtimes are compared with. In: nothing, or a profile file of docker or podman. Out: profiles as config.json
 * has them, made without chance: the same ones every time.
 *
 * A runtime must be able to make a container of each, so calls that its own process needs on the way stay allowed. They name only calls that libseccomp 2.5.4 (Debian 12) knows: those up to Linux 5.17.
 */
import assert from 'node:assert/strict';
import { RuntimeError } from '#core';
import { type SeccompArg, type SeccompArchitecture, type SeccompRule, type SpecSeccomp, seccompOperators } from '#oci';
import { buildSeccompFilter, defaultCapabilities, defaultSeccompProfile } from '#runtime';
import { syscallNumbers } from '../../src/runtime/syscalls.ts';

/** One of the corpus. */
export interface Profile {
  readonly name: string;
  readonly seccomp: SpecSeccomp;
}

/** Calls that Linux got after 5.17, or that are left out of libseccomp 2.5.4's table. */
const unknownThen = new Set(
  `cachestat fchmodat2 file_getattr file_setattr futex_requeue futex_wait futex_wake getxattrat listmount listns listxattrat lsm_get_self_attr lsm_list_modules lsm_set_self_attr
  map_shadow_stack mseal open_tree_attr removexattrat rseq_slice_yield setxattrat statmount uprobe uretprobe`.split(/\s+/),
);

/** Calls that a runtime's own process never makes between its filter and the payload, and that busybox can do without. */
const spare = `setxattr lsetxattr fsetxattr getxattr lgetxattr fgetxattr listxattr llistxattr flistxattr removexattr lremovexattr fremovexattr mq_open mq_unlink mq_timedsend
  mq_timedreceive mq_notify mq_getsetattr timer_settime timer_gettime timer_getoverrun semget semop semctl shmget shmat shmctl shmdt msgget msgsnd msgrcv msgctl semtimedop
  inotify_init inotify_add_watch inotify_rm_watch signalfd eventfd fallocate splice tee vmsplice sync_file_range syncfs sendmmsg recvmmsg socketpair bind listen accept setsockopt
  getsockopt getpeername getsockname shutdown swapon swapoff reboot acct quotactl personality ustat sysfs vhangup pivot_root adjtimex`.split(/\s+/);

const architectureSets: readonly (readonly SeccompArchitecture[])[] = [
  [],
  ['SCMP_ARCH_X86_64', 'SCMP_ARCH_X86', 'SCMP_ARCH_X32'],
  ['SCMP_ARCH_X86_64'],
  ['SCMP_ARCH_X86'],
  ['SCMP_ARCH_X86_64', 'SCMP_ARCH_X32'],
];

/** Numbers that look like chance and are always the same (xorshift). */
class Dice {
  #state: number;
  constructor(seed: number) {
    this.#state = seed;
  }
  below(bound: number): number {
    this.#state ^= this.#state << 13;
    this.#state ^= this.#state >>> 17;
    this.#state ^= this.#state << 5;
    return (this.#state >>> 0) % bound;
  }
  one<T>(items: readonly T[]): T {
    return items[this.below(items.length)] ?? assert.fail('nothing to choose from');
  }
}

const values = [
  0n,
  1n,
  2n,
  5n,
  9n,
  0x10n,
  0xffn,
  0x7fff_ffffn,
  0x8000_0000n,
  0xffff_ffffn,
  0x1_0000_0000n,
  0x1_0000_0005n,
  0x5_0000_0009n,
  0xffff_ffff_0000_0000n,
  0xffff_ffff_ffff_ffffn,
];

function makeArg(dice: Dice, index: number): SeccompArg {
  const op = dice.one(seccompOperators);
  return { index, op, value: dice.one(values), valueTwo: op === 'SCMP_CMP_MASKED_EQ' ? dice.one(values) : 0n };
}

function makeArgs(dice: Dice): readonly SeccompArg[] {
  const indexes = [0, 1, 2, 3, 4, 5].filter(() => dice.below(3) === 0);
  const args = (indexes.length === 0 ? [dice.below(6)] : indexes).map((index) => makeArg(dice, index));
  // Now and then two comparisons of one argument.
  return dice.below(8) === 0 ? [...args, makeArg(dice, args[0]?.index ?? 0)] : args;
}

const everyOther = [...new Set([...syscallNumbers.x86_64.keys(), ...syscallNumbers.i386.keys(), ...syscallNumbers.arm64.keys()])].filter(
  (name) => !spare.includes(name) && !unknownThen.has(name) && name !== 'socketcall' && name !== 'ipc',
);
const rest: SeccompRule = { names: everyOther, action: 'SCMP_ACT_ALLOW', args: [] };

/** Every operator with every value, for one argument. */
function makeOperators(architectures: readonly SeccompArchitecture[]): SpecSeccomp {
  const pairs = seccompOperators.flatMap((op) => values.map((value) => ({ op, value })));
  const syscalls = pairs.map(({ op, value }, index): SeccompRule => {
    const arg = { index: (index + Math.floor(index / spare.length)) % 6, op, value, valueTwo: op === 'SCMP_CMP_MASKED_EQ' ? value & 0x5555_5555_5555_5555n : 0n };
    return { names: [spare[index % spare.length] ?? ''], action: 'SCMP_ACT_ALLOW', args: [arg] };
  });
  return { defaultAction: 'SCMP_ACT_ERRNO', architectures, flags: [], syscalls: [rest, ...syscalls] };
}

const isBound = ({ op }: SeccompArg): boolean => ['SCMP_CMP_LT', 'SCMP_CMP_LE', 'SCMP_CMP_GT', 'SCMP_CMP_GE'].includes(op);

/** At most one bound for each argument of a call: libseccomp confuses two of them more often than not (see exceptions.ts), which would hide everything else. */
function withoutSecondBounds(rules: readonly SeccompRule[]): readonly SeccompRule[] {
  const bounded = new Set<number>();
  const change = (arg: SeccompArg): SeccompArg => {
    if (!isBound(arg)) return arg;
    if (bounded.has(arg.index)) return { ...arg, op: 'SCMP_CMP_EQ' };
    bounded.add(arg.index);
    return arg;
  };
  return rules.map((rule) => ({ ...rule, args: rule.args.map(change) }));
}

/** The rules that do not contradict those before them. */
function withoutContradictions(rules: readonly SeccompRule[]): readonly SeccompRule[] {
  const kept: SeccompRule[] = [];
  for (const rule of rules) {
    try {
      buildSeccompFilter({ defaultAction: 'SCMP_ACT_KILL', architectures: ['SCMP_ARCH_X86', 'SCMP_ARCH_X32'], flags: [], syscalls: [...kept, rule] }, 'x86_64', 'p');
      kept.push(rule);
    } catch (error) {
      assert(error instanceof RuntimeError && error.code === 'invalidArgument', String(error));
    }
  }
  return kept;
}

/** Several rules for each call. With `actions` of more than one kind they meet, but never contradict each other outright. */
function makeSeveral(
  seed: number,
  actions: readonly Pick<SeccompRule, 'action' | 'errnoRet'>[],
  base: Pick<SpecSeccomp, 'defaultAction' | 'defaultErrnoRet'>,
  prepare = withoutSecondBounds,
): SpecSeccomp {
  const dice = new Dice(seed);
  const syscalls = spare.flatMap((name) =>
    withoutContradictions(
      prepare(Array.from({ length: 1 + dice.below(4) }, (): SeccompRule => ({ names: [name], ...dice.one(actions), args: dice.below(10) === 0 ? [] : makeArgs(dice) }))),
    ),
  );
  const architectures = architectureSets[seed % architectureSets.length] ?? [];
  return { ...base, architectures, flags: [], syscalls: base.defaultAction === 'SCMP_ACT_ALLOW' ? syscalls : [rest, ...syscalls] };
}

const errno = (errnoRet: number) => ({ action: 'SCMP_ACT_ERRNO', errnoRet }) as const;

/** Rules of every kind for each call, all with one action, so that what they mean does not depend on any order. */
export function makeWordy(seed: number): SpecSeccomp {
  const dice = new Dice(seed);
  const syscalls = spare.flatMap((name) => Array.from({ length: 1 + dice.below(2) }, (): SeccompRule => ({ names: [name], action: 'SCMP_ACT_ALLOW', args: makeArgs(dice) })));
  return { defaultAction: 'SCMP_ACT_ERRNO', architectures: ['SCMP_ARCH_X86', 'SCMP_ARCH_X32'], flags: [], syscalls };
}

/** The profiles that are made here. */
export function makeCorpus(): readonly Profile[] {
  const allow = { action: 'SCMP_ACT_ALLOW' } as const;
  const known = (profile: SpecSeccomp): SpecSeccomp => ({
    ...profile,
    syscalls: profile.syscalls.map((rule) => ({ ...rule, names: rule.names.filter((name) => !unknownThen.has(name)) })),
  });
  const defaults = [
    ['default', defaultCapabilities],
    ['default for an administrator', ['CAP_SYS_ADMIN', 'CAP_SYS_PTRACE', 'CAP_SYS_TIME', 'CAP_SYS_MODULE', 'CAP_SYSLOG']],
    ['default without capabilities', []],
  ] as const;
  const mixed = [allow, { action: 'SCMP_ACT_LOG' }, errno(13)] as const;
  const mixedDefault = { defaultAction: 'SCMP_ACT_ERRNO', defaultErrnoRet: 11 } as const;
  const asTheyAre = (rules: readonly SeccompRule[]): readonly SeccompRule[] => rules;
  const single = (defaultAction: SpecSeccomp['defaultAction'], index: number, more: Partial<SpecSeccomp> = {}): SpecSeccomp => ({
    defaultAction,
    architectures: architectureSets[index % architectureSets.length] ?? [],
    flags: [],
    syscalls: [rest, { names: ['semget', 'socketpair', 'no_such_call'], action: 'SCMP_ACT_TRAP', args: [] }],
    ...more,
  });
  return [
    ...defaults.map(([name, capabilities]): Profile => ({ name, seccomp: known(defaultSeccompProfile({ capabilities, architecture: 'x86_64' })) })),
    ...architectureSets.map((architectures, index): Profile => ({ name: `operators ${index}`, seccomp: makeOperators(architectures) })),
    ...[1, 2, 3, 4].map((seed): Profile => ({ name: `several rules ${seed}`, seccomp: makeSeveral(seed, [allow], { defaultAction: 'SCMP_ACT_ERRNO', defaultErrnoRet: 11 }) })),
    ...[5, 6].map((seed): Profile => ({ name: `several refusals ${seed}`, seccomp: makeSeveral(seed, [errno(13)], { defaultAction: 'SCMP_ACT_ALLOW' }) })),
    ...[11, 12, 13].map((seed): Profile => ({ name: `several actions ${seed}`, seccomp: makeSeveral(seed, mixed, mixedDefault) })),
    ...[1, 4].map((seed): Profile => ({ name: `any bounds ${seed}`, seccomp: makeSeveral(seed, [allow], { defaultAction: 'SCMP_ACT_ERRNO' }, asTheyAre) })),
    ...[4, 8].map((seed): Profile => ({ name: `any bounds, several actions ${seed}`, seccomp: makeSeveral(seed, mixed, mixedDefault, asTheyAre) })),
    { name: 'kill', seccomp: single('SCMP_ACT_KILL', 1) },
    { name: 'kill the process', seccomp: single('SCMP_ACT_KILL_PROCESS', 2) },
    { name: 'trap', seccomp: single('SCMP_ACT_TRAP', 1, { syscalls: [rest, { names: ['semget'], ...errno(0), args: [] }] }) },
    { name: 'log', seccomp: single('SCMP_ACT_LOG', 3) },
    { name: 'trace', seccomp: single('SCMP_ACT_TRACE', 4, { defaultErrnoRet: 513 }) },
    { name: 'trace by default number', seccomp: single('SCMP_ACT_TRACE', 0) },
    { name: 'not implemented', seccomp: single('SCMP_ACT_ERRNO', 1, { defaultErrnoRet: 38 }) },
    { name: 'nothing but a default', seccomp: single('SCMP_ACT_ALLOW', 1, { syscalls: [] }) },
    {
      name: 'every action',
      seccomp: single('SCMP_ACT_ALLOW', 1, {
        syscalls: (
          ['SCMP_ACT_KILL', 'SCMP_ACT_KILL_THREAD', 'SCMP_ACT_KILL_PROCESS', 'SCMP_ACT_TRAP', 'SCMP_ACT_ERRNO', 'SCMP_ACT_TRACE', 'SCMP_ACT_LOG', 'SCMP_ACT_ALLOW'] as const
        ).map((action, index) => ({ names: [spare[index] ?? '', spare[index + 40] ?? ''], action, args: [] })),
      }),
    },
  ];
}

/** Rules on one call, with what runc says of them together. */
export interface RulePair {
  readonly name: string;
  readonly refused: boolean;
  readonly seccomp: SpecSeccomp;
}

/** Rules that contradict each other, and some that seem to. */
export function makePairs(): readonly RulePair[] {
  const arg = (index: number, op: SeccompArg['op'], value: bigint): SeccompArg => ({ index, op, value, valueTwo: 0n });
  const rule = (action: SeccompRule['action'], ...args: readonly SeccompArg[]): SeccompRule => ({ names: ['mq_open'], action, args });
  const pair = (name: string, refused: boolean, ...syscalls: readonly SeccompRule[]): RulePair => ({
    name,
    refused,
    seccomp: { defaultAction: 'SCMP_ACT_ERRNO', architectures: [], flags: [], syscalls: [rest, ...syscalls] },
  });
  const [log, allow] = ['SCMP_ACT_LOG', 'SCMP_ACT_ALLOW'] as const;
  const one = arg(1, 'SCMP_CMP_EQ', 1n);
  return [
    pair('equal comparisons', true, rule(log, one), rule(allow, one)),
    pair('a shorter rule', true, rule(log, arg(0, 'SCMP_CMP_EQ', 5n), one), rule(allow, arg(0, 'SCMP_CMP_EQ', 5n))),
    pair('a bound that ends and one that goes on in the same upper half', true, rule(log, arg(0, 'SCMP_CMP_LE', 16n), one), rule(allow, arg(0, 'SCMP_CMP_LE', 255n))),
    pair('the same in another upper half', false, rule(log, arg(0, 'SCMP_CMP_LE', 16n), one), rule(allow, arg(0, 'SCMP_CMP_LE', 0x1_0000_00ffn))),
    pair('bounds that both end', false, rule(log, arg(0, 'SCMP_CMP_GT', 16n)), rule(allow, arg(0, 'SCMP_CMP_GT', 255n))),
    pair('a rule that never counted', false, rule(log, arg(0, 'SCMP_CMP_EQ', 5n), one), rule(log, one), rule(allow, arg(0, 'SCMP_CMP_EQ', 5n))),
  ];
}

/** What is left of a profile file of docker or podman for one set of capabilities, as those write it into config.json. */
export function expandProfileFile(text: string, capabilities: readonly string[]): SpecSeccomp {
  // SAFETY: a file of a package, of which only these fields are used; the decoder of config.json is not made for its conditions.
  const file = JSON.parse(text) as {
    readonly defaultAction: SpecSeccomp['defaultAction'];
    readonly defaultErrnoRet?: number;
    readonly syscalls: readonly {
      readonly names: readonly string[];
      readonly action: SeccompRule['action'];
      readonly errnoRet?: number;
      readonly args?: readonly { readonly index: number; readonly value: number; readonly valueTwo?: number; readonly op: SeccompArg['op'] }[] | null;
      readonly includes?: { readonly arches?: readonly string[]; readonly caps?: readonly string[] };
      readonly excludes?: { readonly arches?: readonly string[]; readonly caps?: readonly string[] };
    }[];
  };
  const has = (names: readonly string[]): boolean => names.some((name) => name === 'amd64' || capabilities.includes(name));
  const rules = file.syscalls.filter(({ includes = {}, excludes = {} }) => {
    const wanted = [includes.arches ?? [], includes.caps ?? []].every((names) => names.length === 0 || has(names));
    return wanted && ![excludes.arches ?? [], excludes.caps ?? []].some(has);
  });
  return {
    defaultAction: file.defaultAction,
    ...(file.defaultErrnoRet === undefined ? {} : { defaultErrnoRet: file.defaultErrnoRet }),
    architectures: architectureSets[1] ?? [],
    flags: [],
    syscalls: rules.map(({ names, action, errnoRet, args }) => ({
      names: names.filter((name) => !unknownThen.has(name)),
      action,
      ...(errnoRet === undefined ? {} : { errnoRet }),
      args: (args ?? []).map(({ index, value, valueTwo, op }) => ({ index, value: BigInt(value), valueTwo: BigInt(valueTwo ?? 0), op })),
    })),
  };
}
