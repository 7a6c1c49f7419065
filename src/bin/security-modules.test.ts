/** When the default AppArmor profile is loaded: on need, once for all who ask together, again where it has gone or could not be loaded. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { ToolRequest, ToolResult } from '#system';
import { defaultProfileLoader } from './security-modules.ts';

const name = 'berth-default';

/** A node whose compiler ends as told; a success leaves the profile loaded. */
class Node {
  isLoaded = false;
  compiler: string | undefined = '/sbin/apparmor_parser';
  exitCode = 0;
  readonly runs: ToolRequest[] = [];
  readonly reports: unknown[] = [];
  readonly load = defaultProfileLoader(
    {
      runTool: async (request): Promise<ToolResult> => {
        this.runs.push(request);
        this.isLoaded ||= this.exitCode === 0;
        return { exitCode: this.exitCode, signal: 0, timedOut: false, stdoutTruncated: false, stderrTruncated: false, stdout: Buffer.alloc(0), stderr: Buffer.from('no\n') };
      },
    },
    (error) => void this.reports.push(error),
    { isLoaded: async (wanted) => wanted === name && this.isLoaded, findCompiler: async () => this.compiler },
  );
}

test('the default profile is compiled once for everyone who needs it, and not where the kernel has it', async () => {
  const node = new Node();
  assert.deepEqual(await Promise.all([node.load(), node.load()]), [name, name]);
  assert.equal(await node.load(), name);
  assert.equal(node.runs.length, 1);
  assert.match(Buffer.from(node.runs[0]?.stdin ?? []).toString(), /^profile berth-default /);
});

test('a profile that was unloaded meanwhile is loaded again', async () => {
  const node = new Node();
  await node.load();
  node.isLoaded = false;
  assert.equal(await node.load(), name);
  assert.equal(node.runs.length, 2);
});

test('a failure is told, gives no profile, and does not last', async () => {
  const node = new Node();
  node.exitCode = 1;
  assert.equal(await node.load(), undefined);
  assert.deepEqual(node.reports.map(String), ['Error: load AppArmor profile berth-default: /sbin/apparmor_parser ended with 1: no']);
  node.exitCode = 0;
  assert.equal(await node.load(), name);
  node.isLoaded = false;
  node.compiler = undefined;
  assert.equal(await node.load(), undefined);
  assert.equal(node.reports.length, 1);
});
