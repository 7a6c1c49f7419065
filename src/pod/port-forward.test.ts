/** Forwarded connections over a sandbox of the test's making: their errors, their number, and whom they belong to. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { RuntimeError, limits } from '#core';
import type { EngineState } from './engine-state.ts';
import { forwardPort } from './port-forward.ts';
import type { SandboxStreams } from './ports.ts';

interface Connection extends SandboxStreams {
  isClosed: boolean;
  end(exitCode: number): void;
}

function connectionDouble(): Connection {
  const exit = Promise.withResolvers<number>();
  const connection: Connection = {
    isClosed: false,
    end: exit.resolve,
    output: {
      [Symbol.asyncIterator]: () => ({ next: async () => exit.promise.then(() => ({ done: true, value: undefined })) }),
    },
    write: async () => undefined,
    closeInput: async () => undefined,
    exited: exit.promise,
    close: () => {
      connection.isClosed = true;
      exit.resolve(137);
    },
  };
  return connection;
}

function stateDouble(connectPort: (port: number) => Promise<SandboxStreams>, state: 'ready' | 'stopped' = 'ready'): EngineState {
  const sandbox = { connectPort };
  // SAFETY: a forward looks at nothing else.
  return { store: { getPod: (id: string) => ({ id: `${id}-whole`, state }) }, sandbox: () => sandbox } as unknown as EngineState;
}

const request = { podSandboxId: 'p', port: 80 };

test('a port that is none, a pod that is not ready and a refused connection are errors that name both', async () => {
  const state = stateDouble(async () => Promise.reject(new RuntimeError('unavailable', 'connection refused')));
  for (const port of [0, 65_536, 1.5, -1])
    await assert.rejects(forwardPort(state, { podSandboxId: 'p', port }), { code: 'invalidArgument', message: `port: must be 1 to 65535, not ${port}` });
  await assert.rejects(
    forwardPort(
      stateDouble(async () => connectionDouble(), 'stopped'),
      request,
    ),
    { code: 'failedPrecondition', message: 'forward port 80 of pod sandbox p-whole: the pod is not ready' },
  );
  await assert.rejects(forwardPort(state, request), { code: 'unavailable', message: 'forward port 80 of pod sandbox p-whole: connection refused' });
});

test('a pod has a bounded number of connections, and one that ends makes room', async () => {
  const connections: Connection[] = [];
  let fails = false;
  const state = stateDouble(async () => {
    if (fails) throw new RuntimeError('unavailable', 'connection refused');
    const connection = connectionDouble();
    connections.push(connection);
    return connection;
  });
  fails = true;
  for (let count = 0; count < limits.podForwardsMax + 1; count += 1) await assert.rejects(forwardPort(state, request), { code: 'unavailable' });
  fails = false;
  for (let count = 0; count < limits.podForwardsMax; count += 1) await forwardPort(state, request);
  await assert.rejects(forwardPort(state, request), { code: 'resourceExhausted', message: /192 connections to ports of the pod are open/ });
  connections[0]?.end(0);
  await connections[0]?.exited;
  await forwardPort(state, request);
});

test('a connection is no terminal, and ends with the signal of its caller', async () => {
  const connection = connectionDouble();
  const caller = new AbortController();
  const streams = await forwardPort(
    stateDouble(async () => connection),
    request,
    caller.signal,
  );
  await assert.rejects(streams.resize({ columns: 1, rows: 1 }), { code: 'failedPrecondition', message: /it is no terminal/ });
  assert.equal(connection.isClosed, false);
  caller.abort();
  assert.equal(connection.isClosed, true);
  const late = connectionDouble();
  const gone = new AbortController();
  const made = stateDouble(async () => {
    gone.abort();
    return late;
  });
  await forwardPort(made, request, gone.signal);
  assert.equal(late.isClosed, true, 'a caller that went while it was made');
});
