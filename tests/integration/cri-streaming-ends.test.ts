/** Streams of a daemon end in every way there is, and leave nothing: no process, no descriptor of the daemon or of the pod's shim. */
import assert from 'node:assert/strict';
import { readFileSync, readdirSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';
import { RuntimeService } from '#gen/cri-v1_pb.js';
import { busybox } from './berth-host.ts';
import { CriHost } from './cri-host.ts';
import { type ClientStream, SpdyClient, until, v4 } from './stream-clients.ts';

const forwardProtocol = ['portforward.k8s.io'];
/** How often each end is come to: what is left each time becomes visible. */
const rounds = 3;

/** Pids whose status satisfies the condition. */
function findProcesses(condition: (status: string) => boolean): readonly number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .flatMap((name) => {
      try {
        return condition(readFileSync(`/proc/${name}/status`, 'utf8')) ? [Number(name)] : [];
      } catch {
        return [];
      }
    });
}

/** Children of the process that are no zombies. */
const childrenOf = (parent: number): number => findProcesses((status) => new RegExp(`^PPid:\t${parent}$`, 'm').test(status) && !/^State:\tZ/m.test(status)).length;
const descriptorsOf = (pid: number): number => readdirSync(`/proc/${pid}/fd`).length;

describe('ends of streams', () => {
  let host: CriHost;
  let containerId = '';
  let podSandboxId = '';
  let shimPid = 0;
  /** The container's first process and the pod's own. */
  let ownChildren = 0;

  before(async () => {
    host = await CriHost.open();
    ({ podSandboxId, containerId } = await host.startContainer(`${busybox} nc -ll -p 7000 -e ${busybox} cat & exec ${busybox} sleep 100000`, { container: { stdin: true } }));
    const { info } = await host.call(RuntimeService.method.containerStatus, { containerId, verbose: true });
    const main = /"pid":(\d+)/.exec(info['info'] ?? '')?.[1];
    shimPid = Number(/^PPid:\t(\d+)$/m.exec(readFileSync(`/proc/${main}/status`, 'utf8'))?.[1]);
    ownChildren = childrenOf(shimPid);
  });
  after(async () => host[Symbol.asyncDispose]());

  const counts = (): string => [descriptorsOf(host.daemonPid), descriptorsOf(shimPid), childrenOf(shimPid)].join(' ');

  async function openExec(...cmd: string[]): Promise<{ readonly client: SpdyClient; readonly stdin: ClientStream; readonly error: ClientStream; readonly stdout: ClientStream }> {
    const { url } = await host.call(RuntimeService.method.exec, { containerId, cmd, stdin: true, stdout: true });
    const client = await SpdyClient.open(url, v4);
    const [error, stdin, stdout] = [client.stream({ streamtype: 'error' }), client.stream({ streamtype: 'stdin' }), client.stream({ streamtype: 'stdout' })];
    return { client, error, stdin, stdout };
  }

  async function openForward(port: string): Promise<{ readonly client: SpdyClient; readonly data: ClientStream; readonly error: ClientStream }> {
    const { url } = await host.call(RuntimeService.method.portForward, { podSandboxId, port: [] });
    const client = await SpdyClient.open(url, forwardProtocol);
    return { client, error: client.stream({ streamtype: 'error', port, requestid: '1' }), data: client.stream({ streamtype: 'data', port, requestid: '1' }) };
  }

  const mebibyte = Buffer.alloc(1024 * 1024, 'x');
  const ends: Readonly<Record<string, () => Promise<void>>> = {
    'an exec that ends by itself': async () => {
      const { client, error } = await openExec(busybox, 'sh', '-c', 'exit 3');
      await until('the status', () => error.isEnded);
      assert.match(error.text, /"ExitCode","message":"3"/);
      await until('the end of the connection', () => client.isClosed);
    },
    'an exec that cannot begin': async () => {
      const { client, error } = await openExec('/no/such/file');
      await until('the status', () => error.isEnded);
      assert.match(error.text, /InternalError/);
      await until('the end of the connection', () => client.isClosed);
    },
    'an exec that ends before its input': async () => {
      const { client, stdin, error } = await openExec(busybox, 'true');
      for (let count = 0; count < 4; count += 1) client.write(stdin, mebibyte);
      await until('the status', () => error.isEnded);
      assert.match(error.text, /Success/);
      await until('the end of the connection', () => client.isClosed);
    },
    'an exec whose client dies while it runs': async () => {
      const { client, stdin, stdout } = await openExec(busybox, 'cat');
      client.write(stdin, 'x');
      await until('the echo', () => stdout.byteCount === 1);
      client.socket.resetAndDestroy();
    },
    'an exec that never reads, whose client dies with its input under way': async () => {
      const { client, stdin, stdout } = await openExec(busybox, 'sh', '-c', `echo begun; exec ${busybox} sleep 1000`);
      await until('its begin', () => stdout.text === 'begun\n');
      for (let count = 0; count < 8; count += 1) client.write(stdin, mebibyte);
      await until('input that stays', () => client.socket.writableLength < 7 * mebibyte.length);
      client.socket.resetAndDestroy();
    },
    'an attach to a process that never reads, whose client dies with its input under way': async () => {
      const { url } = await host.call(RuntimeService.method.attach, { containerId, stdin: true, stdout: true });
      const client = await SpdyClient.open(url, v4);
      const [, stdin] = [client.stream({ streamtype: 'error' }), client.stream({ streamtype: 'stdin' }), client.stream({ streamtype: 'stdout' })];
      for (let count = 0; count < 8; count += 1) client.write(stdin, mebibyte);
      await until('input that stays', () => client.socket.writableLength < 7 * mebibyte.length);
      client.socket.resetAndDestroy();
    },
    'an exec that writes without end, whose client gives up its output': async () => {
      const { client, stdout, error } = await openExec(busybox, 'cat', '/dev/zero');
      await until('output', () => stdout.byteCount > 0);
      client.send({ kind: 'rstStream', id: stdout.id, status: 5 });
      await until('the status', () => error.isEnded);
      client.socket.destroy();
    },
    'a forwarded connection that its client ends': async () => {
      const { client, data } = await openForward('7000');
      client.write(data, 'hello', true);
      await until('the echo and its end', () => data.text === 'hello' && data.isEnded);
      client.socket.destroy();
    },
    'a forwarded connection whose client dies with bytes under way': async () => {
      const { client, data } = await openForward('7000');
      for (let count = 0; count < 4; count += 1) client.write(data, mebibyte);
      await until('an echo', () => data.byteCount > 0);
      client.socket.resetAndDestroy();
    },
    'a forwarded connection that its client gives up': async () => {
      const { client, data, error } = await openForward('7000');
      client.write(data, 'hello');
      await until('the echo', () => data.text === 'hello');
      client.send({ kind: 'rstStream', id: data.id, status: 5 });
      await until('the end of its other stream', () => error.isEnded);
      client.socket.destroy();
    },
    'a port on which nobody listens': async () => {
      const { client, data, error } = await openForward('7009');
      await until('the reason', () => error.isEnded && data.resetStatus !== undefined);
      assert.match(error.text, /connection refused/);
      client.socket.destroy();
    },
    'half of a pair': async () => {
      const { url } = await host.call(RuntimeService.method.portForward, { podSandboxId, port: [] });
      const client = await SpdyClient.open(url, forwardProtocol);
      const half = client.stream({ streamtype: 'data', port: '7000', requestid: '1' });
      await until('its reply', () => half.isReplied);
      client.socket.destroy();
    },
  };
  for (const [name, end] of Object.entries(ends)) {
    test(`${name} leaves nothing`, async () => {
      // The first one may open what stays: a connection to the shim, a file of the runtime.
      await end();
      await until('a container that is alone', () => childrenOf(shimPid) === ownChildren);
      let before = '';
      await until('counts that stay', () => before === (before = counts()));
      for (let round = 0; round < rounds; round += 1) await end();
      await until(`the counts ${before}`, () => counts() === before).catch((error: unknown) => {
        throw new Error(`descriptors of the daemon and of the shim, children of the shim: ${counts()}, before ${before}`, { cause: error });
      });
    });
  }
});
