/** `berth run`: a manifest or an image, in the foreground or detached. In: argv. Out: engine calls through a PodRunner. */
import type { Command } from 'commander';
import { RuntimeError, encodeId, limits, wrapError } from '#core';
import { parseReference, referenceName } from '#oci';
import { type PodManifest, type PodPlan, PodRunner, type RunOptions, decodeManifest, planPod } from '#podrun';
import { type CliContext, type GlobalFlags, addGlobalOptions, flag, flags, usageError } from './context.ts';
import { printable } from './human.ts';
import { parseManifestText } from './manifest-file.ts';
import { Progress, colourOf } from './progress.ts';
import {
  type ImageRunFlags,
  adjustImagePlan,
  buildImageManifest,
  decodeCapabilityFlag,
  decodeCpus,
  decodeMemory,
  decodePidsLimit,
  decodePodName,
  decodePublish,
  decodeUser,
  decodeVolume,
  envDecoder,
  nameFromImage,
} from './run-options.ts';
import { RunReport, exitStatusOf } from './run-report.ts';
import { sweepLeftovers } from './leftovers.ts';
import { LinePrefixer, connectStreams, windowSize } from './terminal.ts';

interface RunFlags extends ImageRunFlags, GlobalFlags {
  readonly detach?: boolean;
  readonly rm?: boolean;
  readonly name?: string;
}

const imageOnly = [
  'env',
  'volume',
  'publish',
  'hostname',
  'network',
  'user',
  'workdir',
  'entrypoint',
  'memory',
  'cpus',
  'pidsLimit',
  'readOnly',
  'capAdd',
  'capDrop',
  'privileged',
  'pull',
  'restart',
  'stopTimeout',
  'tty',
  'name',
] as const;

/** A name that can only be a manifest: `-`, a path that starts with `/` or `.`, or one that ends as YAML or JSON files do. Images have no such names. */
export function isManifestPath(text: string): boolean {
  return text === '-' || /^[./]/.test(text) || /\.(ya?ml|json)$/i.test(text);
}

/** Text of a manifest file or of standard input, decoded. */
export async function readManifest({ deps: { io } }: CliContext, path: string): Promise<PodManifest> {
  if (path !== '-') return decodeNamed(await io.readFile(path, { bytesMax: limits.manifestDocumentBytesMax }), path);
  const chunks: Uint8Array[] = [];
  let bytes = 0;
  for await (const chunk of io.stdin.read(new AbortController().signal)) {
    bytes += chunk.length;
    if (bytes > limits.manifestDocumentBytesMax) throw new RuntimeError('resourceExhausted', `read standard input: larger than ${limits.manifestDocumentBytesMax} bytes`);
    chunks.push(chunk);
  }
  return decodeNamed(Buffer.concat(chunks).toString('utf8'), 'standard input');
}

function decodeNamed(text: string, name: string): PodManifest {
  const documents = parseManifestText(text, name);
  try {
    return decodeManifest(documents);
  } catch (error) {
    throw wrapError(`read ${name}`, error);
  }
}

interface Source {
  readonly plan: PodPlan;
  /** The pod comes from a manifest; its containers' lines get prefixes. */
  readonly isManifest: boolean;
}

async function planSource(
  context: CliContext,
  call: { readonly target: string; readonly words: readonly string[]; readonly flags: RunFlags; readonly command: Command },
): Promise<Source> {
  const { target, words, flags: given, command } = call;
  const { clock, io } = context.deps;
  const facts = { ...(await context.deps.readHostFacts(context.location(given))), uid: encodeId(clock.randomBytes(16)) };
  if (!isManifestPath(target)) {
    const name = given.name ?? nameFromImage(target, clock.randomBytes(2));
    const build = (): PodManifest => buildImageManifest({ image: target, words, name, workingDirectory: io.workingDirectory }, given);
    return { plan: adjustImagePlan(planPod(asUsage(command, build), facts), given), isManifest: false };
  }
  const misplaced = imageOnly.find((key) => given[key] !== undefined);
  if (misplaced !== undefined) usageError(command, `--${misplaced.replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)} is for images; write it into the manifest`);
  if (words[0]?.startsWith('-') === true) usageError(command, `options such as ${words[0]} stand before the manifest`);
  if (words.length > 0) usageError(command, 'a manifest takes no command; write it into the manifest');
  const manifest = await readManifest(context, target);
  return { plan: planPod(manifest, { ...facts, uid: manifest.uid ?? facts.uid }), isManifest: true };
}

/** What is wrong in the words of the command line is a wrong usage. */
function asUsage<T>(command: Command, decode: () => T): T {
  try {
    return decode();
  } catch (error) {
    if (error instanceof RuntimeError && error.code === 'invalidArgument') usageError(command, error.message);
    throw error;
  }
}

/** First signal: an orderly end. Second: at once. */
function listenToSignals({ deps: { io } }: CliContext): { readonly stop: AbortSignal; readonly kill: AbortSignal; [Symbol.dispose](): void } {
  const stop = new AbortController();
  const kill = new AbortController();
  const onSignal = (): void => (stop.signal.aborted ? kill.abort() : stop.abort());
  const listeners = (['SIGINT', 'SIGTERM', 'SIGHUP'] as const).map((name) => io.onSignal(name, onSignal));
  return { stop: stop.signal, kill: kill.signal, [Symbol.dispose]: () => listeners.forEach((remove) => remove()) };
}

const prefixColours = [36, 33, 35, 34, 32];

/** Which container this process's input goes to. */
function inputTarget(source: Source, given: RunFlags, command: Command): string | undefined {
  if (given.interactive !== true) return undefined;
  const wanting = source.plan.containers.filter(({ manifest }) => manifest.stdin);
  if (wanting.length !== 1) usageError(command, `--interactive needs exactly one container with stdin: true, the manifest has ${wanting.length}`);
  return wanting[0]?.name;
}

function attachTo(context: CliContext, source: Source, target: Progress, input: string | undefined): NonNullable<RunOptions['attach']> {
  const { io } = context.deps;
  const colour = colourOf(io.stdout, io.env);
  const names = [...source.plan.init, ...source.plan.containers].map(({ name }) => name);
  const width = Math.max(...names.map((name) => name.length));
  return async ({ name, tty }, streams) => {
    if (!source.isManifest || name === input) {
      // Live lines and a program that draws itself cannot share a screen.
      await target.finish();
      return connectStreams(io, streams, { stdin: name === input, tty });
    }
    const prefixer = new LinePrefixer(colour(prefixColours[names.indexOf(name) % prefixColours.length] ?? 36, `${name.padEnd(width)} | `), (line) => target.line(line));
    for await (const { stream, data } of streams.output) {
      prefixer.push(stream, data);
      await target.flush();
    }
    prefixer.end();
  };
}

/** After a detached run has returned nobody restarts a container, which a manifest may have expected. */
async function noteRestarts({ deps: { io } }: CliContext, plan: PodPlan): Promise<void> {
  const { restartPolicy } = plan.manifest;
  const sidecar = plan.init.find(({ role }) => role === 'sidecar');
  if (restartPolicy === 'Never' && sidecar === undefined) return;
  const wish = restartPolicy === 'Never' ? `container ${printable(sidecar?.name ?? '')} has restartPolicy Always` : `restartPolicy is ${restartPolicy}`;
  await io.stderr.write(`berth: note: ${wish}, but nobody restarts a container after --detach\n`);
}

async function runPlan(context: CliContext, source: Source, given: RunFlags, command: Command): Promise<number> {
  const { io, clock } = context.deps;
  const detach = given.detach === true;
  const remove = given.rm ?? (source.isManifest && !detach);
  if (detach && given.rm === true) usageError(command, '--rm cannot be used with --detach: nobody would be there to remove the pod');
  if (given.tty === true && given.interactive === true && !detach && !io.stdin.isTTY) usageError(command, '--tty with --interactive needs a terminal as standard input');
  const input = detach ? undefined : inputTarget(source, given, command);
  const json = given.output === 'json';
  // Stages of an image's run would stand in the way of its output; only a pull is shown, and that where a person looks.
  const quiet = json || !source.isManifest;
  const sink = source.isManifest && !json ? io.stdout : io.stderr;
  const target = new Progress(json ? { ...sink, isTTY: false, write: async () => undefined } : sink, clock);
  if (detach) await noteRestarts(context, source.plan);
  using signals = listenToSignals(context);
  // Awaited here: the listeners must stay until the pod has ended.
  return await context.withEngine(
    given,
    async (engine) => {
      const volumes = context.deps.openVolumes(context.location(given));
      await sweepLeftovers(engine, volumes);
      const runner = new PodRunner({
        engine,
        volumes,
        clock,
        findCredentials: async (image) => context.deps.findCredentials(referenceName(parseReference(image))),
      });
      try {
        const result = await runner.run(source.plan, {
          detach,
          remove,
          onEvent: new RunReport(target, { colour: colourOf(sink, io.env), quiet }).show,
          ...(detach || json ? {} : { attach: attachTo(context, source, target, input), windowSize: () => windowSize(io) }),
          stopSignal: signals.stop,
          killSignal: signals.kill,
        });
        await target.finish();
        if (json) await context.json(result);
        else if (detach) await context.print(source.isManifest ? `${printable(source.plan.manifest.name)} is running (${result.podSandboxId.slice(0, 12)})` : result.podSandboxId);
        return detach ? 0 : exitStatusOf(result);
      } catch (error) {
        if (signals.stop.aborted && error instanceof RuntimeError && error.code === 'cancelled') context.errorStatus = 130;
        throw error;
      } finally {
        await target.finish();
      }
    },
    { lasting: true },
  );
}

/** Adds `run` to the program. */
export function addRunCommand(program: Command, context: CliContext): void {
  const command = program
    .command('run')
    .summary('run a Pod manifest, or an image and a command')
    .description(
      'Runs a pod: from a Kubernetes Pod manifest (a file that ends in .yaml, .yml or .json, a path that starts with . or /, or - for standard input), or from an image and a command. In the foreground it shows the output and ends with the pod.',
    )
    .argument('<manifest|image>', 'manifest file, -, or image')
    .argument('[command...]', 'command and arguments, for an image')
    .passThroughOptions()
    .option('-d, --detach', 'start everything and return')
    .option('--rm', 'remove the pod when it ends (default for a manifest in the foreground)')
    .option('--no-rm', 'keep the pod, its logs and volumes after the end')
    .option('-i, --interactive', 'connect standard input')
    .option('-t, --tty', 'give the container a terminal')
    .option('--name <name>', 'name of the pod and container', flag(decodePodName))
    .option('--hostname <name>', 'host name', flag(decodePodName))
    .option('-e, --env <name=value>', "environment variable; NAME alone takes this process's value", flags(envDecoder(context.deps.io.env)))
    .option('-v, --volume <host:container[:mode]>', 'host path in the container; modes ro, rw, rslave, rshared', flags(decodeVolume))
    .option('-p, --publish <[ip:][host:]port[/protocol]>', 'port of the host that leads to a port of the container', flags(decodePublish))
    .option('-u, --user <uid[:gid]|name>', 'user', flag(decodeUser))
    .option('-w, --workdir <dir>', 'working directory')
    .option('--entrypoint <program>', "program instead of the image's entry point")
    .option('--memory <quantity>', 'memory limit, such as 64Mi', flag(decodeMemory))
    .option('--cpus <quantity>', 'CPU limit, such as 0.5 or 500m', flag(decodeCpus))
    .option('--pids-limit <number>', 'most processes', flag(decodePidsLimit))
    .option('--read-only', 'read-only root file system')
    .option('--cap-add <name>', 'add a capability', flags(decodeCapabilityFlag))
    .option('--cap-drop <name>', 'drop a capability, or ALL', flags(decodeCapabilityFlag))
    .option('--privileged', 'no confinement: all capabilities and devices')
    .option('--stop-timeout <seconds>', 'grace period of the stop signal (default: 10)', flag(decodeSeconds));
  command.addOption(command.createOption('--network <mode>', 'host or pod (default: pod)').choices(['host', 'pod']));
  command.addOption(command.createOption('--pull <policy>', 'always, missing or never (default: missing; never below localhost/)').choices(['always', 'missing', 'never']));
  command.addOption(command.createOption('--restart <policy>', 'no, on-failure or always, while in the foreground (default: no)').choices(['no', 'on-failure', 'always']));
  addGlobalOptions(command).addHelpText(
    'after',
    `
Exit status: of an image its container's exit code; of a manifest 0 if every container ended with 0, else the first other one.
The first SIGINT or SIGTERM stops the pod in order, the second at once.

Examples:
  $ berth run examples/hello.yaml
  $ berth run --rm -it busybox sh
  $ berth run -d --name web -p 8080:80 nginx
  $ cat pod.yaml | berth run -`,
  );
  command.action(
    context.action<RunFlags>(async ({ args: [target = ''], rest, flags: given }) =>
      runPlan(context, await planSource(context, { target, words: rest, flags: given, command }), given, command),
    ),
  );
}

/** A number of seconds up to a day. */
export function decodeSeconds(text: string): number {
  if (!/^\d{1,5}$/.test(text) || Number(text) > 86_400) throw new RuntimeError('invalidArgument', 'must be a number of seconds up to 86400');
  return Number(text);
}
