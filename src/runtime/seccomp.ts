/**
 * OCI seccomp profile → classic BPF. In: a decoded profile and the machine's architecture. Out: an array of struct sock_filter. Pure.
 * Sources: seccomp(2), linux/seccomp.h, linux/filter.h, runtime-spec config-linux.md "Seccomp".
 *
 * Shape: architecture token → calling convention → a balanced binary search over ranges of system call numbers → an answer, or
 * comparisons of arguments and then an answer. Of several rules for one call those with arguments are tried first, in the document's
 * order; then the first without. Numbers above the highest one that the profile mentions answer ENOSYS: calls newer than the profile,
 * for which C libraries then use the older way; a plain EPERM would break them.
 */
import { RuntimeError, invalidArgument } from '#core';
import { type SeccompAction, type SeccompArchitecture, type SeccompArg, type SeccompFlag, type SpecSeccomp } from '#oci';
import { type Architecture } from '#system';
import { unsupported } from './refusals.ts';
import { type Abi, syscallNumbers, x32Bit } from './syscalls.ts';

/** Opcodes of linux/filter.h: class, size or operation, source. */
export const bpf = { loadWord: 0x20, and: 0x54, jump: 0x05, jumpEqual: 0x15, jumpGreater: 0x25, jumpGreaterEqual: 0x35, return: 0x06 } as const;

/** One struct sock_filter. */
export interface BpfInstruction {
  readonly code: number;
  readonly onTrue: number;
  readonly onFalse: number;
  readonly value: number;
}

/** The kernel's BPF_MAXINSNS. */
const instructionsMax = 4096;
const [numberOffset, architectureOffset, argumentsOffset] = [0, 4, 16];
const eperm = 1;
const enosys = 38;
const errnoAction = 0x0005_0000;
/** What a call of a convention outside the profile gets: the process ends, since a thread alone would leave the others hanging. */
const killProcess = 0x8000_0000;

const tokens: Readonly<Record<Abi, number>> = { x86_64: 0xc000_003e, x32: 0xc000_003e, i386: 0x4000_0003, arm64: 0xc000_00b7 };
const abiOf: Readonly<Partial<Record<SeccompArchitecture, Abi>>> = { SCMP_ARCH_X86_64: 'x86_64', SCMP_ARCH_X32: 'x32', SCMP_ARCH_X86: 'i386', SCMP_ARCH_AARCH64: 'arm64' };
const runnable: Readonly<Record<Architecture, readonly Abi[]>> = { x86_64: ['x86_64', 'x32', 'i386'], arm64: ['arm64'] };
const flagBits: Readonly<Record<SeccompFlag, number>> = {
  SECCOMP_FILTER_FLAG_TSYNC: 1,
  SECCOMP_FILTER_FLAG_LOG: 2,
  SECCOMP_FILTER_FLAG_SPEC_ALLOW: 4,
  SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV: 32,
};

/** The filter's return value for an action. */
function answerOf(action: SeccompAction, errnoRet: number | undefined, path: string): number {
  switch (action) {
    case 'SCMP_ACT_KILL':
    case 'SCMP_ACT_KILL_THREAD':
      return 0;
    case 'SCMP_ACT_KILL_PROCESS':
      return killProcess;
    case 'SCMP_ACT_TRAP':
      return 0x0003_0000;
    case 'SCMP_ACT_ERRNO':
      return errnoAction | (errnoRet ?? eperm);
    case 'SCMP_ACT_TRACE':
      return 0x7ff0_0000 | (errnoRet ?? eperm);
    case 'SCMP_ACT_LOG':
      return 0x7ffc_0000;
    case 'SCMP_ACT_ALLOW':
      return 0x7fff_0000;
    case 'SCMP_ACT_NOTIFY':
      throw unsupported(path, 'SCMP_ACT_NOTIFY needs a listener');
  }
}

/** What one system call gets: alternatives with arguments, then the answer of everything else. */
interface Decision {
  readonly alternatives: readonly { readonly args: readonly SeccompArg[]; readonly answer: number }[];
  readonly otherwise: number;
}

const instruction = (code: number, value: number, onTrue = 0, onFalse = 0): BpfInstruction => ({ code, onTrue, onFalse, value: value >>> 0 });
const give = (answer: number): BpfInstruction => instruction(bpf.return, answer);

/** Jump targets of one comparison; resolved once the sizes are known. */
type Target = 'next' | 'pass' | 'fail';
interface Test {
  readonly code: number;
  readonly value: number;
  readonly onTrue?: Target;
  readonly onFalse?: Target;
}

/** A comparison of 64 bits as comparisons of the halves; falls through to its end where it holds. */
function testsOf({ index, value, valueTwo, op }: SeccompArg): readonly Test[] {
  const [low, high] = [argumentsOffset + 8 * index, argumentsOffset + 8 * index + 4].map((offset): Test => ({ code: bpf.loadWord, value: offset }));
  const halves = (number: bigint): readonly [number, number] => [Number(number & 0xffff_ffffn), Number(number >> 32n)];
  const [lowValue, highValue] = halves(value);
  if (low === undefined || high === undefined) throw new RuntimeError('internal', 'bug: two offsets');
  const ordered = (lowCode: number, greater: Target, smaller: Target): readonly Test[] => [
    high,
    { code: bpf.jumpGreater, value: highValue, onTrue: greater, onFalse: 'next' },
    { code: bpf.jumpEqual, value: highValue, onTrue: 'next', onFalse: smaller },
    low,
    { code: lowCode, value: lowValue, onTrue: greater, onFalse: smaller },
  ];
  switch (op) {
    case 'SCMP_CMP_EQ':
      return [high, { code: bpf.jumpEqual, value: highValue, onTrue: 'next', onFalse: 'fail' }, low, { code: bpf.jumpEqual, value: lowValue, onTrue: 'pass', onFalse: 'fail' }];
    case 'SCMP_CMP_NE':
      return [high, { code: bpf.jumpEqual, value: highValue, onTrue: 'next', onFalse: 'pass' }, low, { code: bpf.jumpEqual, value: lowValue, onTrue: 'fail', onFalse: 'pass' }];
    case 'SCMP_CMP_GT':
      return ordered(bpf.jumpGreater, 'pass', 'fail');
    case 'SCMP_CMP_GE':
      return ordered(bpf.jumpGreaterEqual, 'pass', 'fail');
    case 'SCMP_CMP_LE':
      return ordered(bpf.jumpGreater, 'fail', 'pass');
    case 'SCMP_CMP_LT':
      return ordered(bpf.jumpGreaterEqual, 'fail', 'pass');
    case 'SCMP_CMP_MASKED_EQ': {
      const [lowDatum, highDatum] = halves(valueTwo);
      return [
        high,
        { code: bpf.and, value: highValue },
        { code: bpf.jumpEqual, value: highDatum, onTrue: 'next', onFalse: 'fail' },
        low,
        { code: bpf.and, value: lowValue },
        { code: bpf.jumpEqual, value: lowDatum, onTrue: 'pass', onFalse: 'fail' },
      ];
    }
  }
}

function alternativeCode({ args, answer }: Decision['alternatives'][number]): readonly BpfInstruction[] {
  const blocks = args.map(testsOf);
  const total = blocks.reduce((sum, block) => sum + block.length, 0);
  let start = 0;
  const code = blocks.flatMap((block) => {
    const end = start + block.length;
    const resolved = block.map((test, index) => {
      const at = start + index;
      const offset = (target: Target | undefined): number => (target === 'pass' ? end - at - 1 : target === 'fail' ? total - at : 0);
      return instruction(test.code, test.value, offset(test.onTrue), offset(test.onFalse));
    });
    start = end;
    return resolved;
  });
  // A failed test jumps past the answer, which stands right after the last test.
  return [...code, give(answer)];
}

const decisionCode = ({ alternatives, otherwise }: Decision): readonly BpfInstruction[] => [...alternatives.flatMap(alternativeCode), give(otherwise)];

/** A range of numbers with one decision, up to the start of the next. */
interface Range {
  readonly start: number;
  readonly decision: Decision;
}

function searchCode(ranges: readonly Range[]): readonly BpfInstruction[] {
  const [first] = ranges;
  if (first === undefined) throw new RuntimeError('internal', 'bug: no range');
  if (ranges.length === 1) return decisionCode(first.decision);
  const middle = Math.ceil(ranges.length / 2);
  const left = searchCode(ranges.slice(0, middle));
  const right = searchCode(ranges.slice(middle));
  const start = ranges[middle]?.start ?? 0;
  // Conditional jumps reach 255 instructions; a plain one reaches the rest.
  if (left.length <= 255) return [instruction(bpf.jumpGreaterEqual, start, left.length, 0), ...left, ...right];
  return [instruction(bpf.jumpGreaterEqual, start, 0, 1), instruction(bpf.jump, left.length), ...left, ...right];
}

/** One document rule may name an argument twice; such comparisons are alternatives, as libseccomp's users expect. */
function alternativesOf(args: readonly SeccompArg[]): readonly (readonly SeccompArg[])[] {
  const repeated = new Set(args.map(({ index }) => index)).size !== args.length;
  return repeated ? args.map((arg) => [arg]) : [args];
}

function decisionsOf(profile: SpecSeccomp, abi: Abi, fallback: number, path: string): ReadonlyMap<number, Decision> {
  const found = new Map<number, { alternatives: Decision['alternatives'][number][]; otherwise: number | undefined }>();
  for (const [index, { names, action, errnoRet, args }] of profile.syscalls.entries()) {
    const answer = answerOf(action, errnoRet, `${path}.syscalls[${index}].action`);
    for (const name of names) {
      // A name that this convention does not have is passed over: profiles are written for all of them.
      const number = syscallNumbers[abi].get(name);
      if (number === undefined) continue;
      const entry = found.get(number) ?? { alternatives: [], otherwise: undefined };
      if (args.length === 0) entry.otherwise ??= answer;
      else entry.alternatives.push(...alternativesOf(args).map((each) => ({ args: each, answer })));
      found.set(number, entry);
    }
  }
  return new Map([...found].map(([number, { alternatives, otherwise }]) => [number, { alternatives, otherwise: otherwise ?? fallback }]));
}

const same = (a: Decision, b: Decision): boolean => a.alternatives.length === 0 && b.alternatives.length === 0 && a.otherwise === b.otherwise;

function rangesOf(decisions: ReadonlyMap<number, Decision>, base: number, fallback: number, beyond: number): readonly Range[] {
  const numbers = [...decisions.keys()].toSorted((a, b) => a - b);
  const ranges: Range[] = [];
  const add = (range: Range): void => {
    const last = ranges.at(-1);
    if (last === undefined || !same(last.decision, range.decision)) ranges.push(range);
  };
  let next = base;
  for (const number of numbers) {
    if (number > next) add({ start: next, decision: { alternatives: [], otherwise: fallback } });
    add({ start: number, decision: decisions.get(number) ?? { alternatives: [], otherwise: fallback } });
    next = number + 1;
  }
  add({ start: next, decision: { alternatives: [], otherwise: beyond } });
  return ranges;
}

function abiCode(profile: SpecSeccomp, abi: Abi, path: string): readonly BpfInstruction[] {
  const fallback = answerOf(profile.defaultAction, profile.defaultErrnoRet, `${path}.defaultAction`);
  const decisions = decisionsOf(profile, abi, fallback, path);
  const refusing = ['SCMP_ACT_ERRNO', 'SCMP_ACT_KILL', 'SCMP_ACT_KILL_THREAD', 'SCMP_ACT_KILL_PROCESS', 'SCMP_ACT_TRAP'].includes(profile.defaultAction);
  // A profile that mentions nothing has no age to compare with.
  const beyond = refusing && decisions.size > 0 ? errnoAction | enosys : fallback;
  return searchCode(rangesOf(decisions, abi === 'x32' ? x32Bit : 0, fallback, beyond));
}

/** A block that runs where the architecture token matches: convention by number, then the search. */
function tokenBlock(profile: SpecSeccomp, abis: readonly Abi[], native: Abi, path: string): readonly BpfInstruction[] {
  const body = abiCode(profile, native, path);
  const load = instruction(bpf.loadWord, numberOffset);
  if (native !== 'x86_64') return [load, ...body];
  const x32 = abis.includes('x32') ? abiCode(profile, 'x32', path) : [give(killProcess)];
  return [load, instruction(bpf.jumpGreaterEqual, x32Bit, 0, 1), instruction(bpf.jump, body.length), ...body, ...x32];
}

/** The instructions of a profile; see `compileSeccomp`. */
export function buildSeccompFilter(profile: SpecSeccomp, architecture: Architecture, path: string): readonly BpfInstruction[] {
  // The native convention is always filtered, listed or not; foreign processors' are passed over.
  const listed = [architecture, ...profile.architectures.flatMap((name) => abiOf[name] ?? [])];
  const abis = runnable[architecture].filter((abi) => listed.includes(abi));
  const blocks = abis.filter((abi) => abi !== 'x32').map((abi) => ({ token: tokens[abi], code: tokenBlock(profile, abis, abi, path) }));
  const code = [
    instruction(bpf.loadWord, architectureOffset),
    ...blocks.flatMap((block) => [instruction(bpf.jumpEqual, block.token, 1, 0), instruction(bpf.jump, block.code.length), ...block.code]),
    give(killProcess),
  ];
  if (code.length > instructionsMax) throw new RuntimeError('resourceExhausted', `${path}: ${code.length} instructions, at most ${instructionsMax}`);
  return code;
}

type SeccompStep = { readonly flags: number; readonly program: Uint8Array };

/** What was compiled already, by profile: the default one serves many containers, and every process that enters them. */
const compiled = new WeakMap<SpecSeccomp, { readonly architecture: Architecture; readonly step: SeccompStep }>();

/**
 * The profile as the fields of a `setSeccomp` step. `path` names the profile in its document. Throws unimplemented for SCMP_ACT_NOTIFY,
 * invalidArgument and resourceExhausted for what no filter can hold.
 */
export function compileSeccomp(profile: SpecSeccomp, architecture: Architecture, path: string): SeccompStep {
  const known = compiled.get(profile);
  if (known?.architecture === architecture) return known.step;
  if (profile.flags.includes('SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV')) throw invalidArgument(`${path}.flags`, 'SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV needs a listener');
  const code = buildSeccompFilter(profile, architecture, path);
  const program = Buffer.alloc(code.length * 8);
  for (const [index, { code: opcode, onTrue, onFalse, value }] of code.entries()) {
    program.writeUInt16LE(opcode, index * 8);
    program.writeUInt8(onTrue, index * 8 + 2);
    program.writeUInt8(onFalse, index * 8 + 3);
    program.writeUInt32LE(value, index * 8 + 4);
  }
  const step = { flags: profile.flags.reduce((bits, flag) => bits | flagBits[flag], 0), program };
  compiled.set(profile, { architecture, step });
  return step;
}
