/** `image save`, `load`, `import`, `from-host`: images that come from and go to files. In: argv. Out: engine calls. */
import { type Command, Option } from 'commander';
import { RuntimeError } from '#core';
import type { Engine, ImageArchiveFormat, ImageSummary } from '#pod';
import { type CliContext, type GlobalFlags, addGlobalOptions, flag, usageError } from './context.ts';
import { credentialsForStored } from './credentials.ts';
import { formatBytes, formatTable } from './human.ts';
import { decodeTag, describeImage, getImage } from './image-words.ts';
import { runTransfer } from './transfer.ts';

interface SaveFlags extends GlobalFlags {
  readonly file?: string;
  readonly format?: ImageArchiveFormat;
  readonly quiet?: boolean;
}

function addSave(image: Command, context: CliContext): void {
  const command = addGlobalOptions(image.command('save'))
    .summary('write images to a file')
    .description('Writes images to a file, to standard output, or to a directory.')
    .argument('<image...>', 'names or ids')
    // commander would take the name `output` for the format of every command.
    .addOption(new Option('-o, --file <path>', 'file, or directory for oci-dir, to write (default, and with -: standard output)'))
    .addOption(
      new Option('--format <format>', 'tar of an OCI layout, archive for "docker load", or an OCI layout as a directory')
        .choices(['oci-archive', 'docker-archive', 'oci-dir'])
        .default('oci-archive'),
    )
    .option('-q, --quiet', 'no progress')
    .addHelpText(
      'after',
      '\nExamples:\n  $ berth image save -o app.tar localhost/app:1\n  $ berth image save --format docker-archive localhost/app:1 | docker load\n  $ berth image save --format oci-dir -o ./layout localhost/app:1 localhost/tools',
    );
  command.action(
    context.action<SaveFlags>(async ({ rest, flags }) => {
      const { io } = context.deps;
      const format = flags.format ?? 'oci-archive';
      const file = ['-', '/dev/stdout'].includes(flags.file ?? '-') ? undefined : flags.file;
      if (file === undefined && format === 'oci-dir') usageError(command, '--format oci-dir needs --file');
      if (file === undefined && io.stdout.isTTY) usageError(command, 'standard output is a terminal; write to a file with -o or into a pipe');
      await context.withEngine(
        flags,
        async (engine) => {
          for (const name of rest) await getImage(engine, { verb: 'save', name });
          const credentials = await credentialsForStored(context, engine, rest);
          const save = async (path: string): Promise<void> => {
            const title = `save ${rest.join(' ')}`;
            const saved = await runTransfer(context, { title, quiet: flags.quiet === true, kept: 'nothing was written' }, async ({ onProgress, signal }) =>
              engine.saveImages(rest, path, { ...credentials, format, onProgress }, signal),
            );
            if (file === undefined || flags.quiet === true) return;
            if (flags.output === 'json') await context.json(saved);
            else await context.print([...saved.images.map(describeImage), `${file}  ${formatBytes(saved.sizeBytes)}`].join('\n'));
          };
          if (file !== undefined) return save(context.absolute(file));
          const transfer = await context.deps.openTransfer(context.location(flags));
          try {
            await save(transfer.path);
            for await (const chunk of transfer.read()) {
              await io.stdout.write(chunk);
              if (io.stdout.closed.aborted) throw new RuntimeError('cancelled', `save ${rest.join(' ')}: whoever reads standard output has gone`);
            }
          } finally {
            await transfer.remove();
          }
        },
        { lasting: true },
      );
    }),
  );
}

interface ImportFlags extends GlobalFlags {
  readonly input?: string;
  readonly name?: string;
  readonly quiet?: boolean;
}

/** Blobs come from a file here. */
const readingWords = { downloading: 'reading' } as const;

async function importAndPrint(context: CliContext, engine: Engine, source: { readonly path: string; readonly shown: string }, flags: ImportFlags): Promise<void> {
  const images = await runTransfer(
    context,
    { title: `import ${source.shown}`, quiet: flags.quiet === true, kept: 'only images that were complete by then are there', words: readingWords },
    async ({ onProgress, signal }) => engine.importImages(source.path, { ...(flags.name === undefined ? {} : { name: flags.name }), onProgress }, signal),
  ).catch((error: unknown) => {
    throw renamePath(error, source);
  });
  await printImages(context, images, flags);
}

/** A file of ours stands for standard input; people did not name it. */
function renamePath(error: unknown, { path, shown }: { readonly path: string; readonly shown: string }): unknown {
  if (!(error instanceof RuntimeError) || !error.message.includes(path)) return error;
  return new RuntimeError(error.code, error.message.replaceAll(path, shown), { cause: error, ...(error.errno === undefined ? {} : { errno: error.errno }) });
}

async function printImages(context: CliContext, images: readonly ImageSummary[], flags: ImportFlags): Promise<void> {
  if (flags.output === 'json') return context.json(images);
  await context.print(images.map((image) => (flags.quiet === true ? image.id : describeImage(image))).join('\n'));
}

function addLoad(image: Command, context: CliContext): void {
  const command = addGlobalOptions(image.command('load'))
    .summary('take images from an archive')
    .description('Takes the images of an archive: the tar of an OCI layout, or what "docker save" writes, compressed or not.')
    .option('-i, --input <file>', 'archive (default, and with -: standard input)')
    .option('--name <image>', 'name for the image, where the archive has one image', flag(decodeTag))
    .option('-q, --quiet', 'print the ids only')
    .addHelpText('after', '\nExamples:\n  $ berth image load -i app.tar\n  $ docker save app:1 | berth image load');
  command.action(
    context.action<ImportFlags>(async ({ flags }) => {
      const { io } = context.deps;
      const input = ['-', '/dev/stdin'].includes(flags.input ?? '-') ? undefined : flags.input;
      if (input === undefined && io.stdin.isTTY) usageError(command, 'standard input is a terminal; name a file with -i or use a pipe');
      await context.withEngine(
        flags,
        async (engine) => {
          if (input !== undefined) return importAndPrint(context, engine, { path: context.absolute(input), shown: input }, flags);
          const transfer = await context.deps.openTransfer(context.location(flags));
          try {
            await runTransfer(context, { title: 'read standard input', quiet: true }, async ({ signal }) => {
              await transfer.fill(io.stdin.read(signal));
              signal.throwIfAborted();
            });
            await importAndPrint(context, engine, { path: transfer.path, shown: 'standard input' }, flags);
          } finally {
            await transfer.remove();
          }
        },
        { lasting: true },
      );
    }),
  );
}

function addImport(image: Command, context: CliContext): void {
  addGlobalOptions(image.command('import'))
    .summary('take images from an OCI layout or an archive')
    .description('Takes the images of an OCI layout, a directory or a tar file, or of an archive that "docker save" has written.')
    .argument('<path>', 'directory or file')
    .option('--name <image>', 'name for the image, where there is one image', flag(decodeTag))
    .option('-q, --quiet', 'print the ids only')
    .addHelpText('after', '\nExamples:\n  $ berth image import ./layout --name localhost/app:1\n  $ berth image import app.tar.gz')
    .action(
      context.action<ImportFlags>(async ({ args: [path = ''], flags }) =>
        context.withEngine(flags, async (engine) => importAndPrint(context, engine, { path: context.absolute(path), shown: path }, flags), { lasting: true }),
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
    .argument('<name>', 'name of the image, such as localhost/hello-node:latest', flag(decodeTag))
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
          const files = result.files.map(({ path, sizeBytes }) => [path, formatBytes(sizeBytes)]);
          await context.print([...formatTable(['FILE', 'SIZE'], files), describeImage(result.image)].join('\n'));
        },
        { lasting: true },
      );
    }),
  );
}

/** Adds the commands to the group `image`. */
export function addArchiveCommands(image: Command, context: CliContext): void {
  addSave(image, context);
  addLoad(image, context);
  addImport(image, context);
  addFromHost(image, context);
}
