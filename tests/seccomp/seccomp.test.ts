/** The seccomp compiler against runc: both programs answer every system call alike; and against the words of profiles that runc's library misreads. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { SeccompArg, SeccompRule, SpecSeccomp } from '#oci';
import { compileSeccomp } from '#runtime';
import { answerOf } from '../../src/runtime/seccomp-rules.ts';
import { syscallNumbers, x32Bit } from '../../src/runtime/syscalls.ts';
import { type Difference, differences } from './compare.ts';
import { makeCorpus, makePairs, makeWordy } from './corpus.ts';
import { exceptions } from './exceptions.ts';
import { readRecorded } from './fixtures.ts';
import { type Call, Filter } from './interpreter.ts';

const recorded = readRecorded();

test('the recorded programs are of the corpus as it is made now', () => {
  for (const { name, seccomp } of makeCorpus()) assert.deepEqual(recorded.find((each) => each.name === name)?.seccomp, seccomp, name);
});

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

/** A call's convention and name. */
function nameOf({ token, number }: Call): readonly [abi: 'x86_64' | 'x32' | 'i386', name: string] {
  const abi = token === 0x4000_0003 ? 'i386' : number >= x32Bit ? 'x32' : 'x86_64';
  return [abi, [...syscallNumbers[abi]].find(([, own]) => own === number)?.[0] ?? String(number)];
}

/** Two comparisons of one argument are alternatives. */
function ruleHolds({ args }: SeccompRule, given: readonly bigint[], bits: number): boolean {
  const isApart = new Set(args.map(({ index }) => index)).size === args.length;
  return isApart ? args.every((arg) => holds(arg, given, bits)) : args.some((arg) => holds(arg, given, bits));
}

/** What a call may get as the profile reads: the answers of the rules that hold, or the default's. */
function readAnswers(profile: SpecSeccomp, call: Call): readonly number[] {
  const [abi, name] = nameOf(call);
  const rules = profile.syscalls.filter((rule) => rule.names.includes(name) && ruleHolds(rule, call.args, abi === 'x86_64' ? 64 : 32));
  return rules.length === 0 ? [answerOf(profile.defaultAction, profile.defaultErrnoRet, 'p')] : rules.map(({ action, errnoRet }) => answerOf(action, errnoRet, 'p'));
}

for (const { name, seccomp, program } of recorded) {
  const listed = exceptions[name] ?? {};
  const reasons = new Map((['wrongWord', 'mergedBounds'] as const).flatMap((reason) => (listed[reason] ?? []).map((call) => [call, reason] as const)));
  test(`answers as runc does${reasons.size === 0 ? '' : ', but for what is listed'}: ${name}`, () => {
    const ours = new Filter(compileSeccomp(seccomp, 'x86_64', 'p').program);
    const theirs = new Filter(program);
    const mixedUp = theirs.findMixedUp();
    const { tried, different } = differences(seccomp, ours, theirs);
    assert.deepEqual([...new Set(different.map(({ call }) => nameOf(call).join(' ')))].toSorted(), [...reasons.keys()].toSorted());
    for (const { call, answers } of different) {
      const reason = reasons.get(nameOf(call).join(' '));
      const text = `${nameOf(call).join(' ')} ${call.args.join(' ')}: ${answers.join(' and ')}`;
      assert(readAnswers(seccomp, call).includes(answers[0]), text);
      if (reason === 'wrongWord') assert(theirs.runRepaired(call, mixedUp).has(answers[0]), text);
    }
    for (const [listedCall, reason] of reasons) {
      // A rule that does not hold has answered, or none where one holds.
      const isMisread = ({ call, answers }: Difference): boolean => nameOf(call).join(' ') === listedCall && !readAnswers(seccomp, call).includes(answers[1]);
      assert(reason === 'wrongWord' || different.some(isMisread), listedCall);
    }
    assert.equal(ours.findMixedUp().size, 0);
    assert(tried > 100_000, `${tried} calls`);
    assert(ours.size <= 4096);
  });
}

for (const { name, refused, seccomp } of makePairs()) {
  test(`${refused ? 'refuses' : 'takes'} two rules: ${name}`, () => {
    const make = (): unknown => compileSeccomp(seccomp, 'x86_64', 'linux.seccomp');
    if (refused) assert.throws(make, { code: 'invalidArgument', message: 'linux.seccomp.syscalls[2]: contradicts an earlier rule for "mq_open"' });
    else make();
  });
}

test('exceptions are of recorded profiles', () => {
  assert.deepEqual(
    Object.keys(exceptions).filter((name) => !recorded.some((each) => each.name === name)),
    [],
  );
});

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
          const allowed = rules.some((rule) => ruleHolds(rule, args, bits));
          assert.equal(filter.run({ token, number, args }), allowed ? 0x7fff_0000 : 0x0005_0001, `${abi} ${name} ${args.join(' ')}`);
        }
      }
    }
  });
}
