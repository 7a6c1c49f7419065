/** Exec, Attach and PortForward with the official crictl, over SPDY and over WebSocket, against a daemon. */
import assert from 'node:assert/strict';
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { readFileSync, readdirSync, readlinkSync, statSync } from 'node:fs';
import { type Socket, connect, createServer } from 'node:net';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { limits } from '#core';
import { NamespaceMode, RuntimeService } from '#gen/cri-v1_pb.js';
import { readFacts } from '../facts.ts';
import { busybox, patienceMs } from './berth-host.ts';
import { CriHost } from './cri-host.ts';
import { SpdyClient } from './stream-clients.ts';

const run = promisify(execFile);
const repository = fileURLToPath(new URL('../..', import.meta.url));
const crictlPath = join(repository, 'build/go/crictl');
const skip = readFacts()['no-go'] ? 'Go is not installed' : false;
const transports = ['spdy', 'websocket'] as const;

function goTest(name: string, body: () => void | Promise<void>): void {
  test(name, { skip }, body);
}

async function until(condition: () => boolean | Promise<boolean>): Promise<void> {
  const deadline = performance.now() + patienceMs;
  while (!(await condition())) {
    assert.ok(performance.now() < deadline, 'never came true');
    await sleep(20);
  }
}

/** What a connection to a forwarded port answers until its end. */
async function talk(port: number, text: string): Promise<string> {
  const socket = connect({ port, host: '127.0.0.1', allowHalfOpen: true });
  socket.end(text);
  let answer = '';
  for await (const piece of socket.setEncoding('utf8')) answer += String(piece);
  return answer;
}

/** A server that sends back what it gets, and ends when its client does. */
async function listenForEchoes(): Promise<AsyncDisposable & { readonly port: number }> {
  const server = createServer({ allowHalfOpen: true }, (socket: Socket) => socket.on('error', () => undefined).pipe(socket));
  await new Promise<void>((resolve) => void server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  assert.ok(typeof address === 'object' && address !== null);
  return {
    port: address.port,
    async [Symbol.asyncDispose]() {
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

/** The processes that carry forwarded connections now: those of ours that have become nobody. */
function listForwards(): string[] {
  return readdirSync('/proc').filter((name) => {
    try {
      const status = readFileSync(`/proc/${name}/status`, 'utf8');
      return status.startsWith('Name:\tberth-shim') && /^Uid:\t65535\t/m.test(status);
    } catch {
      return false;
    }
  });
}

const compareTexts = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0);
const forwardProcesses = (): number => listForwards().length;

/** A free port of this machine; whoever uses it at once gets it. */
async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => void server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  assert.ok(typeof address === 'object' && address !== null);
  return address.port;
}

/** A command that runs while a test talks to it. */
class Client implements AsyncDisposable {
  readonly child: ChildProcess;
  readonly finished: Promise<number | null>;
  stdout = '';
  stderr = '';
  #isFinished = false;
  #wake: () => void = () => undefined;

  constructor(command: string, args: readonly string[]) {
    this.child = spawn(command, args, { stdio: ['pipe', 'pipe', 'pipe'] });
    this.child.stdout?.setEncoding('utf8').on('data', (text: string) => {
      this.stdout += text;
      this.#wake();
    });
    this.child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      this.stderr += text;
      this.#wake();
    });
    this.child.stdin?.on('error', () => undefined);
    this.finished = new Promise((resolve) =>
      this.child.once('close', (status) => {
        this.#isFinished = true;
        this.#wake();
        resolve(status);
      }),
    );
  }

  async untilOutput(text: string): Promise<void> {
    const deadline = performance.now() + patienceMs;
    while (!this.stdout.includes(text) && !this.stderr.includes(text)) {
      assert.ok(!this.#isFinished && performance.now() < deadline, `no ${JSON.stringify(text)} in ${JSON.stringify(this.stdout + this.stderr)}`);
      await Promise.race([new Promise<void>((resolve) => void (this.#wake = resolve)), sleep(100)]);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.child.kill('SIGKILL');
    await this.finished;
  }
}

describe('streams with crictl', { skip }, () => {
  let host: CriHost;
  let containerId = '';
  let podSandboxId = '';

  const crictlArgs = (args: readonly string[]): string[] => ['--config', '/dev/null', '--runtime-endpoint', `unix://${host.socketPath}`, '--timeout', '60s', ...args];
  const crictl = async (...args: string[]): Promise<{ stdout: string; stderr: string }> => run(crictlPath, crictlArgs(args), { maxBuffer: 64 * 1024 * 1024 });
  const start = (...args: string[]): Client => new Client(crictlPath, crictlArgs(args));

  const listening = async (_: string, id: string): Promise<string> => {
    const { stdout } = await host.call(RuntimeService.method.execSync, { containerId: id, cmd: [busybox, 'cat', '/proc/net/tcp', '/proc/net/tcp6'], timeout: 60n });
    return Buffer.from(stdout).toString();
  };

  before(async () => {
    if (skip !== false) return;
    await run(join(repository, 'scripts/build-go-tools.sh'));
    host = await CriHost.open();
    // An echo at 7000, an HTTP server that listens on IPv6 alone at 7001.
    const script = `${busybox} nc -ll -p 7000 -e ${busybox} cat & ${busybox} httpd -f -p '[::1]:7001' -h /etc & exec ${busybox} sleep 100000`;
    ({ podSandboxId, containerId } = await host.startContainer(script));
    for (const port of [7000, 7001]) await until(async () => (await listening(podSandboxId, containerId)).includes(port.toString(16).toUpperCase()));
  });
  after(async () => {
    if (skip === false) await host[Symbol.asyncDispose]();
  });

  for (const transport of transports) {
    goTest(`exec over ${transport} carries output, errors and the exit code`, async () => {
      const { stdout, stderr } = await crictl('exec', '-r', transport, containerId, busybox, 'sh', '-c', 'echo out; echo err >&2');
      assert.deepEqual([stdout, stderr], ['out\n', 'err\n']);
      await assert.rejects(crictl('exec', '-r', transport, containerId, busybox, 'sh', '-c', 'exit 3'), /exit code 3/);
    });

    goTest(`exec over ${transport} ends its standard input with the client's`, async () => {
      await using client = start('exec', '-i', '-r', transport, containerId, busybox, 'wc', '-c');
      client.child.stdin?.end('x'.repeat(300_000));
      assert.equal(await client.finished, 0, client.stderr);
      assert.equal(client.stdout.trim(), '300000');
    });

    goTest(`exec with a terminal over ${transport} knows its size and carries what is typed`, async () => {
      // The size comes beside the command, and may come after its first step.
      const script = `until ${busybox} stty size | ${busybox} grep '41 133'; do ${busybox} sleep 0.1; done; read line; echo "got $line"; ${busybox} stty size; exit 5`;
      const command = [crictlPath, ...crictlArgs(['exec', '-it', '-r', transport, containerId, busybox, 'sh', '-c', script])]
        .map((word) => `'${word.replaceAll("'", `'\\''`)}'`)
        .join(' ');
      await using client = new Client('script', ['-qefc', `stty rows 41 cols 133; ${command}`, '/dev/null']);
      await client.untilOutput('41 133');
      client.child.stdin?.write('hello\n');
      await client.untilOutput('got hello');
      await client.finished;
      assert.match(client.stdout, /exit code 5|exit status 5/);
    });

    goTest(`attach over ${transport} reaches the first process, and leaves it running`, async () => {
      const attached = await host.startContainer(`while read line; do echo "got $line"; echo "bad $line" >&2; done; echo end`, { container: { stdin: true } });
      {
        await using client = start('attach', '-i', '-r', transport, attached.containerId);
        client.child.stdin?.write('one\n');
        await client.untilOutput('got one');
        await until(() => client.stderr.includes('bad one'));
      }
      await using second = start('attach', '-i', '-r', transport, attached.containerId);
      second.child.stdin?.write('two\n');
      await second.untilOutput('got two');
      const { status } = await host.call(RuntimeService.method.containerStatus, { containerId: attached.containerId });
      assert.equal(status?.state, 1);
    });

    goTest(`attach over ${transport} ends the input of a container with stdin_once`, async () => {
      const attached = await host.startContainer(`${busybox} wc -c; exit 4`, { container: { stdin: true, stdinOnce: true } });
      await using client = start('attach', '-i', '-r', transport, attached.containerId);
      client.child.stdin?.end('12345');
      await client.untilOutput('5');
      assert.equal(await client.finished, 0, client.stderr);
      assert.equal((await host.ended(attached.containerId)).exitCode, 4);
    });

    goTest(`port-forward over ${transport} reaches the pod's own network, half-closed`, async () => {
      const port = await freePort();
      await using client = start('port-forward', '-r', transport, podSandboxId, `${port}:7000`);
      await client.untilOutput(`Forwarding from 127.0.0.1:${port}`);
      const text = 'echo '.repeat(50_000);
      assert.equal(await talk(port, text), text);
    });

    goTest(`port-forward over ${transport} carries many connections at once, of a pod in the host network`, async () => {
      await using server = await listenForEchoes();
      const pod = await host.startContainer(`${busybox} sleep 100000`, { pod: { linux: { securityContext: { namespaceOptions: { network: NamespaceMode.NODE } } } } });
      const port = await freePort();
      await using client = start('port-forward', '-r', transport, pod.podSandboxId, `${port}:${server.port}`);
      await client.untilOutput(`Forwarding from 127.0.0.1:${port}`);
      const texts = Array.from({ length: 30 }, (_, index) => `${index} `.repeat(20_000));
      const answers = await Promise.all(texts.map(async (text) => talk(port, text)));
      assert.deepEqual(
        answers.map((answer) => answer.length),
        texts.map((text) => text.length),
      );
      assert.ok(answers.every((answer, index) => answer === texts[index]));
      // A connection that the client gives up takes its process with it.
      const { containers } = await host.call(RuntimeService.method.listContainers, { filter: { podSandboxId: pod.podSandboxId } });
      assert.equal(containers.length, 1);
      await until(() => forwardProcesses() === 0);
    });

    goTest(`port-forward over ${transport} finds a server that listens on IPv6 alone, and says what nobody listens on`, async () => {
      const [http, nobody] = [await freePort(), await freePort()];
      await using client = start('port-forward', '-r', transport, podSandboxId, `${http}:7001`, `${nobody}:7009`);
      await client.untilOutput(`Forwarding from 127.0.0.1:${nobody}`);
      assert.match(await talk(http, 'GET /passwd HTTP/1.0\r\n\r\n'), /^HTTP\/1\.[01] (200|404)/);
      await talk(nobody, 'anybody?').catch(() => '');
      await client.untilOutput('connection refused: nobody listens at 127.0.0.1 or ::1');
    });
  }

  /** Pids of processes in the container whose command line holds the text. */
  const processesOf = async (text: string): Promise<string[]> => {
    const script = `for p in /proc/[0-9]*; do ${busybox} tr '\\0' ' ' <$p/cmdline 2>/dev/null | ${busybox} grep -q '${text}' && echo $p; done; true`;
    const { stdout } = await host.call(RuntimeService.method.execSync, {
      containerId,
      cmd: [busybox, 'sh', '-c', script.replace(text, `[${text[0]}]${text.slice(1)}`)],
      timeout: 60n,
    });
    return Buffer.from(stdout).toString().split('\n').filter(Boolean);
  };

  goTest('a terminal follows its size, and its command ends with its client', async () => {
    const { url } = await host.call(RuntimeService.method.exec, { containerId, cmd: [busybox, 'sh'], tty: true, stdin: true, stdout: true });
    const client = await SpdyClient.open(url, ['v4.channel.k8s.io']);
    const [, stdin, stdout, resize] = ['error', 'stdin', 'stdout', 'resize'].map((streamtype) => client.stream({ streamtype }));
    assert.ok(stdin && stdout && resize);
    client.write(resize, '{"Width":111,"Height":22}\n');
    // Until the size has come: it is handed on beside the input.
    client.write(stdin, `until ${busybox} stty size | ${busybox} grep '22 111'; do ${busybox} sleep 0.1; done; ${busybox} sleep 7777\n`);
    await until(() => /^22 111/m.test(stdout.text));
    client.write(resize, '{"Width":44,"Height":33}\n');
    await until(async () => (await processesOf('sleep 7777')).length === 1);
    // Ctrl-C reaches the command, not the shell.
    client.write(stdin, '\x03');
    client.write(stdin, `until ${busybox} stty size | ${busybox} grep '33 44'; do ${busybox} sleep 0.1; done; ${busybox} sleep 8888\n`);
    await until(() => /^33 44/m.test(stdout.text));
    await until(async () => (await processesOf('sleep 8888')).length === 1);
    client.socket.destroy();
    await until(async () => (await processesOf('sleep 8888')).length === 0);
    assert.deepEqual(await processesOf('sleep 7777'), []);
  });

  goTest('requests that make no sense are refused, with the field that is wrong', async () => {
    const { exec, attach, portForward, removeContainer, stopContainer } = RuntimeService.method;
    const rejects = async (call: Promise<unknown>, code: number, message: RegExp): Promise<void> =>
      assert.rejects(call, (error: { code: number; details: string }) => error.code === code && message.test(error.details));
    const streams = { stdin: false, stdout: true, stderr: false, tty: false };
    await rejects(host.call(exec, { containerId, cmd: ['true'] }), 3, /^stdin: one of stdin, stdout and stderr must be set/);
    await rejects(host.call(exec, { containerId, cmd: ['true'], ...streams, stderr: true, tty: true }), 3, /^stderr: must not be set with tty/);
    await rejects(host.call(exec, { containerId, cmd: [], ...streams }), 3, /^cmd: required/);
    await rejects(host.call(exec, { containerId: '', cmd: ['true'], ...streams }), 3, /^container_id: required/);
    await rejects(host.call(exec, { containerId: 'f'.repeat(64), cmd: ['true'], ...streams }), 5, /does not exist/);
    await rejects(host.call(attach, { containerId, tty: true, stdout: true, stderr: true }), 3, /^stderr: must not be set with tty/);
    await rejects(host.call(attach, { containerId }), 3, /^stdin: one of/);
    await rejects(host.call(portForward, { podSandboxId: '' }), 3, /^pod_sandbox_id: required/);
    await rejects(host.call(portForward, { podSandboxId, port: [80, 65_536] }), 3, /^port\[1\]: must be 1 to 65535, not 65536/);
    await rejects(host.call(portForward, { podSandboxId: 'f'.repeat(64) }), 5, /does not exist/);
    const ended = await host.startContainer('exit 0');
    await host.ended(ended.containerId);
    await rejects(host.call(exec, { containerId: ended.containerId, cmd: ['true'], ...streams }), 9, /container is exited, not running/);
    await rejects(host.call(attach, { containerId: ended.containerId, ...streams }), 9, /container is exited, not running/);
    await host.call(RuntimeService.method.stopPodSandbox, { podSandboxId: ended.podSandboxId });
    await rejects(host.call(portForward, { podSandboxId: ended.podSandboxId }), 9, /the pod is not ready/);
    // A container that ends between the call and the connection is told on the error stream.
    const late = await host.startContainer(`${busybox} sleep 100000`);
    const { url } = await host.call(exec, { containerId: late.containerId, cmd: ['true'], ...streams });
    await host.call(stopContainer, { containerId: late.containerId, timeout: 0n });
    const client = await SpdyClient.open(url, ['v4.channel.k8s.io']);
    const [error] = [client.stream({ streamtype: 'error' }), client.stream({ streamtype: 'stdout' })];
    await until(() => client.isClosed);
    assert.match(error.text, /"reason":"InternalError".*container is exited, not running/);
    await host.call(removeContainer, { containerId: late.containerId });
  });

  goTest('the process of a forwarded connection has its socket, its streams and no right at all', async () => {
    const port = await freePort();
    await using client = start('port-forward', podSandboxId, `${port}:7000`);
    await client.untilOutput(`Forwarding from 127.0.0.1:${port}`);
    const socket = connect({ port, host: '127.0.0.1' });
    socket.write('x');
    await new Promise((resolve) => socket.once('data', resolve));
    const [pid, ...others] = listForwards();
    assert.ok(pid !== undefined && others.length === 0);
    const status = readFileSync(`/proc/${pid}/status`, 'utf8');
    for (const field of ['CapInh', 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb']) assert.match(status, new RegExp(`^${field}:\\t0+$`, 'm'));
    for (const line of [/^NoNewPrivs:\t1$/m, /^Seccomp:\t2$/m, /^Uid:\t65535\t65535\t65535\t65535$/m, /^Gid:\t65535\t65535\t65535\t65535$/m, /^Groups:\t\s*$/m])
      assert.match(status, line);
    const kinds = readdirSync(`/proc/${pid}/fd`).map((fd) => readlinkSync(`/proc/${pid}/fd/${fd}`).replace(/:.*/, ''));
    assert.deepEqual(kinds.toSorted(compareTexts), ['pipe', 'pipe', 'pipe', 'socket']);
    // Its files in procfs belong to root, since it cannot be looked into.
    assert.equal(statSync(`/proc/${pid}/environ`).uid, 0);
    const network = (id: string): string => readlinkSync(`/proc/${id}/ns/net`);
    assert.notEqual(network(pid), network('self'));
    assert.equal(readlinkSync(`/proc/${pid}/ns/mnt`), readlinkSync('/proc/self/ns/mnt'));
    socket.destroy();
    await until(() => forwardProcesses() === 0);
  });

  goTest('a pod with all the connections that it may have still runs commands', async () => {
    await using server = await listenForEchoes();
    const pod = await host.startContainer(`${busybox} sleep 100000`, { pod: { linux: { securityContext: { namespaceOptions: { network: NamespaceMode.NODE } } } } });
    const { url } = await host.call(RuntimeService.method.portForward, { podSandboxId: pod.podSandboxId });
    const client = await SpdyClient.open(url, ['portforward.k8s.io']);
    const port = String(server.port);
    const pairs = Array.from({ length: limits.podForwardsMax + 10 }, (_, index) => ({
      error: client.stream({ streamtype: 'error', port, requestid: String(index) }),
      data: client.stream({ streamtype: 'data', port, requestid: String(index) }),
    }));
    for (const { data } of pairs) client.write(data, 'hello');
    await until(() => pairs.every(({ data, error }) => data.text === 'hello' || error.isEnded));
    const refused = pairs.filter(({ error }) => error.isEnded);
    assert.equal(refused.length, 10);
    assert.match(refused[0]?.error.text ?? '', /192 connections to ports of the pod are open, which is all it may have$/);
    const { stdout } = await crictl('exec', pod.containerId, busybox, 'echo', 'still here');
    assert.equal(stdout, 'still here\n');
    client.socket.destroy();
    await until(() => forwardProcesses() === 0);
  });

  goTest('berth port-forward carries connections of this machine, as a client of the daemon', async () => {
    const [echo, nobody] = [await freePort(), await freePort()];
    const where = ['--root', host.host.root, '--run', host.host.run];
    await using forward = new Client(join(repository, 'bin/berth'), [...where, 'port-forward', podSandboxId.slice(0, 12), `${echo}:7000`, `${nobody}:7009`]);
    await forward.untilOutput(`127.0.0.1:${nobody} -> 7009`);
    const text = 'echo '.repeat(50_000);
    assert.equal(await talk(echo, text), text);
    await talk(nobody, 'anybody?').catch(() => '');
    await forward.untilOutput('connection refused: nobody listens at 127.0.0.1 or ::1');
    forward.child.kill('SIGINT');
    assert.equal(await forward.finished, 0);
    await until(() => forwardProcesses() === 0);
  });

  goTest('an engine that starts again serves new streams of pods that went on', async () => {
    await host.restart('SIGKILL');
    const { stdout } = await crictl('exec', containerId, busybox, 'echo', 'again');
    assert.equal(stdout, 'again\n');
    const port = await freePort();
    await using client = start('port-forward', podSandboxId, `${port}:7000`);
    await client.untilOutput(`Forwarding from 127.0.0.1:${port}`);
    assert.equal(await talk(port, 'still here'), 'still here');
  });
});
