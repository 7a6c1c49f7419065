/** Who does not read stops who writes, at both ends of a stream, and the death of either is noticed all the same. */
import assert from 'node:assert/strict';
import type { Socket } from 'node:net';
import { describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { WebSocket } from 'ws';
import { encodeFrame } from '../../src/streaming/spdy-frames.ts';
import { FakeProcess, execTarget as exec, idleProcess, openExec, openStreamHost as open, until, v4 } from './stream-clients.ts';

describe('backpressure', () => {
  const piece = Buffer.alloc(64 * 1024, 'x');
  /** What may be under way between a process and a client that does not read: buffers of two sockets, and ours. */
  const underWayBytesMax = 64 * 1024 * 1024;

  /** Waits until the number has stopped growing. */
  async function settled(value: () => number): Promise<number> {
    for (let last = -1, now = value(); ; last = now, now = value()) {
      if (now === last && now > 0) return now;
      assert.ok(now < underWayBytesMax, `${now} bytes are under way`);
      await sleep(300);
    }
  }

  for (const carrier of ['SPDY', 'WebSocket'] as const) {
    test(`a client over ${carrier} that does not read stops the process's output, not its own end`, async () => {
      let produced = 0;
      const make = (): FakeProcess =>
        new FakeProcess(async function* (process) {
          while (!process.isClosed) {
            produced += piece.length;
            yield { stream: 1, data: piece };
          }
        });
      await using host = await open({ make });
      let pause: () => void, resume: () => void, end: () => void;
      if (carrier === 'SPDY') {
        const { client } = await openExec(host);
        [pause, resume, end] = [() => client.socket.pause(), () => client.socket.resume(), () => client.socket.destroy()];
      } else {
        const client = new WebSocket(host.server.url(exec), v4);
        client.on('error', () => undefined);
        client.on('message', () => undefined);
        await until('the process', () => host.processes.length === 1 && client.readyState === client.OPEN);
        [pause, resume, end] = [() => client.pause(), () => client.resume(), () => client.terminate()];
      }
      pause();
      const atRest = await settled(() => produced);
      resume();
      await until('more output', () => produced > atRest + 8 * 1024 * 1024);
      pause();
      end();
      await until('the end of the process', () => host.processes[0]?.isClosed === true);
    });

    test(`a process that does not read stops a client over ${carrier}, whose death is noticed all the same`, async () => {
      const gate = Promise.withResolvers<void>();
      const make = (): FakeProcess => {
        const process = idleProcess();
        process.accept = gate.promise;
        return process;
      };
      await using host = await open({ make });
      let write: () => boolean, buffered: () => number, end: () => void;
      if (carrier === 'SPDY') {
        const { client, stdin } = await openExec(host);
        const frame = encodeFrame({ kind: 'data', id: stdin.id, bytes: piece, fin: false });
        [write, buffered, end] = [() => client.socket.write(frame), () => client.socket.writableLength, () => client.socket.resetAndDestroy()];
      } else {
        const client = new WebSocket(host.server.url(exec), v4);
        client.on('error', () => undefined);
        await until('the process', () => host.processes.length === 1 && client.readyState === client.OPEN);
        const message = Buffer.concat([Buffer.of(0), piece]);
        [write, buffered] = [() => (client.send(message), client.bufferedAmount === 0), () => client.bufferedAmount];
        // SAFETY: the package keeps the socket here; nothing public resets it.
        end = () => (client as unknown as { readonly _socket: Socket })._socket.resetAndDestroy();
      }
      let sentBytes = 0;
      // Until what is sent stays with the client.
      for (let stuck = 0; stuck < 20; stuck = buffered() > 0 ? stuck + 1 : 0) {
        if (buffered() < 4 * piece.length) {
          write();
          sentBytes += piece.length;
        }
        assert.ok(sentBytes < underWayBytesMax, `${sentBytes} bytes were taken`);
        await sleep(20);
      }
      end();
      await until('the end of the process', () => host.processes[0]?.isClosed === true);
      gate.resolve();
    });
  }
});
