/** The group `image`, and `images` and `rmi` beside it: what there is, names, pins, removal. In: argv. Out: engine calls. */
import type { Command } from 'commander';
import { RuntimeError } from '#core';
import type { Engine } from '#pod';
import { addArchiveCommands } from './archive-commands.ts';
import { type CliContext, type GlobalFlags, addGlobalOptions, flag } from './context.ts';
import { formatAge, formatBytes, printable, shortId } from './human.ts';
import { addImageCareCommands } from './image-care-commands.ts';
import { decodeTag, describeImage, getImage, nameOf } from './image-words.ts';
import { addRegistryQueries, addTransferCommands } from './registry-commands.ts';

/** `images` at the top, `image ls` in the group: the same. */
function addList(parent: Command, name: string, context: CliContext): void {
  addGlobalOptions(parent.command(name))
    .summary('list images')
    .description('Lists the images of this host, one row for each name.')
    .option('-q, --quiet', 'ids only')
    .option('--digests', 'show the digests of repositories')
    .addHelpText('after', `\nExamples:\n  $ berth ${parent.name() === 'image' ? 'image ' : ''}${name}\n  $ berth ${parent.name() === 'image' ? 'image ' : ''}${name} --output json`)
    .action(
      context.action<GlobalFlags & { readonly quiet?: boolean; readonly digests?: boolean }>(async ({ flags }) =>
        context.withEngine(flags, async (engine) => {
          const images = await engine.listImages();
          const nowNs = context.deps.clock.nowNs();
          if (flags.quiet === true) return context.listIds(flags, images);
          if (flags.output === 'json') return context.json(images);
          // One row per name, as people look for names; what has only a digest is found by its repository.
          const rows = images.flatMap((image) => (image.names.length === 0 ? ['<none>'] : image.names).map((imageName) => ({ name: imageName, image })));
          await context.list(flags, rows, {
            NAME: ({ name: imageName }) => imageName,
            'IMAGE ID': ({ image }) => shortId(image.id),
            ...(flags.digests === true ? { DIGEST: ({ name: imageName, image }: (typeof rows)[number]) => digestOf(imageName, image.digests) } : {}),
            SIZE: ({ image }) => formatBytes(image.sizeBytes),
            AGE: ({ image }) => formatAge(image.createdAtNs, nowNs),
            '': ({ image }) => [image.kind === 'artifact' ? 'artifact' : '', image.pinned ? 'pinned' : ''].filter((note) => note !== '').join(', '),
          });
        }),
      ),
    );
}

/** The digest under which the name's repository has the image; for what has no name any digest, with its repository. */
function digestOf(name: string, digests: readonly string[]): string {
  const repository = name.replace(/:[^:/]*$/, '');
  const own = digests.find((digest) => digest.startsWith(`${repository}@`));
  return own?.slice(repository.length + 1) ?? (name === '<none>' ? digests[0] : undefined) ?? '-';
}

function addInspect(image: Command, context: CliContext): void {
  addGlobalOptions(image.command('inspect'))
    .summary('show everything about images')
    .description('Prints a JSON array with an object for each image: names, digests, configuration, layers.')
    .argument('<image...>', 'names or ids')
    .addHelpText('after', '\nExamples:\n  $ berth image inspect busybox\n  $ berth image inspect 3f57d9401f8d | jq .[0].info.config')
    .action(
      context.action<GlobalFlags>(async ({ rest, flags }) =>
        context.withEngine(flags, async (engine) => {
          const found: unknown[] = [];
          for (const name of rest) {
            const status = await getImage(engine, { verb: 'inspect', name });
            found.push({ ...status, info: await engine.imageInfo(status.id) });
          }
          await context.json(found);
        }),
      ),
    );
}

function addTag(image: Command, context: CliContext): void {
  addGlobalOptions(image.command('tag'))
    .summary('give an image a further name')
    .description('Gives an image a further name. A name that another image had moves.')
    .argument('<image>', 'name or id')
    .argument('<name>', 'further name, such as localhost/app:2', flag(decodeTag))
    .addHelpText('after', '\nExamples:\n  $ berth image tag busybox localhost/base\n  $ berth image tag 3f57d9401f8d registry.example.com/app:1')
    .action(
      context.action<GlobalFlags>(async ({ args: [source = '', name = ''], flags }) =>
        context.withEngine(flags, async (engine) => {
          await getImage(engine, { verb: 'tag', name: source });
          const tagged = await engine.tagImage(source, name);
          if (flags.output === 'json') await context.json(tagged);
          else await context.print(describeImage(tagged));
        }),
      ),
    );
}

function addPin(image: Command, context: CliContext, { pinned }: { readonly pinned: boolean }): void {
  const [name, summary, description] = pinned
    ? ['pin', 'keep images in every clean-up', 'Keeps images in every clean-up: that of "image prune" and that of a kubelet. Removing by name still removes.']
    : ['unpin', 'undo image pin', 'Lets clean-ups remove images again.'];
  addGlobalOptions(image.command(name))
    .summary(summary)
    .description(description)
    .argument('<image...>', 'names or ids')
    .addHelpText('after', `\nExamples:\n  $ berth image ${name} registry.k8s.io/pause:3.9`)
    .action(
      context.action<GlobalFlags>(async ({ rest, flags }) =>
        context.withEngine(flags, async (engine) => {
          for (const one of rest) await getImage(engine, { verb: name, name: one });
          const images = [];
          for (const one of rest) images.push(await engine.pinImage(one, pinned));
          if (flags.output === 'json') await context.json(images);
          else await context.print(images.map(describeImage).join('\n'));
        }),
      ),
    );
}

/** One name of several goes alone; an id, a digest or the last name takes the image. Returns what to print. */
async function removeByName(engine: Engine, name: string): Promise<string> {
  const image = await getImage(engine, { verb: 'remove', name });
  const tag = nameOf(image, name);
  if (tag !== undefined && image.names.length > 1) {
    await engine.removeImage(tag, { untagOnly: true });
    return printable(name);
  }
  const user = (await engine.listContainers()).find(({ imageId, mounts }) => imageId === image.id || mounts.some((mount) => isVolumeOf(mount.image, image)));
  if (user !== undefined)
    throw new RuntimeError('failedPrecondition', `remove image ${JSON.stringify(name)}: container ${user.metadata.name} (${shortId(user.id)}) uses it; remove that first`);
  await engine.removeImage(name);
  return printable(name);
}

function isVolumeOf(volume: { readonly image: string; readonly imageRef?: string } | undefined, image: { readonly id: string; readonly digests: readonly string[] }): boolean {
  return volume !== undefined && (volume.image === image.id || volume.imageRef === image.id || (volume.imageRef !== undefined && image.digests.includes(volume.imageRef)));
}

/** `rmi` at the top, `image rm` in the group: the same. */
function addRemove(parent: Command, name: string, context: CliContext): void {
  const shown = parent.name() === 'image' ? `image ${name}` : name;
  addGlobalOptions(parent.command(name))
    .summary('remove images')
    .description('Removes images from this host. Of an image with several names only the given name goes; an id takes all. An image that a container uses is refused.')
    .argument('<image...>', 'names or ids')
    .addHelpText('after', `\nExamples:\n  $ berth ${shown} busybox\n  $ berth ${shown} $(berth images -q)`)
    .action(
      context.action<GlobalFlags>(async ({ rest, flags }) =>
        context.withEngine(flags, async (engine) => {
          for (const one of rest) await context.print(await removeByName(engine, one));
        }),
      ),
    );
}

/** Adds the commands to the program. */
export function addImageCommands(program: Command, context: CliContext): void {
  addList(program, 'images', context);
  addTransferCommands(program, context);
  addRemove(program, 'rmi', context);
  const image = addGlobalOptions(program.command('image'))
    .summary('images: names, files, checks, space')
    .description('Everything about the images of this host. See also berth pull, push, images and rmi.')
    .addHelpText(
      'after',
      `
Examples:
  $ berth image ls
  $ berth image save -o app.tar localhost/app:1
  $ berth image verify --repair
  $ berth image prune --all --dry-run`,
    );
  addList(image, 'ls', context);
  addInspect(image, context);
  addTag(image, context);
  addPin(image, context, { pinned: true });
  addPin(image, context, { pinned: false });
  addRemove(image, 'rm', context);
  addRegistryQueries(image, context);
  addArchiveCommands(image, context);
  addImageCareCommands(image, context);
}
