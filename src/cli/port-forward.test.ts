/** `berth port-forward` over doubles: its arguments, one engine call per connection, and the end of both sides. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { RuntimeError } from '#core';
import type { CliDependencies, CliSignal, ForwardConnection } from './dependencies.ts';
import { podDouble, runDouble, streamsOf } from './doubles.ts';
import { decodeForward } from './port-forward-command.ts';

test('a port alone is the same on both sides, and an empty host port is any free one', () => {
  assert.deepEqual(['80', '8080:80', ':80', '0:80'].map(decodeForward), [
    { hostPort: 80, podPort: 80 },
    { hostPort: 8080, podPort: 80 },
    { hostPort: 0, podPort: 80 },
    { hostPort: 0, podPort: 80 },
  ]);
});

for (const text of ['', '0', '65536', '1:65536', '70000:1', 'http', '1:2:3', '-1', '8080:', '80/tcp']) {
  test(`${JSON.stringify(text)} is refused as a port`, async () => {
    const outcome = await runDouble(['port-forward', 'web', '--', text], { engine: { listPodSandboxes: async () => [podDouble({ name: 'web' })] } });
    assert.equal(outcome.status, 2);
    assert.match(outcome.stderr, /^berth: port ".*" must be \[HOST_PORT:\]PORT with ports from 1 to 65535\n$/);
    assert.ok(!outcome.calls.some((call) => call.startsWith('listen')));
  });
}

/** Runs the command, makes one connection that says `ask`, and interrupts it once that has ended. */
async function connectOnce(
  portForward: () => ReturnType<typeof streamsOf>,
): Promise<{ readonly stdout: string; readonly stderr: string; readonly calls: readonly string[]; readonly heard: string[] }> {
  const heard: string[] = [];
  let deliver: (name: CliSignal) => void = () => undefined;
  const over = Promise.withResolvers<void>();
  const connection: ForwardConnection = {
    async *read() {
      yield Buffer.from('ask');
    },
    write: async (data) => void heard.push(Buffer.from(data).toString()),
    end: async () => {
      heard.push('end');
      over.resolve();
    },
    destroy: () => {
      heard.push('destroy');
      over.resolve();
    },
    isClosed: () => heard.includes('destroy'),
  };
  const listenOnPort: CliDependencies['listenOnPort'] = async ({ address, port }, onConnection) => {
    onConnection(connection);
    void over.promise.then(() => setImmediate(() => deliver('SIGINT')));
    return { address: `${address}:${port}`, close: async () => undefined };
  };
  const pod = podDouble({ name: 'web' });
  const { stdout, stderr, calls } = await runDouble(['port-forward', 'web', '8080:80'], {
    engine: { listPodSandboxes: async () => [pod], portForward: async (id, port) => (assert.deepEqual([id, port], [pod.id, 80]), portForward()) },
    onSignals: (given) => (deliver = given),
    overrides: { listenOnPort },
  });
  return { stdout, stderr, calls, heard };
}

test('a connection carries what both sides say, until the pod’s side ends', async () => {
  const received: string[] = [];
  const { stdout, stderr, heard } = await connectOnce(() => streamsOf([[1, 'answer']], 0, received));
  assert.deepEqual([stdout, stderr], ['127.0.0.1:8080 -> 80\n', '']);
  assert.deepEqual(heard, ['answer', 'end']);
  assert.deepEqual(received.slice(0, 1), ['ask']);
});

test('a connection that nobody answers is cut, with a word on standard error', async () => {
  const { stderr, heard } = await connectOnce(() => {
    throw new RuntimeError('unavailable', 'forward port 80 of pod sandbox p: connection refused: nobody listens at 127.0.0.1 or ::1');
  });
  assert.deepEqual(heard, ['destroy']);
  assert.match(stderr, /^berth: forward port 80 of pod sandbox p: connection refused/);
});
