/** System call tables by calling convention. In: the data files. Out: maps from name to number. Pure. */
import { arm64Syscalls } from './syscalls.arm64.ts';
import { i386Syscalls } from './syscalls.i386.ts';
import { x32Missing, x32Syscalls } from './syscalls.x32.ts';
import { x8664Syscalls } from './syscalls.x86_64.ts';

/** Calling conventions that seccomp tells apart: by the architecture token and, for x32, by a bit of the number. */
export type Abi = 'x86_64' | 'x32' | 'i386' | 'arm64';

/** Bit that marks a number as x32. Source: asm/unistd.h, __X32_SYSCALL_BIT. */
export const x32Bit = 0x4000_0000;

const words = (text: string): readonly string[] => text.split(/\s+/).filter((word) => word !== '');

function parse(text: string): ReadonlyMap<string, number> {
  const items = words(text);
  return new Map(items.flatMap((name, index) => (index % 2 === 0 ? [[name, Number(items[index + 1])] as const] : [])));
}

const x8664 = parse(x8664Syscalls);
const x32Own = parse(x32Syscalls);
const missing = new Set(words(x32Missing));
const x32 = new Map([...[...x8664].filter(([name]) => !missing.has(name)), ...x32Own].map(([name, number]) => [name, number | x32Bit] as const));

/** Numbers by name; x32 numbers carry their bit. */
export const syscallNumbers: Readonly<Record<Abi, ReadonlyMap<string, number>>> = { x86_64: x8664, x32, i386: parse(i386Syscalls), arm64: parse(arm64Syscalls) };
