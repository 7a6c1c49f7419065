/**
 * The filter that a runtime gives a container of some profile, as the kernel has it. In: a runtime's program, a bundle, a profile. Out: an array of struct sock_filter.
 * Needs root, gcc and the runtime.
 */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { type SpecSeccomp, formatJson } from '#oci';

/** Builds the tool that looks; once per directory. */
export function buildTool(directory: string): string {
  const tool = `${directory}/dump_filter`;
  if (!existsSync(tool)) {
    const { status, stderr } = spawnSync('gcc', ['-O1', '-Wall', '-Wextra', '-Werror', '-o', tool, new URL('dump_filter.c', import.meta.url).pathname], { encoding: 'utf8' });
    assert.equal(status, 0, stderr);
  }
  return tool;
}

/** What is needed for a container whose only purpose is its filter. */
export interface FilterPlace {
  readonly tool: string;
  readonly program: string;
  /** Directory for state and output, which is made. */
  readonly directory: string;
  /** With config.json, to which the profile is added. */
  readonly bundle: string;
}

/** Runs a container with the profile; how that ends is not looked at, for a filter may forbid whatever it is about to do. */
export function filterOf(place: FilterPlace, seccomp: SpecSeccomp, id: string): Uint8Array {
  const { tool, program, directory, bundle } = place;
  mkdirSync(directory, { recursive: true });
  const out = `${directory}/${id}.bpf`;
  // SAFETY: the test wrote it.
  const document = JSON.parse(readFileSync(`${bundle}/config.json`, 'utf8')) as { linux: Record<string, unknown> };
  document.linux['seccomp'] = seccomp;
  writeFileSync(`${bundle}/config.json`, formatJson(document));
  const root = ['--root', `${directory}/state`];
  // A container that its own filter keeps from running may also be kept from ending; the filter is there by then.
  const { stderr } = spawnSync('timeout', ['-k', '5', '120', tool, out, program, ...root, 'run', '--bundle', bundle, id], {
    encoding: 'utf8',
    env: { ...process.env, BERTH_OCI_ENGINE: 'none' },
  });
  spawnSync(program, [...root, 'delete', '--force', id], { env: { ...process.env, BERTH_OCI_ENGINE: 'none' } });
  assert(existsSync(out), `no filter: ${stderr}`);
  const bytes = readFileSync(out);
  rmSync(out);
  return bytes;
}
