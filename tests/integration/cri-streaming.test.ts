/** Exec, Attach and PortForward with the official crictl, over SPDY and over WebSocket, against a daemon. */
import assert from 'node:assert/strict';
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { readFileSync, readdirSync } from 'node:fs';
import { type Socket, connect, createServer } from 'node:net';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { NamespaceMode, RuntimeService } from '#gen/cri-v1_pb.js';
import { readFacts } from '../facts.ts';
import { busybox, patienceMs } from './berth-host.ts';
import { CriHost } from './cri-host.ts';

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

/** How many processes carry forwarded connections now: those of ours that have become nobody. */
function forwardProcesses(): number {
  return readdirSync('/proc').filter((name) => {
    try {
      const status = readFileSync(`/proc/${name}/status`, 'utf8');
      return status.startsWith('Name:\tberth-shim') && /^Uid:\t65535\t/m.test(status);
    } catch {
      return false;
    }
  }).length;
}

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
      const script = `${busybox} stty size; read line; echo "got $line"; ${busybox} stty size; exit 5`;
      const command = [crictlPath, ...crictlArgs(['exec', '-it', '-r', transport, containerId, busybox, 'sh', '-c', script])].map((word) => `'${word}'`).join(' ');
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
});
