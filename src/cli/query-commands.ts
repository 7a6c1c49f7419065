/** `ps`, `pods`, `inspect`, `logs`: what there is. In: argv. Out: engine reads as tables or JSON. They change nothing. */
import type { Command } from 'commander';
import { RuntimeError } from '#core';
import type { ContainerStatus, Engine } from '#pod';
import { type CliContext, type GlobalFlags, addGlobalOptions, flag, usageError } from './context.ts';
import { formatAge, shortId } from './human.ts';
import { LogParser, LogPrinter, LogTail, isSince, parseSince } from './log-lines.ts';
import { findContainer, findPod, getContainer } from './references.ts';

/** `running`, `exited (1)`, `exited (137, OOMKilled)`. */
export function describeState({ state, exitCode, reason }: Pick<ContainerStatus, 'state' | 'exitCode' | 'reason'>): string {
  if (state !== 'exited') return state;
  return `exited (${exitCode}${reason === '' || reason === 'Completed' || reason === 'Error' ? '' : `, ${reason}`})`;
}

function addPs(program: Command, context: CliContext): void {
  const command = addGlobalOptions(program.command('ps'))
    .summary('list containers')
    .description('Lists running containers, or all of them.')
    .option('-a, --all', 'also those that were created or have ended')
    .option('-q, --quiet', 'ids only')
    .addHelpText('after', '\nExamples:\n  $ berth ps -a\n  $ berth ps --output json');
  command.action(
    context.action<GlobalFlags & { readonly all?: boolean; readonly quiet?: boolean }>(async ({ flags }) =>
      context.withEngine(flags, async (engine) => {
        const containers = await engine.listContainers(flags.all === true ? undefined : { state: 'running' });
        const pods = new Map((await engine.listPodSandboxes()).map((pod) => [String(pod.id), pod.metadata.name]));
        const nowNs = context.deps.clock.nowNs();
        if (flags.quiet === true) return context.listIds(flags, containers);
        await context.list(flags, containers, {
          'CONTAINER ID': ({ id }) => shortId(id),
          NAME: ({ metadata }) => metadata.name,
          POD: ({ podSandboxId }) => pods.get(podSandboxId) ?? shortId(podSandboxId),
          IMAGE: ({ userSpecifiedImage, image }) => userSpecifiedImage || image,
          STATE: describeState,
          ATTEMPT: ({ metadata }) => String(metadata.attempt),
          AGE: ({ createdAtNs }) => formatAge(createdAtNs, nowNs),
        });
      }),
    ),
  );
}

function addPods(program: Command, context: CliContext): void {
  const command = addGlobalOptions(program.command('pods'))
    .summary('list pods')
    .description('Lists pods, whoever made them.')
    .option('-q, --quiet', 'ids only')
    .addHelpText('after', '\nExamples:\n  $ berth pods\n  $ berth pods --output json');
  command.action(
    context.action<GlobalFlags & { readonly quiet?: boolean }>(async ({ flags }) =>
      context.withEngine(flags, async (engine) => {
        const pods = await engine.listPodSandboxes();
        const nowNs = context.deps.clock.nowNs();
        if (flags.quiet === true) return context.listIds(flags, pods);
        await context.list(flags, pods, {
          'POD ID': ({ id }) => shortId(id),
          NAME: ({ metadata }) => metadata.name,
          NAMESPACE: ({ metadata }) => metadata.namespace,
          STATE: ({ state }) => (state === 'ready' ? 'ready' : 'not ready'),
          ADDRESS: ({ ips, namespaces }) => ips[0] ?? (namespaces.network === 'node' ? 'host' : '-'),
          PORTS: ({ portMappings }) =>
            portMappings
              .filter(({ hostPort }) => hostPort > 0)
              .map(({ hostIp, hostPort, containerPort, protocol }) => `${hostIp === undefined ? '' : `${hostIp}:`}${hostPort}->${containerPort}/${protocol}`)
              .join(' ') || '-',
          AGE: ({ createdAtNs }) => formatAge(createdAtNs, nowNs),
        });
      }),
    ),
  );
}

async function inspect(engine: Engine, reference: string): Promise<unknown> {
  const pod = await findPod(engine, reference);
  if (pod !== undefined) return { kind: 'pod', ...pod, containers: await engine.listContainers({ podSandboxId: pod.id }) };
  const container = await findContainer(engine, reference);
  if (container !== undefined) return { kind: 'container', ...container };
  const image = await engine.imageStatus(reference);
  if (image !== undefined) return { kind: 'image', ...image, info: await engine.imageInfo(image.id) };
  throw new RuntimeError('notFound', `inspect ${JSON.stringify(reference)}: no such pod, container or image`);
}

function addInspect(program: Command, context: CliContext): void {
  const command = addGlobalOptions(program.command('inspect'))
    .summary('show everything about a pod, container or image')
    .description('Prints a JSON array with an object for each name. A pod goes before a container of the same name; POD/CONTAINER names a container.')
    .argument('<name...>', 'names or ids of pods, containers or images')
    .addHelpText('after', '\nExamples:\n  $ berth inspect hello\n  $ berth inspect hello/server localhost/hello-node:latest');
  command.action(
    context.action<GlobalFlags>(async ({ rest, flags }) =>
      context.withEngine(flags, async (engine) => {
        const found: unknown[] = [];
        for (const reference of rest) found.push(await inspect(engine, reference));
        await context.json(found);
      }),
    ),
  );
}

interface LogFlags extends GlobalFlags {
  readonly follow?: boolean;
  readonly tail?: number;
  readonly since?: string;
  readonly timestamps?: boolean;
}

function decodeTail(text: string): number {
  if (text === 'all') return Number.POSITIVE_INFINITY;
  if (!/^\d{1,7}$/.test(text)) throw new RuntimeError('invalidArgument', 'must be a number of lines up to 9999999, or all');
  return Number(text);
}

/** Ends when the container has ended, or with SIGINT. */
async function followEnd(engine: Engine, id: string, ended: AbortController): Promise<void> {
  try {
    await engine.waitContainer(id, ended.signal);
  } catch (error) {
    if (!ended.signal.aborted) throw error;
  } finally {
    ended.abort();
  }
}

async function printLog(context: CliContext, engine: Engine, container: ContainerStatus, flags: LogFlags, sinceMs: number | undefined): Promise<void> {
  const { io, logFiles } = context.deps;
  if (container.logPath === '') throw new RuntimeError('failedPrecondition', `read log of container ${container.metadata.name}: it has no log file`);
  const parser = new LogParser();
  const printer = new LogPrinter(io, { timestamps: flags.timestamps === true });
  const limited = flags.tail !== undefined && Number.isFinite(flags.tail);
  const printChunks = async (options: { readonly follow: boolean; readonly ended: AbortSignal; readonly skipBytes: number }): Promise<number> => {
    const tail = limited && !options.follow ? new LogTail(flags.tail ?? 0) : undefined;
    let bytes = 0;
    for await (const chunk of logFiles.read(container.logPath, options)) {
      const fresh = chunk.subarray(Math.max(0, options.skipBytes - bytes));
      bytes += chunk.length;
      for (const entry of parser.push(fresh)) {
        if (!isSince(entry, sinceMs)) continue;
        if (tail === undefined) await printer.print(entry);
        else tail.push(entry);
      }
    }
    for (const entry of tail?.take() ?? []) await printer.print(entry);
    return bytes;
  };
  const ended = new AbortController();
  // The last lines are only known at the end of the file; following goes on behind them.
  const skipBytes = limited || flags.follow !== true ? await printChunks({ follow: false, ended: ended.signal, skipBytes: 0 }) : 0;
  if (flags.follow !== true) return;
  const end = (): void => ended.abort();
  const stopListening = io.onSignal('SIGINT', end);
  for (const sink of [io.stdout, io.stderr]) sink.closed.addEventListener('abort', end, { once: true });
  try {
    await Promise.all([printChunks({ follow: true, ended: ended.signal, skipBytes }), followEnd(engine, container.id, ended)]);
  } finally {
    ended.abort();
    stopListening();
  }
}

function addLogs(program: Command, context: CliContext): void {
  const command = addGlobalOptions(program.command('logs'))
    .summary('print the output of a container')
    .description('Prints the log of a container, its stdout to stdout and its stderr to stderr. Only the newest start of a container is shown.')
    .argument('<container>', 'name, id, POD/CONTAINER, or a pod with one container')
    .option('-f, --follow', 'go on until the container ends')
    .option('--tail <lines>', 'only the last lines, or all', flag(decodeTail))
    .option('--since <time>', 'only lines since 10m, 1h30m or 2024-01-31T12:00:00Z')
    .option('--timestamps', 'put the time before each line')
    .addHelpText('after', '\nExamples:\n  $ berth logs hello/server\n  $ berth logs -f --tail 20 web');
  command.action(
    context.action<LogFlags>(async ({ args: [reference = ''], flags }) => {
      const sinceMs = flags.since === undefined ? undefined : parseSince(flags.since, Number(context.deps.clock.nowNs() / 1_000_000n));
      if (flags.since !== undefined && sinceMs === undefined)
        usageError(command, `--since ${JSON.stringify(flags.since)} must be a duration such as 10m or a time such as 2024-01-31T12:00:00Z`);
      await context.withEngine(flags, async (engine) => printLog(context, engine, await getContainer(engine, reference), flags, sinceMs), { lasting: flags.follow === true });
    }),
  );
}

/** Adds the commands to the program. */
export function addQueryCommands(program: Command, context: CliContext): void {
  addPs(program, context);
  addPods(program, context);
  addLogs(program, context);
  addInspect(program, context);
}
