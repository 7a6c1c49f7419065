/** `pull`, `rmi`, `image from-host`, `image import`. In: argv. Out: engine calls. */
import type { Command } from 'commander';
import { RuntimeError } from '#core';
import { parseReference } from '#oci';
import type { ImageSummary, RegistryAuth } from '#pod';
import { type CliContext, type GlobalFlags, addGlobalOptions, flag, usageError } from './context.ts';
import { formatBytes, formatDuration, formatTable, printable, shortId } from './human.ts';
import { Progress } from './progress.ts';
import { showPull } from './run-report.ts';

const passwordBytesMax = 64 * 1024;

function describeImage(image: ImageSummary): string {
  return `${printable(image.names.join(' ') || shortId(image.id))}  ${shortId(image.id)}  ${formatBytes(image.sizeBytes)}`;
}

const decodeName = (text: string): string => {
  parseReference(text);
  return text;
};

async function readPassword({ deps: { io } }: CliContext): Promise<string> {
  const chunks: Uint8Array[] = [];
  let bytes = 0;
  for await (const chunk of io.stdin.read(new AbortController().signal)) {
    bytes += chunk.length;
    if (bytes > passwordBytesMax) throw new RuntimeError('invalidArgument', `read the password: larger than ${passwordBytesMax} bytes`);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks)
    .toString('utf8')
    .replace(/\r?\n$/, '');
}

interface PullFlags extends GlobalFlags {
  readonly username?: string;
  readonly passwordStdin?: boolean;
}

function addPull(program: Command, context: CliContext): void {
  const command = addGlobalOptions(program.command('pull'))
    .summary('fetch an image from a registry')
    .description('Fetches an image, verifies and unpacks it.')
    .argument('<image>', 'name, such as docker.io/library/busybox:latest', flag(decodeName))
    .option('--username <name>', 'user at the registry')
    .option('--password-stdin', 'read the password from standard input')
    .addHelpText('after', '\nExamples:\n  $ berth pull busybox\n  $ berth pull --username me --password-stdin registry.example.com/app:1 < password');
  command.action(
    context.action<PullFlags>(async ({ args: [name = ''], flags }) => {
      const { io, clock } = context.deps;
      if ((flags.username === undefined) !== (flags.passwordStdin === undefined)) usageError(command, '--username and --password-stdin belong together');
      const auth: RegistryAuth | undefined = flags.username === undefined ? undefined : { username: flags.username, password: await readPassword(context) };
      await context.withEngine(
        flags,
        async (engine) => {
          const target = new Progress(io.stderr);
          const abort = new AbortController();
          const listeners = (['SIGINT', 'SIGTERM'] as const).map((signal) => io.onSignal(signal, () => abort.abort()));
          const startMs = clock.monotonicMs();
          try {
            const image = await engine.pullImage(
              name,
              { ...(auth === undefined ? {} : { auth }), onProgress: (progress) => showPull(target, 'pull', name, progress) },
              abort.signal,
            );
            await target.finish();
            if (flags.output === 'json') await context.json(image);
            else await context.print(`${describeImage(image)}  ${formatDuration(clock.monotonicMs() - startMs)}`);
          } catch (error) {
            if (abort.signal.aborted) {
              context.errorStatus = 130;
              throw new RuntimeError('cancelled', `pull ${name}: interrupted`, { cause: error });
            }
            throw error;
          } finally {
            for (const stop of listeners) stop();
            await target.finish();
          }
        },
        { lasting: true },
      );
    }),
  );
}

function addRmi(program: Command, context: CliContext): void {
  const command = addGlobalOptions(program.command('rmi'))
    .summary('remove images')
    .description('Removes images from this host. An image that a container uses is refused.')
    .argument('<image...>', 'names or ids')
    .addHelpText('after', '\nExamples:\n  $ berth rmi busybox\n  $ berth rmi $(berth images -q)');
  command.action(
    context.action<GlobalFlags>(async ({ rest, flags }) =>
      context.withEngine(flags, async (engine) => {
        for (const name of rest) {
          const image = await engine.imageStatus(name);
          if (image === undefined) throw new RuntimeError('notFound', `remove image ${JSON.stringify(name)}: no such image`);
          const user = (await engine.listContainers()).find(({ imageId }) => imageId === image.id);
          if (user !== undefined)
            throw new RuntimeError('failedPrecondition', `remove image ${JSON.stringify(name)}: container ${user.metadata.name} (${shortId(user.id)}) uses it; remove that first`);
          await engine.removeImage(name);
          await context.print(printable(name));
        }
      }),
    ),
  );
}

interface FromHostFlags extends GlobalFlags {
  readonly entrypoint?: readonly string[];
  readonly env?: readonly string[];
  readonly workdir?: string;
}

const collect = (value: string, previous: readonly string[] | undefined): readonly string[] => [...(previous ?? []), value];

function decodeEnvText(text: string): string {
  if (!/^[A-Za-z_][A-Za-z0-9_]*=/.test(text)) throw new RuntimeError('invalidArgument', 'must be NAME=VALUE');
  return text;
}

function addFromHost(image: Command, context: CliContext): void {
  const command = addGlobalOptions(image.command('from-host'))
    .summary('make an image from programs of this host')
    .description('Makes an image from executables of this host, their interpreter and libraries, and nothing else. It prints the files that it took.')
    .argument('<name>', 'name of the image, such as localhost/hello-node:latest', flag(decodeName))
    .argument('<executable...>', 'absolute paths of programs')
    .option('--entrypoint <word>', 'entry point, one word each time (default: the first executable)', collect)
    .option('-e, --env <name=value>', 'environment variable of the image', (text: string, previous: readonly string[] | undefined) => collect(flag(decodeEnvText)(text), previous))
    .option('-w, --workdir <dir>', 'working directory of the image')
    .addHelpText('after', '\nExamples:\n  $ berth image from-host localhost/hello-node:latest /usr/bin/node\n  $ berth image from-host localhost/tools /bin/sh /bin/ls /bin/cat');
  command.action(
    context.action<FromHostFlags>(async ({ args: [name = ''], rest, flags }) => {
      const relative = rest.find((path) => !path.startsWith('/'));
      if (relative !== undefined) usageError(command, `executable ${JSON.stringify(relative)} must be an absolute path`);
      await context.withEngine(
        flags,
        async (engine) => {
          const result = await engine.imageFromHost({
            name,
            executables: rest,
            ...(flags.entrypoint === undefined ? {} : { entrypoint: flags.entrypoint }),
            ...(flags.env === undefined ? {} : { env: flags.env }),
            ...(flags.workdir === undefined ? {} : { workingDir: flags.workdir }),
          });
          if (flags.output === 'json') return context.json(result);
          await context.print(
            [
              ...formatTable(
                ['FILE', 'SIZE'],
                result.files.map(({ path, sizeBytes }) => [path, formatBytes(sizeBytes)]),
              ),
              describeImage(result.image),
            ].join('\n'),
          );
        },
        { lasting: true },
      );
    }),
  );
}

function addImport(image: Command, context: CliContext): void {
  const command = addGlobalOptions(image.command('import'))
    .summary('import an OCI image layout')
    .description('Imports the images of an OCI layout: a directory or a tar file.')
    .argument('<path>', 'directory or tar file')
    .option('--name <image>', 'name for the image, where the layout has one image', flag(decodeName))
    .addHelpText('after', '\nExamples:\n  $ berth image import ./layout --name localhost/app:1');
  command.action(
    context.action<GlobalFlags & { readonly name?: string }>(async ({ args: [path = ''], flags }) =>
      context.withEngine(
        flags,
        async (engine) => {
          const { workingDirectory } = context.deps.io;
          const images = await engine.importImages(path.startsWith('/') ? path : `${workingDirectory}/${path}`, flags.name === undefined ? {} : { name: flags.name });
          if (flags.output === 'json') return context.json(images);
          for (const imported of images) await context.print(describeImage(imported));
        },
        { lasting: true },
      ),
    ),
  );
}

/** Adds the commands to the program. */
export function addImageCommands(program: Command, context: CliContext): void {
  addPull(program, context);
  addRmi(program, context);
  const image = addGlobalOptions(program.command('image'))
    .summary('make images')
    .description('Makes images without a registry.')
    .addHelpText('after', '\nExamples:\n  $ berth image from-host localhost/tools /bin/busybox\n  $ berth image import ./layout --name localhost/app:1');
  addFromHost(image, context);
  addImport(image, context);
}
