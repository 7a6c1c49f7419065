/** The ledger's comparison, on lists written by hand. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { describeLedgerDifference, type Ledger, type LedgerKind } from './ledger.ts';

const ledger = (entries: Partial<Record<LedgerKind, readonly string[]>>): Ledger => new Map(Object.entries(entries).map(([kind, lines]) => [kind as LedgerKind, lines]));

test('equal ledgers do not differ, whatever their order', () => {
  assert.deepEqual(describeLedgerDifference(ledger({ mount: ['/a (tmpfs)', '/b (proc)'] }), ledger({ mount: ['/b (proc)', '/a (tmpfs)'] })), []);
});

test('a second mount at the same place is a difference', () => {
  assert.deepEqual(describeLedgerDifference(ledger({ mount: ['/a (tmpfs)'] }), ledger({ mount: ['/a (tmpfs)', '/a (tmpfs)'] })), ['left behind: mount /a (tmpfs)']);
});

test('what is new is left behind, and a mount, link or rule that went is told too', () => {
  const before = ledger({ link: ['lo', 'eth0'], process: ['7 sh (started 1, parent 1)'], rule: ['table ip mine {'] });
  const after = ledger({ link: ['lo', 'veth1'], process: [], rule: [] });
  assert.deepEqual(describeLedgerDifference(before, after), ['left behind: link veth1', 'gone: link eth0', 'gone: rule table ip mine {']);
});

test('a kind that could not be read is not compared', () => {
  assert.deepEqual(describeLedgerDifference(ledger({ rule: ['table ip mine {'] }), ledger({})), []);
});
