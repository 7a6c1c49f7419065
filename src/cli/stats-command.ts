/** `stats`: what pods and containers use. In: argv. Out: engine reads as a table or JSON, once or again and again. It changes nothing. */
import type { Command } from 'commander';
import type { ContainerStats, DeviceIo, Engine, GroupUsage, NetworkUsage, PodSandboxStats } from '#pod';
import { type CliContext, type GlobalFlags, addGlobalOptions } from './context.ts';
import { formatBytes, formatTable, shortId } from './human.ts';
import { getPodOrContainer } from './references.ts';

/** Between two looks: rates are those of this time. */
const intervalMs = 1000;
/** To the first place of the screen, then what is below it is cleared. Source: ECMA-48, CUP and ED. */
const clearScreen = '\u001b[H\u001b[J';

/** What is looked at: nothing named means every pod that is ready. */
type Selection = readonly ({ readonly kind: 'pod'; readonly id: string } | { readonly kind: 'container'; readonly id: string })[] | undefined;

/** One look, in the order of the selection. */
type Look = readonly (({ readonly kind: 'pod' } & PodSandboxStats) | ({ readonly kind: 'container' } & ContainerStats))[];

interface Row {
  readonly pod: string;
  /** Empty: the pod as a whole. */
  readonly container: string;
  readonly usage: GroupUsage | undefined;
  readonly network: NetworkUsage | undefined;
  readonly layerBytes: number | undefined;
  readonly processes: number | undefined;
}

async function select(engine: Engine, references: readonly string[]): Promise<Selection> {
  if (references.length === 0) return undefined;
  const found = [];
  for (const reference of references) {
    const one = await getPodOrContainer(engine, reference);
    found.push(one.kind === 'pod' ? ({ kind: 'pod', id: one.pod.id } as const) : ({ kind: 'container', id: one.container.id } as const));
  }
  return found;
}

async function look(engine: Engine, selection: Selection): Promise<Look> {
  if (selection === undefined) return (await engine.listPodSandboxStats()).map((stats) => ({ kind: 'pod', ...stats }));
  return Promise.all(
    selection.map(async ({ kind, id }) =>
      kind === 'pod' ? ({ kind, ...(await engine.podSandboxStats(id)) } as const) : ({ kind, ...(await engine.containerStats(id)) } as const),
    ),
  );
}

function rowOf(pod: string, container: ContainerStats): Row {
  return {
    pod,
    container: container.metadata.name,
    usage: container.usage,
    network: undefined,
    layerBytes: container.writableLayer?.usedBytes,
    processes: container.usage?.processes?.processes,
  };
}

/** A pod's own group holds no process but those of its containers' groups. */
function sumProcesses(containers: readonly ContainerStats[]): number {
  return containers.reduce((sum, { usage }) => sum + (usage?.processes?.processes ?? 0), 0);
}

/** A pod's own line, then its containers that run. */
function rowsOf(found: Look, podNames: ReadonlyMap<string, string>): readonly Row[] {
  return found.flatMap((stats): readonly Row[] => {
    if (stats.kind === 'container') return [rowOf(podNames.get(stats.podSandboxId) ?? shortId(stats.podSandboxId), stats)];
    const own = { pod: stats.metadata.name, container: '', usage: stats.usage, network: stats.network, layerBytes: undefined, processes: sumProcesses(stats.containers) };
    return [own, ...stats.containers.filter(({ usage }) => usage !== undefined).map((container) => rowOf(stats.metadata.name, container))];
  });
}

const percent = (value: number | undefined): string => (value === undefined ? '-' : `${value.toFixed(1)}%`);
const bytes = (value: bigint | number | undefined): string => (value === undefined ? '-' : formatBytes(Number(value)));

/** Both ways, or nothing where neither is known. */
function traffic(values: readonly (readonly [bigint, bigint])[] | undefined): string {
  if (values === undefined) return '-';
  const [first, second] = values.reduce<readonly [bigint, bigint]>(([a, b], [c, d]) => [a + c, b + d], [0n, 0n]);
  return `${bytes(first)} / ${bytes(second)}`;
}

const columns: Readonly<Record<string, (row: Row) => string>> = {
  POD: ({ pod }) => pod,
  CONTAINER: ({ container }) => container || '-',
  CPU: ({ usage }) => percent(usage?.cpu?.nanoCores === undefined ? undefined : Number(usage.cpu.nanoCores) / 1e7),
  MEMORY: ({ usage }) => bytes(usage?.memory?.workingSetBytes),
  LIMIT: ({ usage }) => bytes(usage?.memory?.limitBytes),
  SWAP: ({ usage }) => bytes(usage?.swap?.usageBytes),
  PIDS: ({ processes }) => String(processes ?? '-'),
  'READ / WRITTEN': ({ usage }) => traffic(usage?.io?.devices.map(({ readBytes, writeBytes }: DeviceIo) => [readBytes, writeBytes])),
  'RECEIVED / SENT': ({ network }) => traffic(network?.interfaces.map(({ rxBytes, txBytes }) => [rxBytes, txBytes])),
  LAYER: ({ layerBytes }) => bytes(layerBytes),
  'PRESSURE CPU MEM IO': ({ usage }) => {
    const averages = [usage?.cpu?.pressure, usage?.memory?.pressure, usage?.io?.pressure].map((pressure) => pressure?.some?.avg10);
    return averages.every((average) => average === undefined) ? '-' : averages.map(percent).join(' ');
  },
};

/** The table of one look; exact texts are the tests' business. */
export function formatStats(found: Look, podNames: ReadonlyMap<string, string>): string[] {
  return formatTable(
    Object.keys(columns),
    rowsOf(found, podNames).map((row) => Object.values(columns).map((cell) => cell(row))),
  );
}

interface StatsFlags extends GlobalFlags {
  readonly watch?: boolean;
}

async function show(context: CliContext, engine: Engine, selection: Selection, flags: StatsFlags): Promise<void> {
  const { stdout } = context.deps.io;
  const found = await look(engine, selection);
  if (flags.output === 'json')
    return flags.watch === true
      ? stdout.write(`${JSON.stringify(found, (_key, value: unknown) => (typeof value === 'bigint' ? value.toString() : value))}\n`)
      : context.json(found);
  const names = new Map((await engine.listPodSandboxes()).map((pod) => [String(pod.id), pod.metadata.name]));
  const lines = formatStats(found, names);
  const screen = stdout.isTTY && flags.watch === true ? lines.slice(0, Math.max(1, stdout.rows - 1)) : lines;
  await stdout.write(`${stdout.isTTY && flags.watch === true ? clearScreen : ''}${screen.join('\n')}\n`);
}

/** Again and again until SIGINT, or until nobody reads. */
async function watch(context: CliContext, engine: Engine, selection: Selection, flags: StatsFlags): Promise<void> {
  const { io, clock } = context.deps;
  const ended = new AbortController();
  const end = (): void => ended.abort();
  const stopListening = io.onSignal('SIGINT', end);
  io.stdout.closed.addEventListener('abort', end, { once: true });
  try {
    while (!ended.signal.aborted) {
      await show(context, engine, selection, flags);
      await clock.sleep(intervalMs, ended.signal).catch(() => undefined);
    }
  } finally {
    stopListening();
  }
}

/** Adds the command to the program. */
export function addStatsCommand(program: Command, context: CliContext): void {
  const command = addGlobalOptions(program.command('stats'))
    .summary('show what pods and containers use')
    .description(
      'Shows processor, memory, processes, input and output, network and disk space of pods and of their containers. Rates are those of one second, in percent of one processor. ' +
        'With --watch and --output json every look is one line.',
    )
    .argument('[name...]', 'names or ids of pods or containers; none: every pod')
    .option('-w, --watch', 'again every second, until Ctrl-C')
    .addHelpText('after', '\nExamples:\n  $ berth stats\n  $ berth stats hello/server --watch');
  command.action(
    context.action<StatsFlags>(async ({ rest, flags }) =>
      context.withEngine(
        flags,
        async (engine) => {
          const selection = await select(engine, rest);
          // The first look of an engine gives no rate.
          await look(engine, selection);
          await context.deps.clock.sleep(intervalMs);
          await (flags.watch === true ? watch(context, engine, selection, flags) : show(context, engine, selection, flags));
        },
        { lasting: flags.watch === true },
      ),
    ),
  );
}
