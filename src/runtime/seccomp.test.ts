/** The seccomp compiler, run by a small interpreter of classic BPF against a plain reading of the profile. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type SeccompRule, type SpecSeccomp } from '#oci';
import { type Architecture } from '#system';
import { defaultSeccompProfile } from './seccomp-default.ts';
import { type BpfInstruction, bpf, buildSeccompFilter, compileSeccomp } from './seccomp.ts';
import { type Abi, syscallNumbers, x32Bit } from './syscalls.ts';
import { defaultCapabilities } from './defaults.ts';

const tokens: Readonly<Record<Abi | 'mips', number>> = { x86_64: 0xc000003e, x32: 0xc000003e, i386: 0x40000003, arm64: 0xc00000b7, arm: 0x40000028, mips: 8 };
const [allow, kill, killProcess, enosys, eperm] = [0x7fff0000, 0, 0x80000000, 0x00050026, 0x00050001];

/** Runs a filter over one struct seccomp_data; a jump out of the program or a missing return is an error. */
function run(program: readonly BpfInstruction[], abi: Abi | 'mips', number: number, args: readonly bigint[] = []): number {
  const data = Buffer.alloc(64);
  data.writeUInt32LE(number >>> 0, 0);
  data.writeUInt32LE(tokens[abi], 4);
  for (const [index, value] of args.entries()) data.writeBigUInt64LE(value, 16 + 8 * index);
  let accumulator = 0;
  for (let at = 0; at < program.length; at += 1) {
    const step = program[at];
    assert(step !== undefined);
    const jump = (condition: boolean): void => {
      at += condition ? step.onTrue : step.onFalse;
    };
    switch (step.code) {
      case bpf.loadWord:
        accumulator = data.readUInt32LE(step.value);
        break;
      case bpf.and:
        accumulator = (accumulator & step.value) >>> 0;
        break;
      case bpf.jump:
        at += step.value;
        break;
      case bpf.jumpEqual:
        jump(accumulator === step.value);
        break;
      case bpf.jumpGreater:
        jump(accumulator > step.value);
        break;
      case bpf.jumpGreaterEqual:
        jump(accumulator >= step.value);
        break;
      case bpf.return:
        return step.value;
      default:
        assert.fail(`unknown opcode ${step.code}`);
    }
  }
  assert.fail('the program ran past its end');
}

/** What a profile says by its words, without any search: the reference. Conventions of 32 bits see the lower halves alone. */
function expected(profile: SpecSeccomp, abi: Abi, name: string, args: readonly bigint[]): number {
  const answer = (rule: Pick<SeccompRule, 'action' | 'errnoRet'>): number => (rule.action === 'SCMP_ACT_ALLOW' ? allow : 0x50000 | (rule.errnoRet ?? 1));
  const rules = profile.syscalls.filter(({ names }) => names.includes(name));
  const holds = (rule: SeccompRule): boolean =>
    rule.args.every(({ index, value, valueTwo, op }) => {
      const actual = BigInt.asUintN(abi === 'x86_64' || abi === 'arm64' ? 64 : 32, args[index] ?? 0n);
      return op === 'SCMP_CMP_EQ' ? actual === value : op === 'SCMP_CMP_NE' ? actual !== value : op === 'SCMP_CMP_MASKED_EQ' ? (actual & value) === valueTwo : assert.fail(op);
    });
  const found = rules.find((rule) => rule.args.length > 0 && holds(rule)) ?? rules.find((rule) => rule.args.length === 0);
  if (found !== undefined) return answer(found);
  const known = profile.syscalls.flatMap(({ names }) => names).flatMap((each) => syscallNumbers[abi].get(each) ?? []);
  return (syscallNumbers[abi].get(name) ?? 0) > Math.max(...known) ? enosys : eperm;
}

const sample: readonly (readonly bigint[])[] = [[], [40n, 1n], [0x7e020000n], [0x10000000n], [0x4011n], [0xffffffffn], [0x1_0000_0000n], [8n]];

for (const architecture of ['x86_64', 'arm64'] as const satisfies readonly Architecture[]) {
  for (const capabilities of [defaultCapabilities, ['CAP_SYS_ADMIN', 'CAP_SYS_PTRACE', 'CAP_SYS_TIME', 'CAP_SYS_MODULE'], []]) {
    test(`the default profile answers every call of ${architecture} with ${capabilities.length} capabilities as it reads`, () => {
      const profile = defaultSeccompProfile({ capabilities, architecture });
      const program = buildSeccompFilter(profile, architecture, 'p');
      const abis: readonly Abi[] = architecture === 'x86_64' ? ['x86_64', 'x32', 'i386'] : ['arm64'];
      for (const abi of abis) {
        for (const [name, number] of syscallNumbers[abi]) {
          for (const args of sample) assert.equal(run(program, abi, number, args), expected(profile, abi, name, args), `${abi} ${name} ${args.join(',')}`);
        }
      }
    });
  }
}

test('the default profile allows what programs need and refuses what escapes need', () => {
  const program = buildSeccompFilter(defaultSeccompProfile({ capabilities: defaultCapabilities, architecture: 'x86_64' }), 'x86_64', 'p');
  const call = (name: string, ...args: readonly bigint[]): number => run(program, 'x86_64', syscallNumbers.x86_64.get(name) ?? assert.fail(name), args);
  for (const name of ['read', 'openat', 'execve', 'futex', 'statx', 'epoll_pwait2', 'chroot', 'faccessat2', 'rseq']) assert.equal(call(name), allow, name);
  for (const name of [
    'mount',
    'bpf',
    'keyctl',
    'add_key',
    'unshare',
    'setns',
    'kexec_load',
    'init_module',
    'open_by_handle_at',
    'userfaultfd',
    'perf_event_open',
    'io_uring_setup',
    'pivot_root',
    'reboot',
  ])
    assert.equal(call(name), eperm, name);
  assert.equal(call('clone', 0x11n), allow);
  assert.equal(call('clone', 0x10000011n), eperm);
  assert.equal(call('clone3'), enosys);
  assert.equal(call('socket', 2n), allow);
  assert.equal(call('socket', 40n), eperm);
  assert.equal(run(program, 'x86_64', 9999), enosys);
  assert.equal(run(program, 'x32', x32Bit | 9999), enosys);
  assert.equal(run(program, 'mips', 1), kill);
});

test('numbers of x32 are killed where the profile does not list x32', () => {
  const program = buildSeccompFilter({ defaultAction: 'SCMP_ACT_ALLOW', architectures: [], flags: [], syscalls: [] }, 'x86_64', 'p');
  assert.equal(run(program, 'x86_64', 0), allow);
  assert.equal(run(program, 'x86_64', 100_000), allow);
  assert.equal(run(program, 'x32', x32Bit), kill);
  assert.equal(run(program, 'i386', 3), kill);
});

test('compares all 64 bits with every operator', () => {
  const values = [0n, 1n, 5n, 0xffff_ffffn, 0x1_0000_0000n, 0x1_0000_0005n, 0x5_0000_0001n, (1n << 64n) - 1n];
  const holds = {
    SCMP_CMP_NE: (a: bigint, b: bigint) => a !== b,
    SCMP_CMP_LT: (a: bigint, b: bigint) => a < b,
    SCMP_CMP_LE: (a: bigint, b: bigint) => a <= b,
    SCMP_CMP_EQ: (a: bigint, b: bigint) => a === b,
    SCMP_CMP_GE: (a: bigint, b: bigint) => a >= b,
    SCMP_CMP_GT: (a: bigint, b: bigint) => a > b,
  } as const;
  for (const [op, compare] of Object.entries(holds)) {
    for (const value of values) {
      // SAFETY: the keys of `holds` are operators.
      const profile: SpecSeccomp = {
        defaultAction: 'SCMP_ACT_ERRNO',
        architectures: [],
        flags: [],
        syscalls: [{ names: ['read'], action: 'SCMP_ACT_ALLOW', args: [{ index: 5, value, valueTwo: 0n, op: op as keyof typeof holds }] }],
      };
      const program = buildSeccompFilter(profile, 'x86_64', 'p');
      for (const actual of values) assert.equal(run(program, 'x86_64', 0, [0n, 0n, 0n, 0n, 0n, actual]), compare(actual, value) ? allow : eperm, `${actual} ${op} ${value}`);
    }
  }
});

const eq = (index: number, value: bigint) => ({ index, value, valueTwo: 0n, op: 'SCMP_CMP_EQ' }) as const;
const plain = { defaultAction: 'SCMP_ACT_KILL_PROCESS', architectures: [], flags: [] } as const;
const number = (name: string): number => syscallNumbers.x86_64.get(name) ?? assert.fail(name);

test('all arguments of a rule must hold, and repeated ones are alternatives', () => {
  const profile: SpecSeccomp = {
    ...plain,
    flags: ['SECCOMP_FILTER_FLAG_LOG', 'SECCOMP_FILTER_FLAG_TSYNC'],
    syscalls: [
      { names: ['close'], action: 'SCMP_ACT_ERRNO', errnoRet: 7, args: [eq(0, 1n), eq(1, 2n)] },
      { names: ['read'], action: 'SCMP_ACT_LOG', args: [eq(0, 1n), eq(0, 2n)] },
      { names: ['no_such_call'], action: 'SCMP_ACT_ALLOW', args: [] },
    ],
  };
  const program = buildSeccompFilter(profile, 'x86_64', 'p');
  assert.equal(run(program, 'x86_64', number('close'), [1n, 2n]), 0x50007);
  assert.equal(run(program, 'x86_64', number('close'), [1n, 3n]), killProcess);
  assert.deepEqual(
    [1n, 2n, 3n].map((value) => run(program, 'x86_64', number('read'), [value])),
    [0x7ffc0000, 0x7ffc0000, killProcess],
  );
  assert.equal(compileSeccomp(profile, 'x86_64', 'p').flags, 2);
  assert.equal(compileSeccomp(profile, 'x86_64', 'p').program.length, program.length * 8);
});

test('a rule without arguments decides its call, the first of them, and one with the answer of the default says nothing', () => {
  const rule = (name: string, errnoRet: number, args: SeccompRule['args'] = []): SeccompRule => ({ names: [name], action: 'SCMP_ACT_ERRNO', errnoRet, args });
  const syscalls = [
    rule('read', 1, [eq(0, 1n)]),
    rule('read', 2),
    rule('read', 3),
    rule('read', 4, [eq(0, 1n)]),
    { names: ['write'], action: 'SCMP_ACT_KILL_PROCESS', args: [] } as const,
    rule('write', 5),
  ];
  const program = buildSeccompFilter({ ...plain, syscalls }, 'x86_64', 'p');
  assert.deepEqual(
    [run(program, 'x86_64', number('read'), [1n]), run(program, 'x86_64', number('read'), [7n]), run(program, 'x86_64', number('write'))],
    [0x50002, 0x50002, 0x50005],
  );
});

test('of rules that hold together one on a later argument goes first, then equality, then the nearest bound', () => {
  const arg = (index: number, op: SeccompRule['args'][number]['op'], value: bigint) => ({ index, op, value, valueTwo: 0n });
  const rule = (errnoRet: number, ...args: SeccompRule['args']): SeccompRule => ({ names: ['read'], action: 'SCMP_ACT_ERRNO', errnoRet, args });
  const syscalls = [
    rule(1, arg(0, 'SCMP_CMP_GT', 3n)),
    rule(2, arg(0, 'SCMP_CMP_GT', 9n)),
    rule(3, arg(0, 'SCMP_CMP_LT', 7n)),
    rule(4, arg(0, 'SCMP_CMP_EQ', 5n)),
    rule(5, arg(1, 'SCMP_CMP_EQ', 1n)),
  ];
  const program = buildSeccompFilter({ ...plain, syscalls }, 'x86_64', 'p');
  const answers = [[5n, 1n], [5n], [6n], [8n], [10n], [2n]].map((args) => run(program, 'x86_64', number('read'), args) & 0xffff);
  assert.deepEqual(answers, [5, 4, 3, 1, 2, 3]);
});

test('refuses rules that contradict each other', () => {
  const rule = (errnoRet: number, ...args: SeccompRule['args']): SeccompRule => ({ names: ['read'], action: 'SCMP_ACT_ERRNO', errnoRet, args });
  for (const syscalls of [
    [rule(1, eq(0, 1n)), rule(2, eq(0, 1n))],
    [rule(1, eq(0, 1n), eq(1, 1n)), rule(2, eq(0, 1n))],
  ]) {
    assert.throws(() => buildSeccompFilter({ ...plain, syscalls }, 'x86_64', 'linux.seccomp'), {
      code: 'invalidArgument',
      message: 'linux.seccomp.syscalls[1]: contradicts an earlier rule for "read"',
    });
  }
  // What only continues an earlier rule is never reached.
  const program = buildSeccompFilter({ ...plain, syscalls: [rule(1, eq(0, 1n)), rule(2, eq(0, 1n), eq(1, 1n))] }, 'x86_64', 'p');
  assert.equal(run(program, 'x86_64', number('read'), [1n, 1n]), 0x50001);
});

test('a rule on sockets or System V IPC counts for both ways of i386', () => {
  const profile: SpecSeccomp = {
    ...plain,
    architectures: ['SCMP_ARCH_X86'],
    syscalls: [
      { names: ['socket'], action: 'SCMP_ACT_ALLOW', args: [{ ...eq(0, 40n), op: 'SCMP_CMP_NE' }] },
      { names: ['shmget', 'accept'], action: 'SCMP_ACT_LOG', args: [] },
    ],
  };
  const program = buildSeccompFilter(profile, 'x86_64', 'p');
  const answers = [
    run(program, 'i386', 359, [40n]),
    run(program, 'i386', 359, [2n]),
    run(program, 'i386', 102, [1n]),
    run(program, 'i386', 102, [2n]),
    run(program, 'i386', 102, [5n]),
  ];
  assert.deepEqual(answers, [killProcess, allow, allow, killProcess, 0x7ffc0000]);
  assert.deepEqual([run(program, 'i386', 117, [23n]), run(program, 'i386', 117, [24n]), run(program, 'i386', 395)], [0x7ffc0000, killProcess, 0x7ffc0000]);
});

test('arm programs on arm64 are filtered where the profile lists them', () => {
  const program = buildSeccompFilter({ ...plain, architectures: ['SCMP_ARCH_ARM'], syscalls: [{ names: ['read', 'set_tls'], action: 'SCMP_ACT_ALLOW', args: [] }] }, 'arm64', 'p');
  assert.deepEqual(
    [run(program, 'arm64', 63), run(program, 'arm', 3), run(program, 'arm', 0xf0005), run(program, 'arm', 0xf0006), run(program, 'i386', 3)],
    [allow, allow, allow, enosys, kill],
  );
});

test("every program stays within the reach of its jumps and the kernel's size", () => {
  const names = [...syscallNumbers.x86_64.keys()];
  const aboveAll = (value: bigint) => [0, 1, 2].map((index) => ({ index, value, valueTwo: 0n, op: 'SCMP_CMP_GT' }) as const);
  const rules = (count: number, valueOf: (index: number) => bigint): SpecSeccomp['syscalls'] =>
    names.slice(0, count).map((name, index) => ({ names: [name], action: 'SCMP_ACT_ALLOW', args: aboveAll(valueOf(index)) }));
  const large: SpecSeccomp = { defaultAction: 'SCMP_ACT_ERRNO', architectures: [], flags: [], syscalls: rules(180, (index) => BigInt(index + 5)) };
  const program = buildSeccompFilter(large, 'x86_64', 'p');
  assert(program.every(({ onTrue, onFalse }) => onTrue <= 255 && onFalse <= 255));
  assert.equal(run(program, 'x86_64', syscallNumbers.x86_64.get('read') ?? -1, [6n, 6n, 6n]), allow);
  assert.equal(run(program, 'x86_64', syscallNumbers.x86_64.get('read') ?? -1, [6n, 5n, 6n]), eperm);
  const huge = { ...large, syscalls: rules(names.length, (index) => BigInt(index + 5)) };
  assert.throws(() => buildSeccompFilter(huge, 'x86_64', 'linux.seccomp'), { code: 'resourceExhausted', message: /^linux\.seccomp: \d+ instructions, at most 4096$/ });
  // What calls and conventions have in common is there once.
  const same: SpecSeccomp = { ...large, architectures: ['SCMP_ARCH_X86', 'SCMP_ARCH_X32'], syscalls: rules(names.length, () => 5n) };
  const shared = buildSeccompFilter(same, 'x86_64', 'p');
  assert(shared.length < 4096);
  for (const abi of ['x86_64', 'x32', 'i386'] as const) {
    for (const name of names) {
      const number = syscallNumbers[abi].get(name);
      if (number === undefined) continue;
      assert.equal(run(shared, abi, number, [6n, 6n, 6n]), allow, `${abi} ${name}`);
      assert.equal(run(shared, abi, number, [6n, 6n, 5n]), eperm, `${abi} ${name}`);
    }
  }
});

test('asks an agent where the profile says so, and refuses what it could never answer', () => {
  const notify = (names: readonly string[]): SpecSeccomp => ({
    ...plain,
    defaultAction: 'SCMP_ACT_ALLOW',
    syscalls: [{ names, action: 'SCMP_ACT_NOTIFY', args: [] }],
    listenerPath: '/run/agent',
  });
  const profile = notify(['mkdir']);
  assert.equal(run(buildSeccompFilter(profile, 'x86_64', 'p'), 'x86_64', number('mkdir')), 0x7fc00000);
  assert.equal(compileSeccomp({ ...profile, flags: ['SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV'] }, 'x86_64', 'p').flags, 8 | 32);
  const { listenerPath: _path, ...without } = profile;
  const refusals: readonly (readonly [SpecSeccomp, string])[] = [
    [without, 'linux.seccomp.listenerPath: required with SCMP_ACT_NOTIFY'],
    [{ ...profile, defaultAction: 'SCMP_ACT_NOTIFY' }, 'linux.seccomp.defaultAction: SCMP_ACT_NOTIFY cannot be used as default action'],
    [notify(['read', 'write']), 'linux.seccomp.syscalls[0]: SCMP_ACT_NOTIFY cannot be used for the write syscall'],
    [
      { ...profile, syscalls: [], flags: ['SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV'] },
      'linux.seccomp.flags: SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV needs a rule with SCMP_ACT_NOTIFY',
    ],
    [{ ...profile, syscalls: [{ names: ['read'], action: 'SCMP_ACT_ERRNO', errnoRet: 4096, args: [] }] }, 'linux.seccomp.syscalls[0].errnoRet: must be at most 4095, not 4096'],
  ];
  for (const [refused, message] of refusals) assert.throws(() => compileSeccomp(refused, 'x86_64', 'linux.seccomp'), { code: 'invalidArgument', message });
});
