/** `exec`, `stop`, `kill`, `rm`: acting on what runs. In: argv. Out: engine calls. */
import type { Command } from 'commander';
import { RuntimeError } from '#core';
import type { ContainerStatus, Engine, PodSandboxStatus } from '#pod';
import { type CliContext, type GlobalFlags, addGlobalOptions, flag, usageError } from './context.ts';
import { sweepLeftovers } from './leftovers.ts';
import { getContainer, getPodOrContainer, podrunUidOf } from './references.ts';
import { decodeSeconds } from './run-command.ts';
import { connectStreams, windowSize } from './terminal.ts';

const defaultGraceSeconds = 10;

function addExec(program: Command, context: CliContext): void {
  const command = program
    .command('exec')
    .summary('run a command in a container')
    .description('Runs a command in a running container and ends with its exit code.')
    .argument('<container>', 'name, id, POD/CONTAINER, or a pod with one container')
    .argument('<command...>', 'command and arguments')
    .passThroughOptions()
    .option('-i, --interactive', 'connect standard input')
    .option('-t, --tty', 'give the command a terminal')
    .addHelpText('after', '\nExamples:\n  $ berth exec hello/server cat /etc/hosts\n  $ berth exec -it web sh');
  addGlobalOptions(command).action(
    context.action<GlobalFlags & { readonly interactive?: boolean; readonly tty?: boolean }>(async ({ args: [reference = ''], rest, flags }) => {
      const { io } = context.deps;
      const stdin = flags.interactive === true;
      const tty = flags.tty === true;
      if (tty && stdin && !io.stdin.isTTY) usageError(command, '--tty with --interactive needs a terminal as standard input');
      return context.withEngine(
        flags,
        async (engine) => {
          const container = await getContainer(engine, reference);
          const streams = await engine.exec(container.id, { command: rest, tty, stdin, ...(tty ? windowSize(io) : {}) });
          // Awaited below; until then a rejection must not count as unhandled.
          streams.exited.catch(() => undefined);
          const stopListening = (['SIGINT', 'SIGTERM', 'SIGHUP'] as const).map((name) => io.onSignal(name, () => streams.close()));
          try {
            await connectStreams(io, streams, { stdin, tty });
            return await streams.exited;
          } finally {
            for (const stop of stopListening) stop();
            streams.close();
          }
        },
        { lasting: true },
      );
    }),
  );
}

/** Runs the work for every name, also after a failure; throws the first failure, and says how many others there were. */
async function forEachName(names: readonly string[], work: (name: string) => Promise<void>): Promise<void> {
  const failures: unknown[] = [];
  for (const name of names) await work(name).catch((error: unknown) => failures.push(error));
  if (failures.length > 1 && failures[0] instanceof RuntimeError)
    throw new RuntimeError(failures[0].code, `${failures[0].message} (and ${failures.length - 1} more failed)`, { cause: failures[0] });
  if (failures.length > 0) throw failures[0];
}

async function stopPod(engine: Engine, pod: PodSandboxStatus, graceSeconds: number): Promise<void> {
  const containers = await engine.listContainers({ podSandboxId: pod.id, state: 'running' });
  await Promise.all(containers.map(async ({ id }) => engine.stopContainer(id, { timeoutMs: graceSeconds * 1000 })));
  await engine.stopPodSandbox(pod.id);
}

function addStop(program: Command, context: CliContext): void {
  const command = addGlobalOptions(program.command('stop'))
    .summary('stop pods or containers')
    .description(
      'Sends the stop signal, and SIGKILL after the grace period. A pod is stopped with all its containers; its record and logs stay until rm. A pod goes before a container of the same name.',
    )
    .argument('<name...>', 'names or ids of pods or containers')
    .option('-t, --time <seconds>', `grace period (default: ${defaultGraceSeconds})`, flag(decodeSeconds))
    .addHelpText('after', '\nExamples:\n  $ berth stop web\n  $ berth stop -t 0 hello/server');
  command.action(
    context.action<GlobalFlags & { readonly time?: number }>(async ({ rest, flags }) =>
      context.withEngine(
        flags,
        async (engine) => {
          const graceSeconds = flags.time ?? defaultGraceSeconds;
          await forEachName(rest, async (name) => {
            const found = await getPodOrContainer(engine, name);
            if (found.kind === 'pod') await stopPod(engine, found.pod, graceSeconds);
            else await engine.stopContainer(found.container.id, { timeoutMs: graceSeconds * 1000 });
            await context.print(name);
          });
        },
        { lasting: true },
      ),
    ),
  );
}

function decodeSignal(text: string): string {
  const name = /^\d{1,2}$/.test(text) ? text : `SIG${text.toUpperCase().replace(/^SIG/, '')}`;
  if (!/^(\d{1,2}|SIG[A-Z0-9+-]{2,10})$/.test(name)) throw new RuntimeError('invalidArgument', 'must be a signal such as TERM, SIGHUP or 15');
  return name;
}

function addKill(program: Command, context: CliContext): void {
  const command = addGlobalOptions(program.command('kill'))
    .summary('send a signal to containers')
    .description('Sends a signal to the first process of running containers.')
    .argument('<container...>', 'names or ids of containers')
    .option('-s, --signal <signal>', 'signal (default: KILL)', flag(decodeSignal))
    .addHelpText('after', '\nExamples:\n  $ berth kill web\n  $ berth kill -s HUP hello/server');
  command.action(
    context.action<GlobalFlags & { readonly signal?: string }>(async ({ rest, flags }) =>
      context.withEngine(flags, async (engine) => {
        await forEachName(rest, async (name) => {
          await engine.signalContainer((await getContainer(engine, name)).id, flags.signal ?? 'SIGKILL');
          await context.print(name);
        });
      }),
    ),
  );
}

function refuseRunning(name: string, running: readonly ContainerStatus[]): void {
  if (running.length > 0)
    throw new RuntimeError(
      'failedPrecondition',
      `remove ${name}: ${running.map(({ metadata }) => metadata.name).join(', ')} ${running.length === 1 ? 'is' : 'are'} running; stop first, or use --force`,
    );
}

function addRm(program: Command, context: CliContext): void {
  const command = addGlobalOptions(program.command('rm'))
    .summary('remove pods or containers')
    .description(
      'Removes pods with their containers, logs and volumes, or single containers. What runs is refused without --force. A pod goes before a container of the same name.',
    )
    .argument('<name...>', 'names or ids of pods or containers')
    .option('-f, --force', 'kill what runs; an absent name is no error')
    .addHelpText('after', '\nExamples:\n  $ berth rm web\n  $ berth rm -f hello');
  command.action(
    context.action<GlobalFlags & { readonly force?: boolean }>(async ({ rest, flags }) =>
      context.withEngine(flags, async (engine) => {
        const force = flags.force === true;
        const volumes = context.deps.openVolumes(context.location(flags));
        await forEachName(rest, async (name) => {
          const found = await getPodOrContainer(engine, name).catch((error: unknown) => {
            if (force && error instanceof RuntimeError && error.code === 'notFound') return undefined;
            throw error;
          });
          if (found === undefined) return;
          if (found.kind === 'container') {
            if (!force)
              refuseRunning(
                `container ${name}`,
                [found.container].filter(({ state }) => state === 'running'),
              );
            await engine.removeContainer(found.container.id);
          } else {
            if (!force) refuseRunning(`pod ${name}`, await engine.listContainers({ podSandboxId: found.pod.id, state: 'running' }));
            await engine.removePodSandbox(found.pod.id);
            const uid = podrunUidOf(found.pod);
            if (uid !== undefined) await volumes.remove(uid);
          }
          await context.print(name);
        });
        await sweepLeftovers(engine, volumes);
      }),
    ),
  );
}

/** Adds the commands to the program. */
export function addLifecycleCommands(program: Command, context: CliContext): void {
  addExec(program, context);
  addStop(program, context);
  addKill(program, context);
  addRm(program, context);
}
