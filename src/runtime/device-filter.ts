/**
 * Device rules as an eBPF program for BPF_PROG_TYPE_CGROUP_DEVICE. In: ordered rules, the last match decides, none denies.
 * Out: an array of struct bpf_insn, little-endian. Pure. Source: linux/bpf.h, struct bpf_cgroup_dev_ctx.
 */
import { type SpecDeviceRule } from '#oci';
import { ByteWriter } from '#plan';

/** Opcodes of linux/bpf.h, spelled by class, size or operation, and source. */
const op = { loadWord: 0x61, and32: 0x54, rightShift32: 0x74, move32: 0xbc, move64: 0xb7, jumpNotEqual32: 0x56, exit: 0x95 } as const;
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

/** Tests of one rule, each jumping past the rule's answer where it fails. */
function ruleInstructions({ allow, type, major, minor, access = 'rwm' }: SpecDeviceRule): readonly Instruction[] {
  const bits = [...access].reduce((sum, letter) => sum | (accessBits[letter] ?? 0), 0);
  const tests: Instruction[][] = [];
  if (type !== 'a') {
    tests.push([{ code: op.jumpNotEqual32, to: 2, value: deviceTypes[type] }]);
    // An allowing rule must cover every kind of access that is asked; a denying one bites on any of its own.
    if (bits !== 7 && allow)
      tests.push([
        { code: op.move32, to: 6, from: 3 },
        { code: op.and32, to: 6, value: ~bits & 7 },
        { code: op.jumpNotEqual32, to: 6, value: 0 },
      ]);
    if (major !== undefined) tests.push([{ code: op.jumpNotEqual32, to: 4, value: major }]);
    if (minor !== undefined) tests.push([{ code: op.jumpNotEqual32, to: 5, value: minor }]);
  }
  const body = [...tests.flat(), ...answer(allow)];
  return body.map((instruction, index) => (instruction.code === op.jumpNotEqual32 ? { ...instruction, offset: body.length - index - 1 } : instruction));
}

/** A partial denial bites on any access that has one of its bits: one test per letter. */
function denyPartly(rule: SpecDeviceRule): readonly Instruction[] {
  return [...(rule.access ?? 'rwm')].flatMap((letter) => {
    const bit = accessBits[letter] ?? 0;
    const { access: _access, ...whole } = rule;
    const inner = ruleInstructions({ ...whole, allow: false });
    return [{ code: op.move32, to: 6, from: 3 }, { code: op.and32, to: 6, value: bit }, { code: op.jumpNotEqual32, to: 6, value: bit, offset: inner.length }, ...inner];
  });
}

/** The program as bytes. Rules are tried from the last to the first, so that a later rule overrides an earlier one. */
export function buildDeviceFilter(rules: readonly SpecDeviceRule[]): Uint8Array {
  const whole = rules.findLastIndex(({ type }) => type === 'a');
  const live = rules.slice(Math.max(whole, 0)).toReversed();
  const instructions = [
    ...prologue,
    ...live.flatMap((rule) => (!rule.allow && rule.type !== 'a' && (rule.access ?? 'rwm').length < 3 ? denyPartly(rule) : ruleInstructions(rule))),
    ...(whole === -1 ? answer(false) : []),
  ];
  const out = new ByteWriter();
  for (const { code, to = 0, from = 0, offset = 0, value = 0 } of instructions)
    out
      .u8(code)
      .u8(to | (from << 4))
      .u16(offset & 0xffff)
      .i32(value | 0);
  return out.take();
}
