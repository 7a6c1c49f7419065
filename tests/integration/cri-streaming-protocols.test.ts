/** Every protocol of the streaming server, with clients that speak each one: which streams there are, and how an end is told. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { WebSocket } from 'ws';
import { systemClock } from '#system';
import { type StreamBackend, type StreamTarget, type StreamingServer, startStreamingServer } from '#streaming';
import { initialWindowSetting } from '../../src/streaming/spdy-frames.ts';
import { FakeProcess, SpdyClient, echoProcess, fakeBackend, idleProcess, request, spdyRequest, until } from './stream-clients.ts';

const exec = { kind: 'exec', containerId: 'c', command: ['x'], stdin: true, stdout: true, stderr: true, tty: false } as const satisfies StreamTarget;
const terminal = { ...exec, stderr: false, tty: true } as const;
const ports = { kind: 'portForward', podSandboxId: 'p', ports: [] } as const;

async function withServer(backend: StreamBackend, body: (server: StreamingServer) => Promise<void>): Promise<void> {
  const server = await startStreamingServer({ address: '127.0.0.1', port: 0, idleTimeoutMs: 3_600_000, creationTimeoutMs: 60_000, backend, clock: systemClock });
  try {
    await body(server);
  } finally {
    await server.close();
  }
}

const nonZero = {
  metadata: {},
  status: 'Failure',
  message: 'command terminated with non-zero exit code: exit status 7',
  reason: 'NonZeroExitCode',
  details: { causes: [{ reason: 'ExitCode', message: '7' }] },
};

describe('remote commands over SPDY', () => {
  const versions = [
    { offered: ['v4.channel.k8s.io', 'v3.channel.k8s.io'], chosen: 'v4.channel.k8s.io', resize: true },
    { offered: ['v9.channel.k8s.io', 'v3.channel.k8s.io'], chosen: 'v3.channel.k8s.io', resize: true },
    { offered: ['v2.channel.k8s.io, channel.k8s.io'], chosen: 'v2.channel.k8s.io', resize: false },
    { offered: ['channel.k8s.io'], chosen: 'channel.k8s.io', resize: false },
    { offered: [], chosen: undefined, resize: false },
  ] as const;
  for (const { offered, chosen, resize } of versions) {
    test(`${chosen ?? 'a client that names no protocol'} carries streams, the end of input and the exit code`, async () => {
      const backend = fakeBackend(echoProcess);
      await withServer(backend, async (server) => {
        const client = await SpdyClient.open(server.url(exec), offered);
        assert.equal(client.protocol, chosen);
        const [error, stdin, stdout, stderr] = ['error', 'stdin', 'stdout', 'stderr'].map((streamtype) => client.stream({ streamtype }));
        assert.ok(error && stdin && stdout && stderr);
        client.write(stdin, 'hello');
        client.write(stdin, ' there', true);
        await until('the end', () => client.isClosed);
        assert.equal(stdout.text, 'out hello there');
        assert.equal(stderr.text, 'err hello there');
        if (chosen === 'v4.channel.k8s.io') assert.deepEqual(JSON.parse(error.text), nonZero);
        else assert.equal(error.text, 'command terminated with non-zero exit code: exit status 7');
        assert.ok([error, stdout, stderr].every((stream) => stream.isReplied && stream.isEnded && stream.resetStatus === undefined));
        assert.ok(client.frames.some((frame) => frame.kind === 'goAway' && frame.status === 0));
        assert.ok(backend.processes.every((process) => process.isClosed));
      });
    });

    test(`a terminal over ${chosen ?? 'no protocol'} ${resize ? 'is resized' : 'needs no stream for its size'}`, async () => {
      const backend = fakeBackend(idleProcess);
      await withServer(backend, async (server) => {
        const client = await SpdyClient.open(server.url(terminal), offered);
        for (const streamtype of ['error', 'stdin', 'stdout']) client.stream({ streamtype });
        if (resize) {
          const size = client.stream({ streamtype: 'resize' });
          client.write(size, '{"Width":100,"Hei');
          client.write(size, 'ght":40}\n');
        }
        await until('the process', () => backend.processes.length === 1);
        if (resize) await until('the size', () => backend.processes[0]?.sizes.length === 1);
        assert.deepEqual(backend.processes[0]?.sizes, resize ? [{ columns: 100, rows: 40 }] : []);
        client.socket.destroy();
        await until('the end of the process', () => backend.processes[0]?.isClosed === true);
      });
    });
  }

  test('a failure to begin is an internal error that says why', async () => {
    const backend: StreamBackend = { ...fakeBackend(idleProcess), exec: async () => Promise.reject(new Error('no such container')) };
    await withServer(backend, async (server) => {
      const client = await SpdyClient.open(server.url({ ...exec, stdin: false, stderr: false }), ['v4.channel.k8s.io']);
      const [error] = [client.stream({ streamtype: 'error' }), client.stream({ streamtype: 'stdout' })];
      await until('the end', () => client.isClosed);
      const status: unknown = JSON.parse(error.text);
      const message = 'error executing command in container: no such container';
      assert.deepEqual(status, { metadata: {}, status: 'Failure', message, reason: 'InternalError', details: { causes: [{ message }] }, code: 500 });
    });
  });

  test('a peer that speaks of windows gets no more than they allow, and is told of what was taken', async () => {
    const bytes = Buffer.alloc(300_000, 'w');
    const backend = fakeBackend(
      () =>
        new FakeProcess(async function* (process) {
          yield { stream: 1, data: bytes };
          await until('the end of input', () => process.isInputEnded);
        }),
    );
    await withServer(backend, async (server) => {
      const client = await SpdyClient.open(server.url({ ...exec, stderr: false }), ['v4.channel.k8s.io']);
      client.send({ kind: 'settings', values: new Map([[initialWindowSetting, 1000]]) });
      const [, stdin, stdout] = ['error', 'stdin', 'stdout'].map((streamtype) => client.stream({ streamtype }));
      assert.ok(stdin && stdout);
      await until('the first window', () => stdout.byteCount === 1000);
      client.send({ kind: 'windowUpdate', id: stdout.id, delta: 1_000_000 });
      // The window of the connection has 64 KiB less what was sent.
      await until('the connection’s window', () => stdout.byteCount === 65_536);
      client.send({ kind: 'windowUpdate', id: 0, delta: 1_000_000 });
      await until('the rest', () => stdout.byteCount === bytes.length);
      client.write(stdin, Buffer.alloc(100_000, 'x'));
      await until('word of what was taken', () => client.frames.some((frame) => frame.kind === 'windowUpdate' && frame.id === stdin.id));
      assert.ok(client.frames.some((frame) => frame.kind === 'windowUpdate' && frame.id === 0));
      client.write(stdin, '', true);
      await until('the end', () => client.isClosed);
      assert.equal(backend.processes[0]?.input.length, 100_000);
    });
  });

  test('pings of the client are answered, others are not', async () => {
    await withServer(fakeBackend(idleProcess), async (server) => {
      const client = await SpdyClient.open(server.url(ports), ['portforward.k8s.io']);
      client.send({ kind: 'ping', id: 2 });
      client.send({ kind: 'ping', id: 5 });
      await until('the answer', () => client.frames.length > 0);
      assert.deepEqual(client.frames, [{ kind: 'ping', id: 5 }]);
      client.socket.destroy();
    });
  });
});

describe('remote commands over WebSocket', () => {
  const versions = [
    { name: 'v5.channel.k8s.io', base64: false, object: true },
    { name: 'v4.channel.k8s.io', base64: false, object: true },
    { name: 'v4.base64.channel.k8s.io', base64: true, object: true },
    { name: 'channel.k8s.io', base64: false, object: false },
    { name: 'base64.channel.k8s.io', base64: true, object: false },
    { name: '', base64: false, object: false },
  ] as const;
  for (const { name, base64, object } of versions) {
    test(`${name === '' ? 'a client that names no protocol' : name} carries streams and the exit code`, async () => {
      const backend = fakeBackend(
        () =>
          new FakeProcess(
            async function* (process) {
              await until('input', () => process.input === 'hello');
              yield { stream: 1, data: Buffer.from('out hello') };
              yield { stream: 2, data: Buffer.from('err hello') };
              if (name === 'v5.channel.k8s.io') await until('the end of input', () => process.isInputEnded);
            },
            () => 7,
          ),
      );
      await withServer(backend, async (server) => {
        const client = new WebSocket(server.url(exec), name === '' ? [] : [name]);
        const channels: Record<number, string> = {};
        client.on('message', (data, isBinary) => {
          assert.equal(isBinary, !base64);
          const bytes = data as Buffer;
          const number = (bytes[0] ?? 0) - (base64 ? 48 : 0);
          channels[number] = (channels[number] ?? '') + (base64 ? Buffer.from(bytes.toString('latin1', 1), 'base64') : bytes.subarray(1)).toString();
        });
        let code: number | undefined;
        client.once('close', (closeCode) => (code = closeCode));
        // An empty message on the first channel says that all is ready.
        await until('the first message', () => channels[1] === '');
        assert.equal(client.protocol, name);
        const send = (channel: number, text: string): void =>
          client.send(base64 ? `${channel}${Buffer.from(text).toString('base64')}` : Buffer.concat([Buffer.of(channel), Buffer.from(text)]));
        send(0, 'hel');
        send(0, 'lo');
        await until('output', () => channels[1] === 'out hello');
        if (name === 'v5.channel.k8s.io') client.send(Buffer.of(255, 0));
        await until('the end', () => code !== undefined);
        assert.equal(code, 1000);
        assert.equal(channels[2], 'err hello');
        if (object) assert.deepEqual(JSON.parse(channels[3] ?? ''), nonZero);
        else assert.equal(channels[3], 'command terminated with non-zero exit code: exit status 7');
      });
    });
  }

  test('the size of a terminal comes on its own channel', async () => {
    const backend = fakeBackend(idleProcess);
    await withServer(backend, async (server) => {
      const client = new WebSocket(server.url(terminal), ['v4.channel.k8s.io']);
      client.once('open', () => client.send(Buffer.concat([Buffer.of(4), Buffer.from('{"Width":90,"Height":20}')])));
      await until('the size', () => backend.processes[0]?.sizes.length === 1);
      assert.deepEqual(backend.processes[0]?.sizes, [{ columns: 90, rows: 20 }]);
      client.terminate();
      await until('the end of the process', () => backend.processes[0]?.isClosed === true);
    });
  });
});

describe('forwarded ports', () => {
  const upper = (): FakeProcess =>
    new FakeProcess(async function* (process) {
      await until('the end of input', () => process.isInputEnded || process.isClosed);
      yield { stream: 1, data: Buffer.from(process.input.toUpperCase()) };
    });

  test('connections over SPDY are pairs of streams, whichever comes first', async () => {
    const backend = fakeBackend(upper);
    await withServer(backend, async (server) => {
      const client = await SpdyClient.open(server.url(ports), ['portforward.k8s.io']);
      assert.equal(client.protocol, 'portforward.k8s.io');
      const first = client.stream({ streamtype: 'data', port: '80', requestid: '0' });
      const other = client.stream({ streamtype: 'error', port: '81', requestid: '1' });
      const second = client.stream({ streamtype: 'data', port: '81', requestid: '1' });
      const error = client.stream({ streamtype: 'error', port: '80', requestid: '0' });
      // Old clients name no request: the error stream comes right before the data stream.
      client.stream({ streamtype: 'error', port: '82' });
      const third = client.stream({ streamtype: 'data', port: '82' });
      for (const [index, stream] of [first, second, third].entries()) client.write(stream, `text ${index}`, true);
      await until('the ends', () => [first, second, third, error, other].every((stream) => stream.isEnded));
      assert.deepEqual([first.text, second.text, third.text, error.text], ['TEXT 0', 'TEXT 1', 'TEXT 2', '']);
      assert.deepEqual(new Set(backend.ports), new Set([80, 81, 82]));
      client.socket.destroy();
    });
  });

  test('a WebSocket has two channels per port, which say their port first', async () => {
    const backend = fakeBackend(
      () =>
        new FakeProcess(async function* (process) {
          await until('input', () => process.input.length === 2);
          yield { stream: 1, data: Buffer.from(process.input.toUpperCase()) };
        }),
    );
    await withServer(backend, async (server) => {
      const client = new WebSocket(`${server.url(ports)}?port=80,81&port=8080`, ['v4.channel.k8s.io']);
      const channels: string[] = [];
      client.on('message', (data) => {
        const bytes = data as Buffer;
        channels[bytes[0] ?? 0] = (channels[bytes[0] ?? 0] ?? '') + bytes.toString('latin1', 1);
      });
      await until('the ports', () => channels.length === 6);
      for (const channel of [0, 2, 4]) client.send(Buffer.concat([Buffer.of(channel), Buffer.from(`x${channel}`)]));
      let isClosed = false;
      client.once('close', () => (isClosed = true));
      await until('the end', () => isClosed);
      assert.deepEqual(channels, ['P\0X0', 'P\0', 'Q\0X2', 'Q\0', '\x90\x1fX4', '\x90\x1f']);
      assert.deepEqual(backend.ports, [80, 81, 8080]);
    });
  });

  test('a port that cannot be reached is told on its error stream alone', async () => {
    let calls = 0;
    const backend: StreamBackend = {
      ...fakeBackend(idleProcess),
      portForward: async () => {
        calls += 1;
        if (calls === 1) throw new Error('connection refused');
        return upper();
      },
    };
    await withServer(backend, async (server) => {
      const client = await SpdyClient.open(server.url(ports), ['portforward.k8s.io']);
      const pairs = ['0', '1'].map((requestid) => ({
        error: client.stream({ streamtype: 'error', port: '80', requestid }),
        data: client.stream({ streamtype: 'data', port: '80', requestid }),
      }));
      const [bad, good] = pairs;
      assert.ok(bad && good);
      client.write(good.data, 'go on', true);
      await until('both ends', () => bad.error.isEnded && good.data.isEnded);
      assert.equal(bad.error.text, 'error forwarding port 80 to pod p: connection refused');
      assert.equal(bad.data.resetStatus, 5);
      assert.equal(good.data.text, 'GO ON');
      client.socket.destroy();
    });
  });

  test('an offer without a served protocol is refused with those that are', async () => {
    await withServer(fakeBackend(idleProcess), async (server) => {
      const url = server.url(ports);
      const { answer, socket } = await request(url, spdyRequest(url, ['v4.channel.k8s.io']));
      socket.destroy();
      assert.equal(answer.status, 403);
      assert.match(answer.head, /X-Accepted-Stream-Protocol-Versions: portforward\.k8s\.io/);
    });
  });
});
