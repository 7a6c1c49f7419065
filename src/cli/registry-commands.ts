/** `pull`, `push`, `image tags`, `image referrers`: what speaks to a registry. In: argv. Out: engine calls. */
import { type Command, Option } from 'commander';
import { RuntimeError } from '#core';
import { type Platform, formatReference, parseReference } from '#oci';
import { type CliContext, type GlobalFlags, addGlobalOptions, flag } from './context.ts';
import { type CredentialFlags, addCredentialOptions, credentialsFor } from './credentials.ts';
import { formatBytes, formatDuration, printable } from './human.ts';
import { decodeName, decodePlatformText, decodeRepository, decodeTag, describeImage, getImage, nameOf, tableOr } from './image-words.ts';
import { runTransfer } from './transfer.ts';

interface PullFlags extends GlobalFlags, CredentialFlags {
  readonly platform?: Platform;
  readonly quiet?: boolean;
}

function addPull(program: Command, context: CliContext): void {
  const command = addGlobalOptions(program.command('pull'))
    .summary('fetch an image from a registry')
    .description('Fetches an image, verifies and unpacks it. A pull that was cut off goes on where it was.')
    .argument('<image>', 'name, such as docker.io/library/busybox:latest, or NAME@DIGEST', flag(decodeName))
    .addOption(
      new Option('--platform <os/arch>', 'platform to take of an image for several, such as linux/arm64/v8 (default: that of this host)').argParser(flag(decodePlatformText)),
    )
    .option('-q, --quiet', 'print the id only');
  addCredentialOptions(command).addHelpText(
    'after',
    `
Registries are reached over TLS; mirrors, own authorities and plain HTTP are configured in /etc/berth/certs.d, see docs/registries.md.

Examples:
  $ berth pull busybox
  $ berth pull --platform linux/arm64 docker.io/library/busybox:1.36
  $ berth pull --username me --password-stdin registry.example.com/app:1 < password`,
  );
  command.action(
    context.action<PullFlags>(async ({ args: [name = ''], flags }) => {
      const credentials = await credentialsFor(context, { command, flags, reference: name });
      const { clock } = context.deps;
      await context.withEngine(
        flags,
        async (engine) => {
          const startMs = clock.monotonicMs();
          const kept = 'what was fetched is kept, and the same command goes on from there';
          const image = await runTransfer(context, { title: `pull ${name}`, quiet: flags.quiet === true, kept }, async ({ onProgress, signal }) =>
            engine.pullImage(name, { ...credentials, ...(flags.platform === undefined ? {} : { platform: flags.platform }), onProgress }, signal),
          );
          if (flags.output === 'json') await context.json(image);
          else await context.print(flags.quiet === true ? image.id : `${describeImage(image)}  ${formatDuration(clock.monotonicMs() - startMs)}`);
        },
        { lasting: true },
      );
    }),
  );
}

function addPush(program: Command, context: CliContext): void {
  const command = addGlobalOptions(program.command('push'))
    .summary('send an image to a registry')
    .description('Sends an image to a registry. What is there already is not sent again. The manifest stays what it was, so its digest does too.')
    .argument('<image>', 'name or id of an image of this host')
    .argument('[destination]', 'name to send it to (default: the name given first)', flag(decodeTag))
    .option('-q, --quiet', 'print NAME@DIGEST only');
  addCredentialOptions(command).addHelpText(
    'after',
    `
Examples:
  $ berth push registry.example.com/app:1
  $ berth push localhost/tools registry.example.com/team/tools:1
  $ berth push --username me --password-stdin localhost/tools 127.0.0.1:5000/tools < password`,
  );
  command.action(
    context.action<GlobalFlags & CredentialFlags & { readonly quiet?: boolean }>(async ({ args: [source = '', destination], flags }) => {
      // An id says what to push and not where; then the engine asks for a destination.
      const reference = destination ?? referenceOrNothing(source);
      const credentials = reference === undefined ? {} : await credentialsFor(context, { command, flags, reference });
      await context.withEngine(
        flags,
        async (engine) => {
          const image = await getImage(engine, { verb: 'push', name: source });
          if (destination === undefined && nameOf(image, source) === undefined)
            throw new RuntimeError('invalidArgument', `push image ${JSON.stringify(source)}: is an id or digest; say where to: berth push ${printable(source)} REGISTRY/NAME:TAG`);
          const title = `push ${destination ?? source}`;
          const pushed = await runTransfer(context, { title, quiet: flags.quiet === true, kept: 'blobs that arrived stay at the registry' }, async ({ onProgress, signal }) =>
            engine.pushImage(source, { ...credentials, ...(destination === undefined ? {} : { destination }), onProgress }, signal),
          );
          if (flags.output === 'json') return context.json(pushed);
          const at = `${printable(pushed.reference.replace(/:[^:/]*$/, ''))}@${pushed.digest}`;
          if (flags.quiet === true) return context.print(at);
          const mounted = pushed.mountedBytes > 0 ? `, ${formatBytes(pushed.mountedBytes)} taken over at the registry` : '';
          const sent = pushed.pushedBytes + pushed.mountedBytes === 0 ? 'nothing to send' : `${formatBytes(pushed.pushedBytes)} sent${mounted}`;
          await context.print(`${printable(pushed.reference)}  ${pushed.digest}  ${sent}`);
        },
        { lasting: true },
      );
    }),
  );
}

function referenceOrNothing(text: string): string | undefined {
  try {
    parseReference(text);
    return text;
  } catch {
    return undefined;
  }
}

/** Registries differ in their order; people expect 9 before 10. */
const byVersion = new Intl.Collator('en', { numeric: true });

function addTags(image: Command, context: CliContext): void {
  const command = addGlobalOptions(image.command('tags'))
    .summary('list the tags of a repository at its registry')
    .description('Lists the tags of a repository at its registry, one a line. It fetches no image.')
    .argument('<repository>', 'name without tag, such as docker.io/library/busybox', flag(decodeRepository));
  addCredentialOptions(command).addHelpText('after', '\nExamples:\n  $ berth image tags registry.example.com/app\n  $ berth image tags --output json busybox');
  command.action(
    context.action<GlobalFlags & CredentialFlags>(async ({ args: [repository = ''], flags }) => {
      const credentials = await credentialsFor(context, { command, flags, reference: repository });
      await context.withEngine(flags, async (engine) => {
        const found = await runTransfer(context, { title: `list tags of ${repository}`, quiet: true }, async ({ signal }) => engine.imageTags(repository, credentials, signal));
        const tags = [...found].sort(byVersion.compare);
        if (flags.output === 'json') return context.json(tags);
        await context.deps.io.stdout.write(tags.map((tag) => `${printable(tag)}\n`).join(''));
      });
    }),
  );
}

function addReferrers(image: Command, context: CliContext): void {
  const command = addGlobalOptions(image.command('referrers'))
    .summary('list what refers to an image at its registry')
    .description('Lists the manifests at a registry that refer to an image: signatures, lists of parts, attestations. It fetches none of them.')
    .argument('<image>', 'name, such as registry.example.com/app:1, or NAME@DIGEST', flag(decodeName))
    .option('--type <artifact-type>', 'only those of this artifact type');
  addCredentialOptions(command).addHelpText(
    'after',
    '\nExamples:\n  $ berth image referrers registry.example.com/app:1\n  $ berth image referrers --type application/spdx+json registry.example.com/app:1',
  );
  command.action(
    context.action<GlobalFlags & CredentialFlags & { readonly type?: string }>(async ({ args: [name = ''], flags }) => {
      const credentials = await credentialsFor(context, { command, flags, reference: name });
      await context.withEngine(flags, async (engine) => {
        const options = { ...credentials, ...(flags.type === undefined ? {} : { artifactType: flags.type }) };
        const referrers = await runTransfer(context, { title: `list referrers of ${name}`, quiet: true }, async ({ signal }) => engine.imageReferrers(name, options, signal));
        if (flags.output === 'json') return context.json(referrers);
        const rows = referrers.map(({ digest, artifactType, mediaType, sizeBytes }) => [digest, artifactType ?? mediaType, formatBytes(sizeBytes)]);
        await context.print(tableOr(`nothing refers to ${printable(formatReference(parseReference(name)))}`, ['DIGEST', 'TYPE', 'MANIFEST SIZE'], rows));
      });
    }),
  );
}

/** Adds `pull` and `push` to the program. */
export function addTransferCommands(program: Command, context: CliContext): void {
  addPull(program, context);
  addPush(program, context);
}

/** Adds `tags` and `referrers` to the group `image`. */
export function addRegistryQueries(image: Command, context: CliContext): void {
  addTags(image, context);
  addReferrers(image, context);
}
