/** `explain`, `doctor`, `daemon`, `version`. In: argv. Out: what the kernel would be asked, what the host offers, the daemon. */
import type { Command } from 'commander';
import { encodeId } from '#core';
import { buildContainerConfig, planPod } from '#podrun';
import { type CliContext, type GlobalFlags, addGlobalOptions } from './context.ts';
import type { DoctorCheck, EngineLocation } from './dependencies.ts';
import { printable } from './human.ts';
import { colourOf } from './progress.ts';
import { readManifest } from './run-command.ts';

interface ExplainFlags extends GlobalFlags {
  readonly showSecrets?: boolean;
}

/** An address of the documentation range stands for the one that the pod would get. Source: RFC 5737. */
const exampleIp = '192.0.2.1';

async function explainManifest(context: CliContext, path: string, flags: ExplainFlags): Promise<readonly string[]> {
  const manifest = await readManifest(context, path);
  const facts = await context.deps.readHostFacts(context.location(flags));
  const plan = planPod(manifest, { ...facts, uid: manifest.uid ?? encodeId(new Uint8Array(16)) });
  return context.withEngine(flags, async (engine) => {
    const containers = [];
    for (const container of [...plan.init, ...plan.containers]) {
      const image = (await engine.imageStatus(container.manifest.image)) ?? {};
      containers.push(buildContainerConfig(plan, container, { attempt: 0, podIps: manifest.hostNetwork ? [] : [exampleIp], image }));
    }
    return engine.explain({ pod: plan.podConfig, containers, showSecrets: flags.showSecrets === true });
  });
}

function addExplain(program: Command, context: CliContext): void {
  const command = addGlobalOptions(program.command('explain'))
    .summary('print what the kernel would be asked')
    .description(
      'Prints the plan of a Pod manifest or of an OCI bundle as readable steps, without running anything. Values of environment variables and contents of files are redacted.',
    )
    .argument('<manifest|bundle>', 'manifest file, - for a manifest from standard input, bundle directory, or its config.json')
    .option('--show-secrets', 'print environment values and file contents')
    .addHelpText('after', '\nExamples:\n  $ berth explain examples/hello.yaml\n  $ berth explain ./bundle --show-secrets');
  command.action(
    context.action<ExplainFlags>(async ({ args: [path = ''], flags }) => {
      const { io } = context.deps;
      const isBundle = path !== '-' && (/(^|\/)config\.json$/.test(path) || (await io.isDirectory(path)));
      const lines = isBundle ? await context.deps.explainBundle(path, { showSecrets: flags.showSecrets === true }) : await explainManifest(context, path, flags);
      if (flags.output === 'json') await context.json(lines);
      else await context.print(lines.map(printable).join('\n'));
    }),
  );
}

const stateColours: Readonly<Record<DoctorCheck['state'], number>> = { ok: 32, limited: 33, missing: 31 };

/** The doctor makes nothing at the location, so it also serves a user who has none: it is one of the findings. */
function doctorLocation(context: CliContext, flags: GlobalFlags): EngineLocation {
  try {
    return context.location(flags);
  } catch {
    return { rootDirectory: '/var/lib/berth', runDirectory: '/run/berth' };
  }
}

function addDoctor(program: Command, context: CliContext): void {
  const command = addGlobalOptions(program.command('doctor'))
    .summary('say what this host offers and what is missing')
    .description('Looks at the kernel, cgroups, namespaces, file systems and tools. Ends with 1 where something is missing without which pods cannot run.')
    .addHelpText('after', '\nExamples:\n  $ berth doctor\n  $ berth doctor --output json');
  command.action(
    context.action<GlobalFlags>(async ({ flags }) => {
      const { io } = context.deps;
      const { checks } = await context.deps.doctor(doctorLocation(context, flags));
      const isMissing = checks.some(({ state }) => state === 'missing');
      if (flags.output === 'json') await context.json({ checks });
      else {
        const colour = colourOf(io.stdout, io.env);
        const width = Math.max(0, ...checks.map(({ name }) => name.length));
        for (const { name, state, detail, remedy } of checks) {
          await context.print(`${colour(stateColours[state], state.padEnd(7))}  ${name.padEnd(width)}  ${printable(detail)}`);
          if (remedy !== undefined && state !== 'ok') await context.print(`${''.padEnd(width + 11)}${printable(remedy)}`);
        }
      }
      return isMissing ? 1 : 0;
    }),
  );
}

function addDaemon(program: Command, context: CliContext): void {
  const command = addGlobalOptions(program.command('daemon'))
    .summary('serve the kubelet and other clients')
    .description('Owns the state directory and serves the CRI until SIGTERM or SIGINT. Other berth commands become its clients. Pods go on when it ends.')
    .option('--socket <path>', 'CRI socket (default: berth.sock in the run directory)')
    .addHelpText('after', '\nExamples:\n  $ berth daemon\n  $ crictl --runtime-endpoint unix:///run/berth/berth.sock pods');
  command.action(
    context.action<GlobalFlags & { readonly socket?: string }>(async ({ flags }) => {
      const { socketPath } = context.configuration(flags, flags.socket === undefined ? {} : { socketPath: flags.socket });
      const location = context.location(flags);
      return context.deps.startDaemon({ ...location, socketPath: socketPath ?? `${location.runDirectory}/berth.sock`, debug: flags.debug === true });
    }),
  );
}

function addVersion(program: Command, context: CliContext): void {
  const command = addGlobalOptions(program.command('version'))
    .summary('print the version')
    .description('Prints the version of this program.')
    .addHelpText('after', '\nExamples:\n  $ berth version --output json');
  command.action(
    context.action<GlobalFlags>(async ({ flags }) => {
      const { version } = context.deps;
      if (flags.output === 'json') await context.json({ name: 'berth', version });
      else await context.print(`berth ${version}`);
    }),
  );
}

/** Adds the commands to the program. */
export function addSystemCommands(program: Command, context: CliContext): void {
  addExplain(program, context);
  addDoctor(program, context);
  addDaemon(program, context);
  addVersion(program, context);
}
