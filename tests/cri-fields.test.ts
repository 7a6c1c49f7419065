/**
 * The table of every field of the CRI (tests/cri-fields.json) against the interface and against the doors. In: the table, requests with a value in
 * every field, an engine whose answers have everything. A field that is missing, doubled, unknown or told of wrongly fails by its name.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { callHandler, observe, served, unserved } from './cri-fields/observe.ts';
import { samples } from './cri-fields/samples.ts';
import { type Fate, type Fates, describeTable, readProjectFile, table, tableText } from './cri-fields/table.ts';
import { messageNamed, nameOf, reachable } from './cri-fields/trace.ts';

const roots = { request: [...served.values()].map(({ input }) => input), response: [...served.values()].map(({ output }) => output) } as const;
const directions = ['request', 'response'] as const;
const named = (fates: Fates, kinds: readonly string[]): string[] =>
  Object.entries(fates)
    .filter(([, fate]) => kinds.some((kind) => kind in fate))
    .map(([name]) => name)
    .sort();
const isHidden = (fate: Fate | undefined): boolean => fate !== undefined && ('refused' in fate || 'ignored' in fate);

test('every RPC but those of checkpoints is served, and each has a sample', () => {
  assert.deepEqual(unserved, ['CheckpointContainer', 'CheckpointPod', 'RestorePod']);
  assert.deepEqual(Object.keys(samples).sort(), [...served.keys()].sort());
});

for (const direction of directions)
  test(`every field of a ${direction} is in the table, once, and the table has no other`, () => {
    const fields = [...reachable(roots[direction])].flatMap((message) => message.fields.map((field) => nameOf(message, field)));
    assert.deepEqual(Object.keys(table[direction]).sort(), fields.sort());
    // JSON.parse keeps the last of several equal keys, so the text itself is counted.
    const keys = [...tableText.matchAll(/^ {4}"([A-Za-z0-9]+\.\w+)": \{/gm)].map(([, key = '']) => key);
    assert.equal(keys.length, Object.keys(table.request).length + Object.keys(table.response).length);
  });

test('every row says exactly one thing, in words', () => {
  for (const direction of directions)
    for (const [name, fate] of Object.entries(table[direction])) {
      const kinds = Object.keys(fate).filter((key) => key !== 'rpc' && key !== 'sends');
      assert.equal(kinds.length, 1, `${direction} ${name}`);
      assert.ok(['honoured', 'refused', 'checked', 'ignored', 'within'].includes(kinds[0] ?? ''), `${direction} ${name}`);
      for (const value of Object.values(fate)) assert.ok(typeof value !== 'string' || value.trim() !== '', `${direction} ${name}: no reason`);
      assert.ok(direction === 'request' || !('refused' in fate || 'checked' in fate), `${name}: an answer is set or not`);
    }
});

test('the tests that show what is honoured exist, and each of them shows something', () => {
  const used = new Set<string>();
  for (const direction of directions)
    for (const [name, fate] of Object.entries(table[direction])) {
      if (!('honoured' in fate)) continue;
      assert.ok(fate.honoured.length > 0, `${direction} ${name}: no test`);
      for (const key of fate.honoured) {
        used.add(key);
        assert.ok(table.tests[key] !== undefined, `${direction} ${name}: no test ${key}`);
      }
    }
  assert.deepEqual(Object.keys(table.tests).sort(), [...used].sort());
  for (const { file, name } of Object.values(table.tests)) {
    const text = readProjectFile(file);
    const spellings = [`'${name.replaceAll("'", String.raw`\'`)}'`, `"${name}"`, `\`${name}\``];
    assert.ok(
      spellings.some((spelling) => text.includes(spelling)),
      `${file} has no test ${JSON.stringify(name)}`,
    );
  }
});

test('a test that shows a field is in a file that names the field', () => {
  for (const direction of directions)
    for (const message of reachable(roots[direction]))
      for (const field of message.fields) {
        const fate = table[direction][nameOf(message, field)];
        if (fate === undefined || !('honoured' in fate)) continue;
        const pattern = new RegExp(String.raw`\b(?:${field.name}|${field.localName})\b`);
        const files = fate.honoured.map((key) => table.tests[key]?.file ?? '');
        assert.ok(
          files.some((file) => pattern.test(readProjectFile(file))),
          `${direction} ${nameOf(message, field)}: not in ${files.join(', ')}`,
        );
      }
});

test('what is reached only through refused or ignored fields is said to be so, and nothing else is', () => {
  for (const direction of directions) {
    const fates = table[direction];
    const open = reachable(roots[direction], (field) => !isHidden(fates[field]));
    for (const message of reachable(roots[direction]))
      for (const field of message.fields) {
        const name = nameOf(message, field);
        const fate = fates[name];
        assert.ok(fate !== undefined, name);
        assert.equal('within' in fate, !open.has(message), `${direction} ${name}`);
        if (!('within' in fate)) continue;
        assert.ok(isHidden(fates[fate.within]), `${direction} ${name}: ${fate.within} is neither refused nor ignored`);
        const [owner = '', key = ''] = fate.within.split('.');
        const child = messageNamed(owner)?.fields.find((candidate) => candidate.name === key)?.message;
        assert.ok(child !== undefined && reachable([child]).has(message), `${direction} ${name}: is not reached through ${fate.within}`);
      }
  }
});

test('the doors read what is honoured, checked or refused, and nothing that is ignored', async () => {
  const { sent, read } = await observe(samples);
  const wanted = named(table.request, ['honoured', 'checked', 'refused']);
  assert.deepEqual([...read].sort(), wanted, 'fields that are read');
  const refused = named(table.request, ['refused']);
  assert.deepEqual(
    wanted.filter((name) => !sent.has(name)),
    refused,
    'fields without a value in any sample',
  );
  const ignored = named(table.request, ['ignored']);
  assert.deepEqual(
    ignored.filter((name) => !sent.has(name)),
    [],
    'ignored fields without a value in any sample',
  );
});

test('what is refused fails with its text', async () => {
  for (const [name, fate] of Object.entries(table.request)) {
    if (!('refused' in fate)) continue;
    const method = served.get(fate.rpc);
    assert.ok(method !== undefined, `${name}: no RPC ${fate.rpc}`);
    await assert.rejects(callHandler(method, fate.sends), { code: 'invalidArgument', message: fate.refused }, name);
  }
});

test('answers set what is honoured and nothing that is ignored', async () => {
  const { answered } = await observe(samples);
  assert.deepEqual([...answered].sort(), named(table.response, ['honoured']));
});

test('docs/cri-fields.md is what scripts/generate-cri-fields.ts makes of the table', () => {
  assert.equal(readProjectFile('docs/cri-fields.md'), describeTable([...served.values()]));
});
