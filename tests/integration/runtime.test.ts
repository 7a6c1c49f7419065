/** The runtime against the real kernel: what a container sees, and what the host does not. Needs root, busybox-static and the helper. */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { readFileSync } from 'node:fs';
import { type RuntimeHost, type TestPod, makeSpec, skipReason, startRuntimeHost } from './runtime-host.ts';

const skip = skipReason();

describe('the runtime', { skip }, () => {
  let environment: RuntimeHost;
  let pod: TestPod;
  before(async () => {
    environment = await startRuntimeHost();
    pod = await environment.makePod();
  });
  after(async () => {
    await pod?.[Symbol.asyncDispose]();
    await environment?.[Symbol.asyncDispose]();
  });
  const sh = (script: string): readonly string[] => ['/bin/sh', '-c', script];

  it('runs a process as the init of its own PID namespace in the pod\'s hostname', async () => {
    const { output, waitStatus } = await pod.run('hello', makeSpec(environment.host, { args: sh('echo pid $$; hostname; cat /proc/1/comm') }));
    assert.equal(output, 'pid 1\ntestpod\nsh\n');
    assert.equal(waitStatus, 0);
  });
});
