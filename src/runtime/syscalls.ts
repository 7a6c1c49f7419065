/** System call tables by calling convention. In: the data files. Out: maps from name to number. Pure. */
import { armSyscalls } from './syscalls.arm.ts';
import { arm64Syscalls } from './syscalls.arm64.ts';
import { i386Syscalls } from './syscalls.i386.ts';
import { x32Missing, x32Syscalls } from './syscalls.x32.ts';
import { x8664Syscalls } from './syscalls.x86_64.ts';

/** Calling conventions that seccomp tells apart: by the architecture token and, for x32, by a bit of the number. */
export type Abi = 'x86_64' | 'x32' | 'i386' | 'arm64' | 'arm';

/** Bit that marks a number as x32. Source: asm/unistd.h, __X32_SYSCALL_BIT. */
export const x32Bit = 0x4000_0000;

const words = (text: string): readonly string[] => text.split(/\s+/).filter((word) => word !== '');

function parse(text: string): ReadonlyMap<string, number> {
  const items = words(text);
  return new Map(items.flatMap((name, index) => (index % 2 === 0 ? [[name, Number(items[index + 1])] as const] : [])));
}

function parseX32(): ReadonlyMap<string, number> {
  const missing = new Set(words(x32Missing));
  const shared = [...syscallNumbers.x86_64].filter(([name]) => !missing.has(name));
  return new Map([...shared, ...parse(x32Syscalls)].map(([name, number]) => [name, number | x32Bit] as const));
}

const parsed = new Map<Abi, ReadonlyMap<string, number>>();

/** A table is read when somebody first looks at it: most commands of the OCI runtime never do, and they are short. */
function tableOf(abi: Abi, read: () => ReadonlyMap<string, number>): ReadonlyMap<string, number> {
  const table = parsed.get(abi) ?? read();
  parsed.set(abi, table);
  return table;
}

/** Numbers by name; x32 numbers carry their bit. */
export const syscallNumbers: Readonly<Record<Abi, ReadonlyMap<string, number>>> = {
  get x86_64() {
    return tableOf('x86_64', () => parse(x8664Syscalls));
  },
  get x32() {
    return tableOf('x32', parseX32);
  },
  get i386() {
    return tableOf('i386', () => parse(i386Syscalls));
  },
  get arm64() {
    return tableOf('arm64', () => parse(arm64Syscalls));
  },
  get arm() {
    return tableOf('arm', () => parse(armSyscalls));
  },
};

/** Ways of i386 to a call besides a number of its own: socketcall(2) and ipc(2), which are told by their first argument what to do. */
export const i386Multiplexed: ReadonlyMap<string, { readonly number: number; readonly selector: bigint }> = new Map<string, { readonly number: number; readonly selector: bigint }>(
  [
    // Source: linux/net.h, SYS_SOCKET to SYS_SENDMMSG.
    ...words(
      'socket bind connect listen accept getsockname getpeername socketpair send recv sendto recvfrom shutdown setsockopt getsockopt sendmsg recvmsg accept4 recvmmsg sendmmsg',
    ).map((name, index) => [name, { number: 102, selector: BigInt(index + 1) }] as const),
    // Source: linux/ipc.h.
    ...[...parse('semop 1 semget 2 semctl 3 semtimedop 4 msgsnd 11 msgrcv 12 msgget 13 msgctl 14 shmat 21 shmdt 22 shmget 23 shmctl 24')].map(
      ([name, selector]) => [name, { number: 117, selector: BigInt(selector) }] as const,
    ),
  ],
);
