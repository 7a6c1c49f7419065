/**
 * All validation programs of the OCI runtime specification in the guest, with every runtime that its disk carries: `npm run conformance:oci -- --guest`. In: what
 * scripts/conformance-oci.sh brought before the disk was made. Out: the report as the suite's output.
 */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { test } from 'node:test';
import { promisify } from 'node:util';

const main = new URL('../conformance-oci/main.ts', import.meta.url).pathname;

test('every line of every program does what is expected, and what passes with another runtime passes with Berth', async () => {
  const { stdout } = await promisify(execFile)(process.execPath, [main, '--parallel', '4'], { maxBuffer: 64 * 1024 * 1024 }).catch(
    (error: Error & { readonly stdout?: string; readonly stderr?: string }) => assert.fail(`${error.stdout}${error.stderr}`),
  );
  console.log(stdout);
  assert.match(stdout, /^berth: as expected$/m);
});
