/**
 * Writes native/steps.gen.h from the vocabulary in src/plan: one struct and one decoder per step.
 * Run with `--check` it writes nothing and fails when the file is out of date.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { type FieldType, layerOps, noSlot, planMagic, planVersion, podSlotCount, vocabulary, actors } from '../src/plan/index.ts';
import { limits } from '../src/core/index.ts';

const cTypes: Readonly<Record<FieldType, string>> = {
  u32: 'uint32_t',
  i32: 'int32_t',
  u64: 'uint64_t',
  slot: 'uint16_t',
  text: 'const char *',
  bytes: 'struct bytes',
  texts: 'struct texts',
  u32s: 'struct u32s',
};
const snake = (name: string): string => name.replaceAll(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
const upper = (name: string): string => snake(name).toUpperCase();
const declare = (type: FieldType, name: string): string => `${cTypes[type]}${type === 'text' ? '' : ' '}${snake(name)};`;

function wrap(text: string): string {
  const lines: string[] = [];
  let line = '';
  for (const word of text.split(' ')) {
    if (line.length + word.length > 100) {
      lines.push(line);
      line = '';
    }
    line += `${line === '' ? '' : ' '}${word}`;
  }
  return [...lines, line].join('\n * ');
}

const out: string[] = [
  '/* Generated from src/plan/vocabulary.ts by scripts/generate-native.ts. Do not edit. */',
  '#pragma once',
  '#include "reader.h"',
  '',
  `#define PLAN_MAGIC 0x${planMagic.toString(16)}u`,
  `#define PLAN_VERSION ${planVersion}`,
  `#define PLAN_BYTES_MAX ${limits.planBytesMax}u`,
  `#define PLAN_SECTIONS_MAX ${limits.planSectionsMax}`,
  `#define PLAN_STEPS_MAX ${limits.planStepsMax}`,
  `#define SLOT_COUNT ${limits.planSlotsMax}`,
  `#define POD_SLOT_COUNT ${podSlotCount}`,
  `#define NO_SLOT ${noSlot}`,
  `#define FRAME_BYTES_MAX ${limits.frameBytesMax}u`,
  `#define FAILURE_DETAIL_MAX ${limits.failureDetailBytesMax}`,
  `#define LOG_LINE_MAX ${limits.logLineBytesMax}`,
  '',
  `enum actor { ${Object.entries(actors)
    .map(([name, number]) => `ACTOR_${upper(name)} = ${number}`)
    .join(', ')} };`,
  `enum layer_op { ${Object.entries(layerOps)
    .map(([name, number]) => `LAYER_${upper(name)} = ${number}`)
    .join(', ')} };`,
  '',
  'enum step_op {',
  ...Object.entries(vocabulary).map(([kind, { op }]) => `  STEP_${upper(kind)} = ${op},`),
  '};',
];

for (const [kind, { does, fields }] of Object.entries(vocabulary)) {
  const name = `step_${snake(kind)}`;
  const entries = Object.entries(fields) as [string, FieldType][];
  out.push('', `/* ${wrap(does)} */`);
  out.push(`struct ${name} {`, ...(entries.length === 0 ? ['  char unused;'] : entries.map(([field, type]) => `  ${declare(type, field)}`)), '};');
  out.push(`static inline bool decode_${name}(struct reader *in, struct ${name} *step) {`);
  if (entries.length === 0) out.push('  step->unused = 0;');
  for (const [field, type] of entries) out.push(`  step->${snake(field)} = read_${type === 'slot' ? 'u16' : type}(in);`);
  out.push('  return reader_done(in);', '}');
}

out.push('');

const path = new URL('../native/steps.gen.h', import.meta.url);
const text = out.join('\n');
if (process.argv.includes('--check')) {
  if (readFileSync(path, 'utf8') !== text) {
    console.error('native/steps.gen.h is out of date: run npm run generate');
    process.exit(1);
  }
} else {
  writeFileSync(path, text);
}
