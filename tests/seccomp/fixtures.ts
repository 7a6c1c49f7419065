/**
 * What runc made of the corpus: programs as the kernel had them, kept in programs.json. In: the file. Out: profiles with their programs.
 * `tests/integration/seccomp.test.ts` makes some of them again; with the environment variable SECCOMP_FIXTURES=write it writes all of them.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { deflateRawSync, inflateRawSync } from 'node:zlib';
import { decodeSeccomp, formatJson, parseJson } from '#oci';
import type { Profile } from './corpus.ts';

/** A profile with the program that runc installed for it. */
export interface Recorded extends Profile {
  readonly program: Uint8Array;
}

const path = new URL('programs.json', import.meta.url);
const pack = (data: Uint8Array | string): string => deflateRawSync(data, { level: 9 }).toString('base64');
const unpack = (text: string): Buffer => inflateRawSync(Buffer.from(text, 'base64'));

/** All recorded programs. */
export function readRecorded(): readonly Recorded[] {
  // SAFETY: written below.
  const { programs } = JSON.parse(readFileSync(path, 'utf8')) as { readonly programs: Readonly<Record<string, { readonly profile: string; readonly program: string }>> };
  return Object.entries(programs).map(([name, { profile, program }]) => ({
    name,
    seccomp: decodeSeccomp(parseJson(unpack(profile).toString(), name), name),
    program: unpack(program),
  }));
}

/** Replaces the file. `source` says what made the programs. */
export function writeRecorded(source: string, recorded: readonly Recorded[]): void {
  const programs = Object.fromEntries(recorded.map(({ name, seccomp, program }) => [name, { profile: pack(formatJson(seccomp)), program: pack(program) }]));
  writeFileSync(path, `${JSON.stringify({ source, programs }, undefined, 2)}\n`);
}
