/** `port-forward`: ports of this machine that lead to a pod's own. In: argv, connections. Out: engine calls, one per connection. */
import type { Command } from 'commander';
import { RuntimeError, errorMessage, invalidArgument } from '#core';
import type { Engine } from '#pod';
import { type CliContext, type GlobalFlags, addGlobalOptions, usageError } from './context.ts';
import type { ForwardConnection, PortListener } from './dependencies.ts';
import { getPodOrContainer } from './references.ts';

const portMax = 65_535;
const defaultAddress = '127.0.0.1';

/** One port to forward; `hostPort` 0: any free one. */
interface Forward {
  readonly hostPort: number;
  readonly podPort: number;
}

/** `[HOST_PORT:]PORT`; an empty or zero host port is any free one. Throws invalidArgument. */
export function decodeForward(text: string): Forward {
  const [, host, pod] = /^(?:(\d{0,5}):)?(\d{1,5})$/.exec(text) ?? [];
  const [podPort, hostPort] = [Number(pod), Number(host ?? pod)];
  if (pod === undefined || podPort < 1 || podPort > portMax || hostPort > portMax)
    throw invalidArgument('', `${JSON.stringify(text.slice(0, 100))} must be [HOST_PORT:]PORT with ports from 1 to ${portMax}`);
  return { hostPort, podPort };
}

function decodeForwards(command: Command, words: readonly string[]): readonly Forward[] {
  try {
    return words.map(decodeForward);
  } catch (error) {
    return usageError(command, `port ${errorMessage(error)}`);
  }
}

/** Adds the command to the program. */
export function addPortForwardCommand(program: Command, context: CliContext): void {
  const command = addGlobalOptions(program.command('port-forward'))
    .summary('forward ports of this machine to a pod')
    .description('Listens on ports of this machine, and carries every connection to the same or another port at the loopback of a pod, until it is interrupted.')
    .argument('<pod>', 'name or id of a pod, or of one of its containers')
    .argument('<port...>', '[HOST_PORT:]PORT; with ":PORT" any free port of this machine')
    .option('--address <ip>', `address of this machine to listen on (default: ${defaultAddress})`)
    .addHelpText('after', '\nExamples:\n  $ berth port-forward web 8080:80\n  $ berth port-forward web :80 9090');
  command.action(
    context.action<GlobalFlags & { readonly address?: string }>(async ({ args: [reference = ''], rest, flags }) => {
      const forwards = decodeForwards(command, rest);
      await context.withEngine(flags, async (engine) => forwardPorts(context, engine, { reference, forwards, address: flags.address ?? defaultAddress }), { lasting: true });
    }),
  );
}

async function forwardPorts(
  context: CliContext,
  engine: Engine,
  { reference, forwards, address }: { readonly reference: string; readonly forwards: readonly Forward[]; readonly address: string },
): Promise<void> {
  const { io, listenOnPort } = context.deps;
  const found = await getPodOrContainer(engine, reference);
  const podId = found.kind === 'pod' ? found.pod.id : found.container.podSandboxId;
  const interrupt = new AbortController();
  const interrupted = Promise.withResolvers<void>();
  const stopListening = (['SIGINT', 'SIGTERM', 'SIGHUP'] as const).map((name) => io.onSignal(name, () => interrupted.resolve()));
  const listeners: PortListener[] = [];
  try {
    for (const { hostPort, podPort } of forwards) {
      const listener = await listenOnPort({ address, port: hostPort }, (connection) => {
        const carried = carry(engine, connection, { podId, port: podPort, signal: interrupt.signal });
        carried.catch(async (error: unknown) => io.stderr.write(`berth: ${errorMessage(error)}\n`)).catch(() => undefined);
      });
      listeners.push(listener);
      await context.print(`${listener.address} -> ${podPort}`);
    }
    await interrupted.promise;
  } finally {
    interrupt.abort(new RuntimeError('cancelled', 'forward ports: interrupted'));
    for (const listener of listeners) await listener.close();
    for (const stop of stopListening) stop();
  }
}

async function carry(
  engine: Engine,
  connection: ForwardConnection,
  { podId, port, signal }: { readonly podId: string; readonly port: number; readonly signal: AbortSignal },
): Promise<void> {
  try {
    const streams = await engine.portForward(podId, port, signal);
    // Whoever waits for the output learns how it ended.
    streams.exited.catch(() => undefined);
    try {
      const input = feed(connection, streams);
      input.catch(() => streams.close());
      for await (const { data } of streams.output) await connection.write(data);
      await connection.end();
    } finally {
      streams.close();
    }
  } catch (error) {
    // What the client or an interrupt ended is no failure.
    const isWanted = connection.isClosed() || signal.aborted;
    connection.destroy();
    if (!isWanted) throw error;
  }
}

async function feed(connection: ForwardConnection, streams: { write(data: Uint8Array): Promise<void>; closeInput(): Promise<void> }): Promise<void> {
  for await (const data of connection.read()) await streams.write(data);
  await streams.closeInput();
}
