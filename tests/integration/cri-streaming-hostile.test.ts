/** Clients that want to hurt the streaming server: each gets a refusal or loses its connection, costs a bounded amount, and takes only its own process along. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { constants, deflateRawSync } from 'node:zlib';
import { WebSocket } from 'ws';
import { limits } from '#core';
import type { StreamTarget } from '#streaming';
import { systemClock } from '#system';
import { encodeFrame } from '../../src/streaming/spdy-frames.ts';
import { type ClientStream, SpdyClient, execTarget as exec, openExec, openStreamHost as open, request, spdyRequest, until, v4 } from './stream-clients.ts';

const ports = { kind: 'portForward', podSandboxId: 'p', ports: [] } as const;

async function statusOf(url: string, lines: readonly string[]): Promise<{ readonly status: number; readonly text: string }> {
  const { socket, answer } = await request(url, lines);
  let text = '';
  for await (const piece of socket.setEncoding('utf8')) text += String(piece);
  return { status: answer.status, text };
}

describe('URLs', () => {
  const plain = (url: string, method: string): readonly string[] => [`${method} ${new URL(url).pathname} HTTP/1.1`, 'Host: x', 'Connection: close'];

  test('a URL works once, for its own kind, and by its whole token', async () => {
    await using host = await open();
    const used = host.server.url(exec);
    (await SpdyClient.open(used, v4)).socket.destroy();
    const burnt = host.server.url(exec);
    const { origin, pathname } = new URL(burnt);
    const [, , token = ''] = pathname.split('/');
    const guesses = [
      used,
      `${origin}/attach/${token}`,
      burnt,
      `${origin}/exec/`,
      `${origin}/exec`,
      `${origin}/`,
      `${origin}/exec/${'A'.repeat(22)}`,
      `${host.server.url(exec)}/more`,
      `${origin}/exec/${'%41'.repeat(22)}`,
      `${origin}//exec/${token}`,
      `${origin}/EXEC/${token}`,
      `${origin}/exec/../exec/${token}`,
    ];
    for (const url of guesses) {
      const raw = `POST ${url.slice(origin.length) || '/'} HTTP/1.1`;
      const answer = await statusOf(url, [raw, ...spdyRequest(url, v4).slice(1)]);
      assert.deepEqual(answer, { status: 404, text: 'no such stream\n' }, url);
    }
    assert.equal(host.processes.length, 0);
  });

  test('tokens have 128 random bits and stand in no answer and no log', async () => {
    await using host = await open();
    const tokens = new Set(Array.from({ length: 200 }, () => host.server.url(exec).split('/').at(-1)));
    assert.equal(tokens.size, 200);
    for (const token of tokens) assert.equal(Buffer.from(token ?? '', 'base64url').length, 16);
    const url = host.server.url(exec);
    const { socket, answer } = await request(url, spdyRequest(url, ['nonsense']));
    let said = answer.head;
    for await (const piece of socket.setEncoding('utf8')) said += String(piece);
    assert.equal(answer.status, 403);
    assert.ok(![said, ...host.log].join('\n').includes(url.split('/').at(-1) ?? ''));
  });

  test('a URL that nobody used within its time is worth nothing, and too many of them are refused', async () => {
    let skippedMs = 0;
    await using host = await open({ clock: { ...systemClock, monotonicMs: () => systemClock.monotonicMs() + skippedMs } });
    const old = host.server.url(exec);
    skippedMs = limits.streamTokenAgeMsMax + 1;
    assert.equal((await statusOf(old, spdyRequest(old, v4))).status, 404);
    for (let count = 0; count < limits.streamTokensMax; count += 1) host.server.url(exec);
    assert.throws(() => host.server.url(exec), { code: 'resourceExhausted', message: /1000 wait to be used/ });
    skippedMs += limits.streamTokenAgeMsMax + 1;
    assert.match(host.server.url(exec), /^http:\/\/127\.0\.0\.1:\d+\/exec\//);
  });

  test('other methods, requests without an upgrade and heads without an end are refused', async () => {
    await using host = await open();
    for (const method of ['PUT', 'DELETE', 'OPTIONS', 'HEAD']) {
      const url = host.server.url(exec);
      assert.equal((await statusOf(url, spdyRequest(url, v4, method))).status, 404, method);
      assert.equal((await statusOf(url, plain(url, method))).status, 404, method);
    }
    for (const method of ['GET', 'POST']) {
      const url = host.server.url(exec);
      assert.equal((await statusOf(url, plain(url, method))).status, 400, method);
      // That used it up.
      assert.equal((await statusOf(url, spdyRequest(url, v4))).status, 404, method);
      const other = host.server.url(exec);
      assert.equal(
        (
          await statusOf(
            other,
            [...spdyRequest(other, v4)].map((line) => line.replace('SPDY/3.1', 'h2c')),
          )
        ).status,
        400,
        method,
      );
    }
    const url = host.server.url(exec);
    await assert.rejects(request(url, [...spdyRequest(url, v4), `X-Long: ${'x'.repeat(limits.streamRequestBytesMax)}`]), /ended before an answer/);
    assert.equal(host.processes.length, 0);
  });
});

describe('frames', () => {
  const hostile: readonly { readonly name: string; readonly bytes: () => Buffer }[] = [
    { name: 'another version', bytes: () => Buffer.from([0x80, 0x02, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1]) },
    { name: 'a control frame that is too long', bytes: () => Buffer.from([0x80, 0x03, 0, 1, 0, 0xff, 0xff, 0xff]) },
    { name: 'a ping of the wrong length', bytes: () => Buffer.from([0x80, 0x03, 0, 6, 0, 0, 0, 5, 0, 0, 0, 1, 0]) },
    { name: 'settings that claim more than there are', bytes: () => Buffer.from([0x80, 0x03, 0, 4, 0, 0, 0, 4, 0xff, 0xff, 0xff, 0xff]) },
    { name: 'an answer to nothing', bytes: () => encodeFrame({ kind: 'synReply', id: 2, headers: Buffer.alloc(0), fin: false }) },
    { name: 'headers that are not compressed', bytes: () => encodeFrame({ kind: 'headers', id: 1, headers: Buffer.from('streamtype: stdin'), fin: false }) },
    { name: 'a stream with an id of the server', bytes: () => encodeFrame({ kind: 'synStream', id: 8, headers: emptyBlock(), fin: false, unidirectional: false }) },
    { name: 'a stream with an id that was used', bytes: () => encodeFrame({ kind: 'synStream', id: 1, headers: emptyBlock(), fin: false, unidirectional: false }) },
    { name: 'a window of more than 2 GiB', bytes: () => encodeFrame({ kind: 'windowUpdate', id: 0, delta: 0x7fff_ffff }) },
    {
      name: 'headers that inflate to 100 MiB',
      bytes: () => encodeFrame({ kind: 'headers', id: 1, headers: deflateRawSync(Buffer.alloc(50 * 1024 * 1024), { finishFlush: constants.Z_SYNC_FLUSH }), fin: false }),
    },
    { name: 'headers that claim four billion names', bytes: () => encodeFrame({ kind: 'headers', id: 1, headers: block(Buffer.from([0xff, 0xff, 0xff, 0xff])), fin: false }) },
    {
      name: 'a name as long as four billion bytes',
      bytes: () => encodeFrame({ kind: 'headers', id: 1, headers: block(Buffer.from([0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff])), fin: false }),
    },
    { name: 'a name in upper case', bytes: () => encodeFrame({ kind: 'headers', id: 1, headers: block(Buffer.from([0, 0, 0, 1, 0, 0, 0, 1, 0x41, 0, 0, 0, 0])), fin: false }) },
  ];

  /** A compressed block that refers to nothing before it, so it follows any other. */
  function block(bytes: Buffer): Buffer {
    return deflateRawSync(bytes, { finishFlush: constants.Z_SYNC_FLUSH });
  }
  function emptyBlock(): Buffer {
    return block(Buffer.alloc(4));
  }

  for (const { name, bytes } of hostile) {
    test(`${name}: the connection ends, and its process alone`, async () => {
      await using host = await open();
      const other = await openExec(host);
      const { client } = await openExec(host);
      client.socket.write(bytes());
      await until('the end of the connection', () => client.isClosed);
      assert.ok(client.frames.some((frame) => frame.kind === 'goAway' && frame.status === 1));
      await until('the end of the process', () => host.processes[1]?.isClosed === true);
      assert.equal(host.processes[0]?.isClosed, false);
      await until('a line in the log', () => /decode SPDY/.test(host.log.join()));
      other.client.socket.destroy();
    });
  }

  test('frames of unknown types, data for no stream and word of unknown streams are passed over', async () => {
    await using host = await open();
    const { client, stdin } = await openExec(host);
    for (const type of [0, 5, 10, 99]) client.socket.write(Buffer.from([0x80, 0x03, 0, type, 0, 0, 0, 4, 1, 2, 3, 4]));
    client.send({ kind: 'data', id: 77, bytes: Buffer.from('for nobody'), fin: true });
    client.send({ kind: 'rstStream', id: 77, status: 5 });
    client.send({ kind: 'windowUpdate', id: 77, delta: 5 });
    client.send({ kind: 'goAway', lastId: 0, status: 0 });
    client.write(stdin, 'still here', true);
    await until('the input', () => host.processes[0]?.isInputEnded === true);
    assert.equal(host.processes[0]?.input, 'still here');
    client.socket.destroy();
  });

  test('streams that do not belong to the request are given up, one by one', async () => {
    await using host = await open();
    const { client } = await openExec(host);
    const wrong = [{}, { streamtype: 'stdin' }, { streamtype: 'stderr' }, { streamtype: 'constructor' }, { streamtype: '__proto__' }].map((headers) => client.stream(headers));
    await until('the resets', () => wrong.every((stream) => stream.resetStatus !== undefined));
    assert.equal(host.processes.length, 1);
    client.socket.destroy();
  });

  test('more streams than there may be are refused', async () => {
    await using host = await open();
    const client = await SpdyClient.open(host.server.url(ports), ['portforward.k8s.io']);
    const streams = Array.from({ length: limits.spdyStreamsMax + 5 }, (_, index) => client.stream({ streamtype: 'data', port: '80', requestid: String(index) }));
    await until('the refusals', () => streams.filter((stream) => stream.resetStatus === 3).length === 5);
    assert.equal(streams.filter((stream) => stream.isReplied).length, limits.spdyStreamsMax);
    client.socket.destroy();
  });

  test('ports that are none and halves without their other half are given up', async () => {
    await using host = await open({ creationTimeoutMs: 50 });
    const client = await SpdyClient.open(host.server.url(ports), ['portforward.k8s.io']);
    const wrong = ['0', '65536', '-1', '80x', '', '999999999999'].map((port) => client.stream({ streamtype: 'data', port, requestid: 'a' }));
    await until('the resets', () => wrong.every((stream) => stream.resetStatus === 5));
    const half = client.stream({ streamtype: 'data', port: '80', requestid: 'b' });
    await until('the half to be given up', () => half.resetStatus === 5);
    assert.equal(host.processes.length, 0);
    client.socket.destroy();
  });

  test('halves that are opened and given up without end are refused', async () => {
    await using host = await open();
    const client = await SpdyClient.open(host.server.url(ports), ['portforward.k8s.io']);
    const openAndGiveUp = (index: number): ClientStream => {
      const stream = client.stream({ streamtype: 'data', port: '80', requestid: String(index) });
      client.send({ kind: 'rstStream', id: stream.id, status: 5 });
      return stream;
    };
    const streams = Array.from({ length: limits.spdyStreamsMax + 5 }, (_, index) => openAndGiveUp(index));
    await until('the refusals', () => streams.filter((stream) => stream.resetStatus === 5).length === 5);
    client.socket.destroy();
  });

  test('a client that asks for answers and never reads them loses its connection', async () => {
    await using host = await open();
    const url = host.server.url(ports);
    const { socket } = await request(url, spdyRequest(url, ['portforward.k8s.io']));
    socket.pause();
    const pings = Buffer.concat(Array.from({ length: 20_000 }, () => encodeFrame({ kind: 'ping', id: 1 })));
    let sentBytes = 0;
    while (!socket.destroyed && sentBytes < 128 * 1024 * 1024) {
      sentBytes += pings.length;
      if (!socket.write(pings)) await Promise.race([new Promise((resolve) => socket.once('drain', resolve)), new Promise((resolve) => socket.once('close', resolve))]);
    }
    assert.ok(socket.destroyed, `it took ${sentBytes} bytes`);
  });
});

describe('time', () => {
  test('a client that does not open its streams is cut off', async () => {
    await using host = await open({ creationTimeoutMs: 100 });
    const client = await SpdyClient.open(host.server.url(exec), v4);
    client.stream({ streamtype: 'stdin' });
    await until('the end of the connection', () => client.isClosed);
    assert.equal(host.processes.length, 0);
  });

  for (const carrier of ['SPDY', 'WebSocket'] as const) {
    test(`a connection over ${carrier} on which nothing happens is cut, and its exec ends`, async () => {
      await using host = await open({ idleTimeoutMs: 200 });
      let isClosed = (): boolean => false;
      if (carrier === 'SPDY') {
        const { client } = await openExec(host);
        isClosed = () => client.isClosed;
      } else {
        const client = new WebSocket(host.server.url(exec), v4);
        client.on('error', () => undefined);
        isClosed = () => client.readyState === client.CLOSED;
      }
      await until('the end of the connection', isClosed);
      await until('the end of the process', () => host.processes[0]?.isClosed === true);
    });
  }

  test('the end of the server cuts every connection', async () => {
    const host = await open();
    const { client } = await openExec(host);
    const socket = new WebSocket(host.server.url(exec), v4);
    socket.on('error', () => undefined);
    await until('the second process', () => host.processes.length === 2);
    await host.server.close();
    await until('the ends', () => client.isClosed && socket.readyState === socket.CLOSED && host.processes.every((process) => process.isClosed));
  });
});

describe('WebSocket messages', () => {
  function webSocketRequest(url: string, protocol: string): readonly string[] {
    const { pathname, search } = new URL(url);
    const key = `Sec-WebSocket-Key: ${Buffer.alloc(16).toString('base64')}`;
    return [`GET ${pathname}${search} HTTP/1.1`, 'Host: x', 'Connection: Upgrade', 'Upgrade: websocket', 'Sec-WebSocket-Version: 13', key, `Sec-WebSocket-Protocol: ${protocol}`];
  }

  async function closeCode(target: StreamTarget, protocol: string, message: Buffer | string): Promise<number | undefined> {
    await using host = await open();
    const client = new WebSocket(host.server.url(target), [protocol]);
    let code: number | undefined;
    client.on('error', () => undefined);
    client.once('close', (closed) => (code = closed));
    client.once('open', () => client.send(message));
    await until('the end', () => code !== undefined);
    await until('the end of the process', () => host.processes.every((process) => process.isClosed));
    return code;
  }

  test('a message that is too long, a close signal for no channel and bytes where text belongs end the connection', async () => {
    assert.equal(await closeCode(exec, 'v5.channel.k8s.io', Buffer.alloc(limits.streamMessageBytesMax + 1)), 1009);
    for (const signal of [[255], [255, 9], [255, 0, 0]]) assert.equal(await closeCode(exec, 'v5.channel.k8s.io', Buffer.from(signal)), 1002);
    assert.equal(await closeCode(exec, 'v4.base64.channel.k8s.io', Buffer.from('0aGVsbG8=')), 1002);
  });

  test('garbage inside the tunnel of a forward ends the connection', async () => {
    await using host = await open();
    const url = host.server.url(ports);
    const { socket, answer } = await request(url, webSocketRequest(url, 'SPDY/3.1+portforward.k8s.io'));
    assert.equal(answer.status, 101);
    assert.match(answer.head, /^Sec-WebSocket-Protocol: SPDY\/3\.1\+portforward\.k8s\.io$/im);
    // One binary message: a control frame of another version, masked with zeros.
    const payload = Buffer.from([0x80, 0x02, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1]);
    socket.write(Buffer.concat([Buffer.from([0x82, 0x80 | payload.length, 0, 0, 0, 0]), payload]));
    let received = Buffer.alloc(0);
    socket.on('data', (piece: Buffer) => (received = Buffer.concat([received, piece])));
    // GOAWAY, in a message of the server.
    await until('the goodbye', () => received.includes(Buffer.from([0x80, 0x03, 0, 7, 0, 0, 0, 8])));
    socket.destroy();
    await until('a line in the log', () => /another version/.test(host.log.join()));
  });

  test('empty messages, channels that do not exist and sizes that are none change nothing', async () => {
    await using host = await open();
    const client = new WebSocket(host.server.url({ ...exec, tty: true }), v4);
    const send = (channel: number, text: string): void => client.send(Buffer.concat([Buffer.of(channel), Buffer.from(text)]));
    await until('the process', () => host.processes.length === 1 && client.readyState === client.OPEN);
    client.send(Buffer.alloc(0));
    for (const channel of [1, 2, 3, 5, 77, 255]) send(channel, 'nonsense');
    for (const size of ['{"Width":-1,"Height":5}', '{"Width":1e9,"Height":5}']) send(4, size);
    send(0, 'input');
    await until('the input', () => host.processes[0]?.input === 'input');
    assert.deepEqual(host.processes[0]?.sizes, []);
    assert.equal(host.processes[0]?.isClosed, false);
    client.terminate();
  });

  test('ports of a URL that are none, none at all or too many are refused', async () => {
    await using host = await open();
    const tooMany = Array.from({ length: limits.streamPortsMax + 1 }, (_, index) => index + 1).join(',');
    for (const query of ['', '?port=', '?port=0', '?port=80,x', `?port=${tooMany}`]) {
      const url = `${host.server.url(ports)}${query}`;
      assert.equal((await statusOf(url, webSocketRequest(url, 'v4.channel.k8s.io'))).status, 400, query);
    }
  });
});
