/**
 * Device rules as an eBPF program for BPF_PROG_TYPE_CGROUP_DEVICE. In: ordered rules, the last match decides, none denies.
 * Out: an array of struct bpf_insn, little-endian. Pure. Source: linux/bpf.h, struct bpf_cgroup_dev_ctx.
 */
import { type SpecDeviceRule } from '#oci';
import { ByteWriter } from '#plan';

/** Opcodes of linux/bpf.h, spelled by class, size or operation, and source. */
const op = { loadWord: 0x61, and32: 0x54, rightShift32: 0x74, move32: 0xbc, move64: 0xb7, jumpEqual32: 0x16, jumpNotEqual32: 0x56, exit: 0x95 } as const;
const deviceTypes = { b: 1, c: 2 } as const;
const accessBits: Readonly<Record<string, number>> = { m: 1, r: 2, w: 4 };

interface Instruction {
  readonly code: number;
  readonly to?: number;
  readonly from?: number;
  readonly offset?: number;
  readonly value?: number;
}

/** Registers: r1 context, r2 device type, r3 access, r4 major, r5 minor, r6 scratch, r0 result (1 allow, 0 deny). */
const prologue: readonly Instruction[] = [
  { code: op.loadWord, to: 2, from: 1, offset: 0 },
  { code: op.and32, to: 2, value: 0xffff },
  { code: op.loadWord, to: 3, from: 1, offset: 0 },
  { code: op.rightShift32, to: 3, value: 16 },
  { code: op.loadWord, to: 4, from: 1, offset: 4 },
  { code: op.loadWord, to: 5, from: 1, offset: 8 },
];

const answer = (allow: boolean): readonly Instruction[] => [{ code: op.move64, to: 0, value: allow ? 1 : 0 }, { code: op.exit }];

/** Jumps past the end of the body where a test before it fails. */
function guard(tests: readonly Instruction[], body: readonly Instruction[]): readonly Instruction[] {
  return [...tests.map((test, index) => ({ ...test, offset: tests.length - index - 1 + body.length })), ...body];
}

/** What a rule says of the kinds of access that no later rule has decided: r3 holds them. */
function ruleInstructions({ allow, type, major, minor, access = 'rwm' }: SpecDeviceRule): readonly Instruction[] {
  const bits = [...access].reduce((sum, letter) => sum | (accessBits[letter] ?? 0), 0);
  if (type === 'a') return answer(allow);
  const tests: Instruction[] = [{ code: op.jumpNotEqual32, to: 2, value: deviceTypes[type] }];
  if (major !== undefined) tests.push({ code: op.jumpNotEqual32, to: 4, value: major });
  if (minor !== undefined) tests.push({ code: op.jumpNotEqual32, to: 5, value: minor });
  if (bits === 7) return guard(tests, answer(allow));
  // An allowing rule decides its own kinds, and everything once none is left; a denying one bites where one of its own is asked.
  const body: readonly Instruction[] = allow
    ? [{ code: op.and32, to: 3, value: ~bits & 7 }, { code: op.jumpNotEqual32, to: 3, value: 0, offset: 2 }, ...answer(true)]
    : [{ code: op.move32, to: 6, from: 3 }, { code: op.and32, to: 6, value: bits }, { code: op.jumpEqual32, to: 6, value: 0, offset: 2 }, ...answer(false)];
  return guard(tests, body);
}

/** The program as bytes. Rules are tried from the last to the first, so that a later rule overrides an earlier one, for each kind of access by itself. */
export function buildDeviceFilter(rules: readonly SpecDeviceRule[]): Uint8Array {
  const whole = rules.findLastIndex(({ type }) => type === 'a');
  const live = rules.slice(Math.max(whole, 0)).toReversed();
  const instructions = [...prologue, ...live.flatMap(ruleInstructions), ...(whole === -1 ? answer(false) : [])];
  const out = new ByteWriter();
  for (const { code, to = 0, from = 0, offset = 0, value = 0 } of instructions)
    out
      .u8(code)
      .u8(to | (from << 4))
      .u16(offset & 0xffff)
      .i32(value | 0);
  return out.take();
}
