/**
 * The first look: an image from this machine's own node, a pod of two containers from start to exit, nothing left behind.
 * In: nothing. Out: what each command prints, a comparison of the host before and after, exit status 0 only if all went well.
 */
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { compareLedger, readLedger, type LedgerKind } from '../tests/ledger.ts';

process.chdir(fileURLToPath(new URL('..', import.meta.url)));

const problems: string[] = [];

/** Prints the command as one would type it and runs it; a failure is noted and the rest still goes on. */
function run(args: readonly string[], options: { readonly quiet: boolean } = { quiet: false }): string {
  if (!options.quiet) console.log(`\n$ bin/berth ${args.join(' ')}`);
  const { status, signal, stdout, error } = spawnSync('bin/berth', args, { stdio: ['ignore', options.quiet ? 'pipe' : 'inherit', 'inherit'], encoding: 'utf8' });
  if (status !== 0) problems.push(`berth ${args[0]}: ${error?.message ?? (signal === null ? `exit status ${status}` : `killed by ${signal}`)}`);
  return stdout ?? '';
}

const before = await readLedger('berth');
run(['image', 'from-host', 'localhost/hello-node:latest', process.execPath]);
run(['run', '--rm', 'examples/hello.yaml']);
run(['ps', '-a']);
const left = run(['ps', '-a', '--output', 'json'], { quiet: true }).trim();
if (!/^(\[\s*\]|)$/.test(left)) problems.push('berth ps -a: is not empty');

const differences = await compareLedger(before, 'berth', { settleMs: 5000 });
const words: Readonly<Record<LedgerKind, string>> = {
  process: 'processes',
  mount: 'mounts',
  netns: 'network namespaces',
  link: 'links',
  cgroup: 'cgroups',
  rule: 'packet filter rules',
  file: 'files in /run and /tmp',
};
const compared = [...before.keys()].map((kind) => words[kind]).join(', ');
const missing = before.has('rule') ? '' : ' (rules not compared: nft is not installed)';
console.log(`\nhost before and after: ${differences.length === 0 ? `no difference in ${compared}${missing}` : differences.join('; ')}`);
problems.push(...differences);
if (problems.length > 0) console.error(`start: ${problems.join('; ')}`);
process.exit(problems.length > 0 ? 1 : 0);
