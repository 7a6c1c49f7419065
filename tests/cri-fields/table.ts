/**
 * The table of every field of the CRI: what becomes of it and which test shows it. In: tests/cri-fields.json. Out: its rows, and the document
 * that people read. Whether the table is right is for tests/cri-fields.test.ts.
 */
import { readFileSync } from 'node:fs';
import type { DescMethod, JsonValue } from '@bufbuild/protobuf';
import { nameOf, reachable } from './trace.ts';

/** What becomes of a field. */
export type Fate =
  /** It has the effect that the interface describes; of an answer: it is set. Keys of `tests`. */
  | { readonly honoured: readonly string[] }
  /** A request that has it fails with this text; `sends` is one, to the method `rpc`. */
  | { readonly refused: string; readonly rpc: string; readonly sends: JsonValue }
  /** A wrong value is refused, a right one has no effect, for this reason. Requests only. */
  | { readonly checked: string }
  /** Nobody looks at it; of an answer: it is never set. The reason. */
  | { readonly ignored: string }
  /** Its message is only reached through this field, which is refused or ignored. */
  | { readonly within: string };

/** Fates by field: `PodSandboxConfig.hostname`. */
export type Fates = Readonly<Record<string, Fate>>;

/** The whole table. A message that is sent in both directions is in both. */
export interface FieldTable {
  /** By a short key, the test that shows what a field does. */
  readonly tests: Readonly<Record<string, { readonly file: string; readonly name: string }>>;
  readonly request: Fates;
  readonly response: Fates;
}

const home = new URL('../..', import.meta.url);

/** The text of a file of the checkout. */
export const readProjectFile = (path: string): string => readFileSync(new URL(path, home), 'utf8');

/** The table as it is written. */
export const tableText = readProjectFile('tests/cri-fields.json');
// SAFETY: the file is ours; a row of another shape fails the tests of the table.
export const table = JSON.parse(tableText) as FieldTable;

const words = { honoured: 'honoured', refused: 'refused', checked: 'checked', ignored: 'ignored', within: 'part of' } as const;

function describeFate(fate: Fate): readonly [string, string] {
  if ('honoured' in fate) return [words.honoured, fate.honoured.map((key) => `[${key}](#tests)`).join(', ')];
  if ('refused' in fate) return [words.refused, `\`${fate.refused}\``];
  if ('checked' in fate) return [words.checked, fate.checked];
  if ('ignored' in fate) return [words.ignored, fate.ignored];
  return [words.within, `\`${fate.within}\``];
}

function describeDirection(title: string, methods: readonly DescMethod[], part: 'input' | 'output', fates: Fates): readonly string[] {
  const lines = [`## ${title}`, ''];
  for (const message of reachable(methods.map((method) => method[part]))) {
    if (message.fields.length === 0) continue;
    lines.push(`### ${message.name}`, '', '| Field | | |', '|---|---|---|');
    for (const field of message.fields) {
      const fate = fates[nameOf(message, field)];
      const [word, text] = fate === undefined ? ['not in the table', ''] : describeFate(fate);
      lines.push(`| \`${field.name}\`${field.deprecated ? ' (deprecated)' : ''} | ${word} | ${text.replaceAll('|', '\\|')} |`);
    }
    lines.push('');
  }
  return lines;
}

const countOf = (fates: Fates, kind: keyof typeof words): number => Object.values(fates).filter((fate) => kind in fate).length;
const summary = (name: string, fates: Fates): string =>
  `| ${name} | ${Object.keys(fates).length} | ${(['honoured', 'checked', 'refused', 'ignored', 'within'] as const).map((kind) => countOf(fates, kind)).join(' | ')} |`;

/** docs/cri-fields.md. */
export function describeTable(methods: readonly DescMethod[]): string {
  return [
    '<!-- Generated from tests/cri-fields.json by scripts/generate-cri-fields.ts; do not edit. -->',
    '# Every field of the CRI',
    '',
    'What becomes of each field of each message that a served RPC takes or gives. The table is `tests/cri-fields.json`; `tests/cri-fields.test.ts` fails on a field that is not in it, and looks whether the',
    'doors read what is honoured and nothing that is ignored, refuse what is refused with this text, and set in their answers what is honoured and nothing else. A message that goes in both directions is in both halves.',
    '',
    '- **honoured**: it has the effect that the interface describes; and the test that shows it ([below](#tests)).',
    '- **checked**: a wrong value is refused, a right one has no effect, and why.',
    '- **refused**: the request fails, with this text.',
    '- **ignored**: nobody looks at it, or no answer has it, and why.',
    '- **part of**: its message is only reached through a field that is refused or ignored.',
    '',
    '| | fields | honoured | checked | refused | ignored | part of |',
    '|---|---|---|---|---|---|---|',
    summary('requests', table.request),
    summary('answers', table.response),
    '',
    ...describeDirection('Requests', methods, 'input', table.request),
    ...describeDirection('Answers', methods, 'output', table.response),
    '## Tests',
    '',
    '| | File | Test |',
    '|---|---|---|',
    ...Object.entries(table.tests).map(([key, { file, name }]) => `| ${key} | [${file}](../${file}) | ${name.replaceAll('|', String.raw`\|`)} |`),
    '',
  ]
    .join('\n')
    .replace(/\n+$/, '\n');
}
