/** The device filter, run by a small interpreter of the eBPF it uses. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type SpecDeviceRule } from '#oci';
import { deviceRulesOf } from './cgroup-driver.ts';
import { buildDeviceFilter } from './device-filter.ts';

const [block, char] = [1, 2];
const bits = { m: 1, r: 2, w: 4 } as const;

/** 1 or 0; an unknown instruction, a wild jump or a missing exit is an error. */
function run(program: Uint8Array, type: number, access: string, major: number, minor: number): number {
  const code = Buffer.from(program);
  // SAFETY: the tests pass letters of `bits`.
  const wanted = [...access].reduce((sum, letter) => sum | bits[letter as keyof typeof bits], 0);
  const context: Readonly<Record<number, number>> = { 0: type | (wanted << 16), 4: major, 8: minor };
  const registers = Array.from({ length: 11 }, () => 0);
  for (let at = 0; at * 8 < code.length; at += 1) {
    const [opcode, both, offset, value] = [code.readUInt8(at * 8), code.readUInt8(at * 8 + 1), code.readInt16LE(at * 8 + 2), code.readInt32LE(at * 8 + 4) >>> 0];
    const [to, from] = [both & 15, both >> 4];
    const current = registers[to] ?? 0;
    switch (opcode) {
      case 0x61:
        registers[to] = context[offset] ?? assert.fail(`load at ${offset}`);
        break;
      case 0x54:
        registers[to] = (current & value) >>> 0;
        break;
      case 0x74:
        registers[to] = current >>> value;
        break;
      case 0xbc:
        registers[to] = registers[from] ?? 0;
        break;
      case 0xb7:
        registers[to] = value;
        break;
      case 0x16:
        if (current === value) at += offset;
        break;
      case 0x56:
        if (current !== value) at += offset;
        break;
      case 0x95:
        return registers[0] ?? assert.fail('no result');
      default:
        assert.fail(`unknown opcode ${opcode}`);
    }
  }
  assert.fail('the program ran past its end');
}

test('denies by default and allows what every container needs', () => {
  const program = buildDeviceFilter(deviceRulesOf(undefined));
  assert.equal(run(program, char, 'rw', 1, 3), 1);
  assert.equal(run(program, char, 'rw', 136, 77), 1);
  assert.equal(run(program, block, 'm', 8, 0), 1);
  assert.equal(run(program, block, 'r', 8, 0), 0);
  assert.equal(run(program, char, 'r', 1, 11), 0);
  assert.equal(run(program, block, 'rw', 1, 3), 0);
});

test('the last rule that matches decides', () => {
  const rules: readonly SpecDeviceRule[] = [
    { allow: false, type: 'a' },
    { allow: true, type: 'b', major: 8 },
    { allow: false, type: 'b', major: 8, minor: 1, access: 'w' },
    { allow: true, type: 'c', major: 10, minor: 200, access: 'rw' },
  ];
  const program = buildDeviceFilter(rules);
  assert.deepEqual(
    ['r', 'w', 'rw'].map((access) => run(program, block, access, 8, 1)),
    [1, 0, 0],
  );
  assert.equal(run(program, block, 'rwm', 8, 2), 1);
  assert.deepEqual(
    ['r', 'rw', 'm', 'rwm'].map((access) => run(program, char, access, 10, 200)),
    [1, 1, 0, 0],
  );
  assert.equal(run(program, block, 'r', 9, 1), 0);
});

test('each kind of access is decided by itself', () => {
  const program = buildDeviceFilter([
    { allow: true, type: 'c', major: 1, access: 'r' },
    { allow: true, type: 'c', major: 1, minor: 3, access: 'w' },
    { allow: false, type: 'c', minor: 9, access: 'r' },
  ]);
  assert.deepEqual(
    ['r', 'w', 'rw', 'm'].map((access) => run(program, char, access, 1, 3)),
    [1, 1, 1, 0],
  );
  assert.deepEqual([run(program, char, 'w', 1, 4), run(program, char, 'r', 1, 9), run(program, char, 'r', 1, 8)], [0, 0, 1]);
});

test('a rule for everything forgets those before it', () => {
  const program = buildDeviceFilter([
    { allow: false, type: 'a' },
    { allow: true, type: 'c', major: 1 },
    { allow: true, type: 'a', access: 'rwm' },
  ]);
  assert.equal(run(program, block, 'rwm', 200, 5), 1);
  assert.equal(program.length, 8 * 8);
  assert.equal(run(buildDeviceFilter([]), char, 'r', 1, 3), 0);
});
