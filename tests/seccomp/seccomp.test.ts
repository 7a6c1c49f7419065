/** The seccomp compiler against runc: both programs answer every system call alike; and against the words of profiles that runc's library misreads. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { SeccompArg, SeccompRule } from '#oci';
import { compileSeccomp } from '#runtime';
import { syscallNumbers } from '../../src/runtime/syscalls.ts';
import { differences } from './compare.ts';
import { makeCorpus, makeWordy } from './corpus.ts';
import { readRecorded } from './fixtures.ts';
import { Filter } from './interpreter.ts';

const recorded = readRecorded();

test('the recorded programs are of the corpus as it is made now', () => {
  for (const { name, seccomp } of makeCorpus()) assert.deepEqual(recorded.find((each) => each.name === name)?.seccomp, seccomp, name);
});

for (const { name, seccomp, program } of recorded) {
  test(`answers as runc does: ${name}`, () => {
    const ours = new Filter(compileSeccomp(seccomp, 'x86_64', 'p').program);
    const { tried, different } = differences(seccomp, ours, new Filter(program));
    assert.deepEqual(different, []);
    assert(tried > 100_000, `${tried} calls`);
    assert(ours.size <= 4096);
  });
}

const wrap = (value: bigint, bits: number): bigint => BigInt.asUintN(bits, value);

function holds({ index, op, value, valueTwo }: SeccompArg, args: readonly bigint[], bits: number): boolean {
  const [actual, wanted] = [wrap(args[index] ?? 0n, bits), wrap(value, bits)];
  switch (op) {
    case 'SCMP_CMP_EQ':
      return actual === wanted;
    case 'SCMP_CMP_NE':
      return actual !== wanted;
    case 'SCMP_CMP_LT':
      return actual < wanted;
    case 'SCMP_CMP_LE':
      return actual <= wanted;
    case 'SCMP_CMP_GT':
      return actual > wanted;
    case 'SCMP_CMP_GE':
      return actual >= wanted;
    case 'SCMP_CMP_MASKED_EQ':
      return (actual & wanted) === (wrap(valueTwo, bits) & wanted);
  }
}

for (const seed of [1, 2, 3, 4, 5]) {
  test(`rules with one action answer as they read, bounds of every kind among them: ${seed}`, () => {
    const profile = makeWordy(seed);
    const filter = new Filter(compileSeccomp(profile, 'x86_64', 'p').program);
    const near = profile.syscalls
      .flatMap(({ args }) => args.flatMap(({ value, valueTwo }) => [value - 1n, value, value + 1n, valueTwo, value ^ (1n << 33n)]))
      .map((value) => wrap(value, 64));
    for (const [abi, token, bits] of [
      ['x86_64', 0xc000_003e, 64],
      ['x32', 0xc000_003e, 32],
    ] as const) {
      for (const name of new Set(profile.syscalls.flatMap(({ names }) => names))) {
        const number = syscallNumbers[abi].get(name);
        if (number === undefined) continue;
        const rules: readonly SeccompRule[] = profile.syscalls.filter(({ names }) => names.includes(name));
        for (let round = 0; round < 200; round += 1) {
          const args: readonly bigint[] = [0, 1, 2, 3, 4, 5].map((index) => near[(round * 7919 + index * 104729 + number) % near.length] ?? 0n);
          // Two comparisons of one argument are alternatives.
          const allowed = rules.some((rule) =>
            new Set(rule.args.map(({ index }) => index)).size === rule.args.length
              ? rule.args.every((arg) => holds(arg, args, bits))
              : rule.args.some((arg) => holds(arg, args, bits)),
          );
          assert.equal(filter.run({ token, number, args }), allowed ? 0x7fff_0000 : 0x0005_0001, `${abi} ${name} ${args.join(' ')}`);
        }
      }
    }
  });
}
