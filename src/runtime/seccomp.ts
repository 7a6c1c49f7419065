/**
 * OCI seccomp profile → classic BPF. In: a decoded profile and the machine's architecture. Out: an array of struct sock_filter. Pure.
 * Sources: seccomp(2), linux/seccomp.h, linux/filter.h, runtime-spec config-linux.md "Seccomp". What a profile means is in seccomp-rules.ts.
 *
 * Shape: architecture token → a balanced binary search over ranges of system call numbers → an answer, or comparisons of arguments and then an
 * answer, kept once where several calls have the same. x86-64 and x32 share a token and so one search: x32's numbers have a bit that makes them higher. Numbers above the highest one that
 * the profile mentions answer ENOSYS: calls newer than the profile, for which C libraries then use the older way; a plain EPERM would break them.
 */
import { RuntimeError, invalidArgument } from '#core';
import { type SeccompArchitecture, type SeccompFlag, type SpecSeccomp } from '#oci';
import { type Architecture } from '#system';
import { type Alternative, type Comparison, type Decision, answerEnosys, answerKill, decideSyscalls } from './seccomp-rules.ts';
import { type Abi, x32Bit } from './syscalls.ts';

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

/** Conventions that share a token of linux/audit.h, in the order of their numbers. */
const groups: readonly { readonly token: number; readonly abis: readonly Abi[]; readonly architecture: Architecture }[] = [
  { token: 0xc000_003e, abis: ['x86_64', 'x32'], architecture: 'x86_64' },
  { token: 0x4000_0003, abis: ['i386'], architecture: 'x86_64' },
  { token: 0xc000_00b7, abis: ['arm64'], architecture: 'arm64' },
  { token: 0x4000_0028, abis: ['arm'], architecture: 'arm64' },
];
const abiOf: Readonly<Partial<Record<SeccompArchitecture, Abi>>> = {
  SCMP_ARCH_X86_64: 'x86_64',
  SCMP_ARCH_X32: 'x32',
  SCMP_ARCH_X86: 'i386',
  SCMP_ARCH_AARCH64: 'arm64',
  SCMP_ARCH_ARM: 'arm',
};
/** Bits of seccomp(2). All threads of a process get its filter anyway: it has one when it is given the filter. */
const flagBits: Readonly<Record<SeccompFlag, number>> = {
  SECCOMP_FILTER_FLAG_TSYNC: 0,
  SECCOMP_FILTER_FLAG_LOG: 2,
  SECCOMP_FILTER_FLAG_SPEC_ALLOW: 4,
  SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV: 32,
};
const newListenerBit = 8;

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

/** `(word & mask) == value`; a mask without a bit holds always. */
function maskedTests(word: Test, { mask, value, onFalse }: { readonly mask: number; readonly value: number; readonly onFalse: Target }): readonly Test[] {
  if (mask === 0) return [];
  return [word, ...(mask === 0xffff_ffff ? [] : [{ code: bpf.and, value: mask }]), { code: bpf.jumpEqual, value, onTrue: 'next', onFalse }];
}

const halves = (number: bigint): readonly [low: number, high: number] => [Number(number & 0xffff_ffffn), Number(number >> 32n)];

/** A comparison of 64 bits as comparisons of the halves, or of the lower one alone; falls through to its end where it holds. */
function testsOf({ index, op, mask, value }: Comparison, wide: boolean): readonly Test[] {
  const low: Test = { code: bpf.loadWord, value: argumentsOffset + 8 * index };
  const high: Test = { code: bpf.loadWord, value: argumentsOffset + 8 * index + 4 };
  const [lowMask, highMask] = halves(mask);
  const [lowValue, highValue] = halves(value);
  const ordered = (lowCode: number, greater: Target, smaller: Target): readonly Test[] => [
    ...(wide
      ? [
          high,
          { code: bpf.jumpGreater, value: highValue, onTrue: greater, onFalse: 'next' } as const,
          { code: bpf.jumpEqual, value: highValue, onTrue: 'next', onFalse: smaller } as const,
        ]
      : []),
    low,
    { code: lowCode, value: lowValue, onTrue: greater, onFalse: smaller },
  ];
  switch (op) {
    case 'SCMP_CMP_EQ':
    case 'SCMP_CMP_MASKED_EQ':
      return [...(wide ? maskedTests(high, { mask: highMask, value: highValue, onFalse: 'fail' }) : []), ...maskedTests(low, { mask: lowMask, value: lowValue, onFalse: 'fail' })];
    case 'SCMP_CMP_NE':
      return [
        ...(wide ? maskedTests(high, { mask: highMask, value: highValue, onFalse: 'pass' }) : []),
        low,
        { code: bpf.jumpEqual, value: lowValue, onTrue: 'fail', onFalse: 'pass' },
      ];
    case 'SCMP_CMP_GT':
      return ordered(bpf.jumpGreater, 'pass', 'fail');
    case 'SCMP_CMP_GE':
      return ordered(bpf.jumpGreaterEqual, 'pass', 'fail');
    case 'SCMP_CMP_LE':
      return ordered(bpf.jumpGreater, 'fail', 'pass');
    case 'SCMP_CMP_LT':
      return ordered(bpf.jumpGreaterEqual, 'fail', 'pass');
  }
}

function alternativeCode({ comparisons, answer }: Alternative, wide: boolean): readonly BpfInstruction[] {
  const blocks = comparisons.map((comparison) => testsOf(comparison, wide));
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

const decisionCode = ({ alternatives, otherwise, wide }: Decision): readonly BpfInstruction[] => [
  ...alternatives.flatMap((alternative) => alternativeCode(alternative, wide)),
  give(otherwise),
];

/** A range of numbers with one decision, up to the start of the next. */
interface Range {
  readonly start: number;
  readonly decision: Decision;
}

/** Comparisons that several calls share, kept once behind everything else; x32 and i386 often have all of them in common. */
interface Shared {
  readonly code: readonly BpfInstruction[];
  uses: number;
  /** Where it stands, counted from the first shared one. */
  start: number;
}

/** An instruction whose target is known last: a jump to shared comparisons. */
interface Draft extends BpfInstruction {
  readonly shared?: Shared;
}

/** The comparisons of a program's decisions, and how often each is used. */
class SharedCode {
  readonly #byText = new Map<string, Shared>();
  #size = 0;

  /** To be called once for every range of the program before the first `draft`. */
  count(decision: Decision): void {
    const code = decisionCode(decision);
    const key = textOf(code);
    const known = this.#byText.get(key);
    if (known === undefined) this.#byText.set(key, { code, uses: 1, start: -1 });
    else known.uses += 1;
  }

  /** The decision's own code, or a jump to where it is shared. */
  draft(decision: Decision): readonly Draft[] {
    const shared = this.#byText.get(textOf(decisionCode(decision)));
    if (shared === undefined) throw new RuntimeError('internal', 'bug: a decision that was not counted');
    // Two uses of two instructions would become four.
    if (shared.uses === 1 || shared.code.length <= 2) return shared.code;
    if (shared.start < 0) {
      shared.start = this.#size;
      this.#size += shared.code.length;
    }
    return [{ ...instruction(bpf.jump, 0), shared }];
  }

  /** The program with what is shared at its end. */
  finish(drafts: readonly Draft[]): readonly BpfInstruction[] {
    const tail = [...this.#byText.values()].filter(({ start }) => start >= 0).toSorted((a, b) => a.start - b.start);
    const resolved = drafts.map(({ shared, ...plain }, at): BpfInstruction => (shared === undefined ? plain : { ...plain, value: drafts.length + shared.start - at - 1 }));
    return [...resolved, ...tail.flatMap(({ code }) => code)];
  }
}

const textOf = (code: readonly BpfInstruction[]): string => code.map((each) => [each.code, each.onTrue, each.onFalse, each.value].join(' ')).join('\n');

function searchCode(ranges: readonly Range[], shared: SharedCode): readonly Draft[] {
  const [first] = ranges;
  if (first === undefined) throw new RuntimeError('internal', 'bug: no range');
  if (ranges.length === 1) return shared.draft(first.decision);
  const middle = Math.ceil(ranges.length / 2);
  const left = searchCode(ranges.slice(0, middle), shared);
  const right = searchCode(ranges.slice(middle), shared);
  const start = ranges[middle]?.start ?? 0;
  // Conditional jumps reach 255 instructions; a plain one reaches the rest.
  if (left.length <= 255) return [instruction(bpf.jumpGreaterEqual, start, left.length, 0), ...left, ...right];
  return [instruction(bpf.jumpGreaterEqual, start, 0, 1), instruction(bpf.jump, left.length), ...left, ...right];
}

const always = (answer: number): Decision => ({ alternatives: [], otherwise: answer, wide: false });
const same = (a: Decision, b: Decision): boolean => a.alternatives.length === 0 && b.alternatives.length === 0 && a.otherwise === b.otherwise;

/** All numbers of a token, in order. The processor has bits 30 and 31 of x86-64's numbers for x32 and for nothing. */
function rangesOf(profile: SpecSeccomp, abis: readonly Abi[], path: string): readonly Range[] {
  const ranges: Range[] = [];
  const add = (range: Range): void => {
    const last = ranges.at(-1);
    if (last === undefined || !same(last.decision, range.decision)) ranges.push(range);
  };
  const beyond = abis.map((abi) => {
    const { byNumber, fallback, newest } = decideSyscalls(profile, abi, path);
    let next = abi === 'x32' ? x32Bit : 0;
    for (const [number, decision] of [...byNumber].toSorted(([a], [b]) => a - b)) {
      if (number > next) add({ start: next, decision: always(fallback) });
      add({ start: number, decision });
      next = number + 1;
    }
    if (newest !== undefined && newest >= next) {
      add({ start: next, decision: always(fallback) });
      next = newest + 1;
    }
    const answer = newest === undefined ? fallback : answerEnosys;
    add({ start: next, decision: always(answer) });
    return { answer, fallback };
  });
  const [own, x32] = beyond;
  if (own === undefined || abis[0] !== 'x86_64') return ranges;
  const withBit = x32?.answer ?? answerKill;
  if (x32 === undefined) add({ start: x32Bit, decision: always(withBit) });
  add({ start: 2 * x32Bit, decision: always(own.answer === answerEnosys || x32 !== undefined ? own.answer : withBit) });
  add({ start: 3 * x32Bit, decision: always(withBit) });
  // A tracer's way to say that a call shall be skipped; the filter sees it once more.
  if (x32 === undefined) add({ start: 0xffff_ffff, decision: always(own.fallback) });
  return ranges;
}

/** The instructions of a profile; see `compileSeccomp`. */
export function buildSeccompFilter(profile: SpecSeccomp, architecture: Architecture, path: string): readonly BpfInstruction[] {
  // The native convention is always filtered, listed or not; foreign processors' are passed over.
  const listed: readonly Abi[] = [architecture, ...profile.architectures.flatMap((name) => abiOf[name] ?? [])];
  const searches = groups
    .filter((group) => group.architecture === architecture)
    .map(({ token, abis }) => ({ token, abis: abis.filter((abi) => listed.includes(abi)) }))
    .filter(({ abis }) => abis.length > 0)
    .map(({ token, abis }) => ({ token, ranges: rangesOf(profile, abis, path) }));
  const shared = new SharedCode();
  for (const { ranges } of searches) for (const { decision } of ranges) shared.count(decision);
  const blocks = searches.map(({ token, ranges }) => ({ token, code: [instruction(bpf.loadWord, numberOffset), ...searchCode(ranges, shared)] }));
  const code = shared.finish([
    instruction(bpf.loadWord, architectureOffset),
    ...blocks.flatMap((block) => [instruction(bpf.jumpEqual, block.token, 1, 0), instruction(bpf.jump, block.code.length), ...block.code]),
    give(answerKill),
  ]);
  if (code.length > instructionsMax) throw new RuntimeError('resourceExhausted', `${path}: ${code.length} instructions, at most ${instructionsMax}`);
  return code;
}

/** Whether a profile asks somebody outside of the container about some calls. */
export function hasListener({ syscalls }: Pick<SpecSeccomp, 'syscalls'>): boolean {
  return syscalls.some(({ action }) => action === 'SCMP_ACT_NOTIFY');
}

function checkProfile(profile: SpecSeccomp, path: string): void {
  if (profile.defaultAction === 'SCMP_ACT_NOTIFY') throw invalidArgument(`${path}.defaultAction`, 'SCMP_ACT_NOTIFY cannot be used as default action');
  for (const [index, { action, names }] of profile.syscalls.entries()) {
    // The process itself writes where its listener is, before anybody could answer.
    if (action === 'SCMP_ACT_NOTIFY' && names.includes('write')) throw invalidArgument(`${path}.syscalls[${index}]`, 'SCMP_ACT_NOTIFY cannot be used for the write syscall');
  }
  if (hasListener(profile)) {
    if ((profile.listenerPath ?? '') === '') throw invalidArgument(`${path}.listenerPath`, 'required with SCMP_ACT_NOTIFY');
  } else if (profile.flags.includes('SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV')) {
    throw invalidArgument(`${path}.flags`, 'SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV needs a rule with SCMP_ACT_NOTIFY');
  }
}

type SeccompStep = { readonly flags: number; readonly program: Uint8Array };

/** What was compiled already, by profile: the default one serves many containers, and every process that enters them. */
const compiled = new WeakMap<SpecSeccomp, { readonly architecture: Architecture; readonly step: SeccompStep }>();

/**
 * The profile as the fields of a `setSeccomp` step, or, where `hasListener`, of a `setSeccompListener` step. `path` names the profile in its document. Throws
 * invalidArgument and resourceExhausted for what no filter can hold.
 */
export function compileSeccomp(profile: SpecSeccomp, architecture: Architecture, path: string): SeccompStep {
  const known = compiled.get(profile);
  if (known?.architecture === architecture) return known.step;
  checkProfile(profile, path);
  const code = buildSeccompFilter(profile, architecture, path);
  const program = Buffer.alloc(code.length * 8);
  for (const [index, { code: opcode, onTrue, onFalse, value }] of code.entries()) {
    program.writeUInt16LE(opcode, index * 8);
    program.writeUInt8(onTrue, index * 8 + 2);
    program.writeUInt8(onFalse, index * 8 + 3);
    program.writeUInt32LE(value, index * 8 + 4);
  }
  const step = { flags: profile.flags.reduce((bits, flag) => bits | flagBits[flag], hasListener(profile) ? newListenerBit : 0), program };
  compiled.set(profile, { architecture, step });
  return step;
}
