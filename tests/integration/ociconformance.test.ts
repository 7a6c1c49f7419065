/**
 * The validation programs of the OCI runtime specification against `berth-oci`, every line as tests/conformance-oci/expected.json says. In: what scripts/build-go-tools.sh oci
 * brings. The same with runc and crun beside it is `npm run conformance:oci`.
 */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { test } from 'node:test';
import { promisify } from 'node:util';
import { readFacts } from '../facts.ts';

const main = new URL('../conformance-oci/main.ts', import.meta.url).pathname;
const skip = readFacts()['no-go'] ? 'Go is not installed' : false;

test('every line of every program does what is expected', { skip, timeout: 280_000 }, async () => {
  const { stdout } = await promisify(execFile)(process.execPath, [main, '--runtime', 'berth'], { maxBuffer: 64 * 1024 * 1024 }).catch(
    (error: Error & { readonly stdout?: string; readonly stderr?: string }) => assert.fail(`${error.stdout}${error.stderr}`),
  );
  assert.match(stdout, /^berth +\d+ of 58 programs and [1-9]\d{3,} of \d+ lines pass/m);
  assert.match(stdout, /^berth: as expected$/m);
});
