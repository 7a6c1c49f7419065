/**
 * Plans as bytes, and back. The layout is documented in docs/native.md; the interpreter reads it in native/plan.c.
 * Pure: the same plan gives the same bytes.
 */
import { RuntimeError, limits } from '#core';
import { ByteReader, ByteWriter } from './bytes.ts';
import { type Actor, type FieldType, type FieldValues, type Plan, type Section, type Step, type StepKind, actors, noSlot, vocabulary } from './vocabulary.ts';

/** `BPLN` read as a little-endian number. */
export const planMagic = 0x4e4c5042;
export const planVersion = 1;

const kindsByOp: ReadonlyMap<number, StepKind> = new Map(
  // SAFETY: the keys of the vocabulary are the step kinds.
  Object.entries(vocabulary).map(([kind, { op }]) => [op, kind as StepKind]),
);

const writers: { readonly [T in FieldType]: (out: ByteWriter, value: FieldValues[T]) => unknown } = {
  u32: (out, value) => out.u32(value),
  i32: (out, value) => out.i32(value),
  u64: (out, value) => out.u64(value),
  slot: (out, value) => out.u16(value),
  text: (out, value) => out.text(value),
  bytes: (out, value) => out.bytes(value),
  texts: (out, value) => out.texts(value),
  u32s: (out, value) => out.u32s(value),
};

function writeField(out: ByteWriter, type: FieldType, value: unknown): void {
  // SAFETY: the Step type ties each field's value to its type in the vocabulary.
  (writers[type] as (out: ByteWriter, value: unknown) => unknown)(out, value);
}

function readField(input: ByteReader, type: FieldType): FieldValues[FieldType] {
  return type === 'slot' ? input.u16() : input[type]();
}

function writeStep(out: ByteWriter, step: Step): void {
  const { op, fields } = vocabulary[step.kind];
  const ignore = step.ignore ?? [];
  out
    .u16(op)
    .u16(step.skipOnIgnored ?? 0)
    .u8(ignore.length)
    .u8(0)
    .u16(0);
  const lengthAt = out.length;
  out.u32(0);
  for (const errno of ignore) out.i32(errno);
  const start = out.length;
  // SAFETY: the names of a kind's fields are keys of its step.
  for (const [name, type] of Object.entries(fields)) writeField(out, type, step[name as keyof Step]);
  out.setU32(lengthAt, out.length - start);
}

function writeSection(out: ByteWriter, section: Section): void {
  out
    .u8(actors[section.actor])
    .u8(0)
    .u16(section.barrier ?? 0)
    .u32(section.cloneFlags ?? 0);
  out
    .u16(section.pidNamespace ?? noSlot)
    .u16(section.cgroup ?? noSlot)
    .u32(section.steps.length);
  const lengthAt = out.length;
  out.u32(0);
  for (const step of section.steps) writeStep(out, step);
  out.setU32(lengthAt, out.length - lengthAt - 4);
}

/** The plan as bytes. Throws resourceExhausted when it exceeds a bound of `limits`, invalidArgument on a NUL in a text. */
export function encodePlan(plan: Plan): Buffer {
  const steps = plan.sections.reduce((sum, section) => sum + section.steps.length, 0);
  if (plan.sections.length > limits.planSectionsMax)
    throw new RuntimeError('resourceExhausted', `encode plan: ${plan.sections.length} sections, at most ${limits.planSectionsMax}`);
  if (steps > limits.planStepsMax) throw new RuntimeError('resourceExhausted', `encode plan: ${steps} steps, at most ${limits.planStepsMax}`);
  const out = new ByteWriter();
  out.u32(planMagic).u16(planVersion).u16(plan.sections.length);
  for (const section of plan.sections) writeSection(out, section);
  if (out.length > limits.planBytesMax) throw new RuntimeError('resourceExhausted', `encode plan: ${out.length} bytes, at most ${limits.planBytesMax}`);
  return out.take();
}

function readStep(input: ByteReader): Step {
  const op = input.u16();
  const skipOnIgnored = input.u16();
  const ignoreCount = input.u8();
  input.u8();
  input.u16();
  const length = input.u32();
  const ignore = Array.from({ length: ignoreCount }, () => input.i32());
  const kind = kindsByOp.get(op);
  if (kind === undefined) throw new RuntimeError('internal', `decode plan: unknown step ${op}`);
  const body = new ByteReader(input.raw(length));
  const fields = Object.fromEntries(Object.entries(vocabulary[kind].fields).map(([name, type]) => [name, readField(body, type)]));
  if (body.remaining !== 0) throw new RuntimeError('internal', `decode plan: step ${kind} has ${body.remaining} bytes too many`);
  // SAFETY: the fields were just read by the vocabulary's row for this kind.
  return { kind, ...fields, ...(ignoreCount === 0 ? {} : { ignore, skipOnIgnored }) } as unknown as Step;
}

const actorsByNumber: readonly Actor[] = ['host', 'podNamespaces', 'containerSetup', 'payload'];

/** The bytes as a plan; origins are not on the wire. Throws internal on malformed bytes. */
export function decodePlan(bytes: Uint8Array): Plan {
  const input = new ByteReader(bytes);
  if (input.u32() !== planMagic || input.u16() !== planVersion) throw new RuntimeError('internal', 'decode plan: not a plan of this version');
  const count = input.u16();
  const sections: Section[] = [];
  for (let index = 0; index < count; index += 1) {
    const actor = actorsByNumber[input.u8()];
    if (actor === undefined) throw new RuntimeError('internal', 'decode plan: unknown actor');
    input.u8();
    const [barrier, cloneFlags, pidNamespace, cgroup, stepCount] = [input.u16(), input.u32(), input.u16(), input.u16(), input.u32()];
    const body = new ByteReader(input.raw(input.u32()));
    const steps = [];
    for (let at = 0; at < stepCount; at += 1) steps.push(readStep(body));
    if (body.remaining !== 0) throw new RuntimeError('internal', `decode plan: section ${index} has ${body.remaining} bytes too many`);
    sections.push({
      actor,
      ...(barrier === 0 ? {} : { barrier }),
      ...(cloneFlags === 0 ? {} : { cloneFlags }),
      ...(pidNamespace === noSlot ? {} : { pidNamespace }),
      ...(cgroup === noSlot ? {} : { cgroup }),
      steps,
    });
  }
  return { sections };
}
