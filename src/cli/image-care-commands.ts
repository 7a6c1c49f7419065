/** `image verify`, `prune`, `df`: whether content is whole, and how much space it takes. In: argv. Out: engine calls as tables or JSON. */
import type { Command } from 'commander';
import { RuntimeError } from '#core';
import type { CollectReport, ImageSpace, VerifyReport } from '#pod';
import { type CliContext, type GlobalFlags, addGlobalOptions, flag } from './context.ts';
import { credentialsForStored } from './credentials.ts';
import { formatBytes, formatTable, shortId } from './human.ts';
import { getImage, tableOr } from './image-words.ts';
import { parseDuration } from './log-lines.ts';
import { runTransfer } from './transfer.ts';

function countOf(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? '' : 's'}`;
}

function titleOf({ id, names }: { readonly id: string; readonly names: readonly string[] }): string {
  return names[0] ?? (id === '' ? '-' : shortId(id));
}

/** Lines for people: a row for each problem, then what was looked at. */
function describeVerify({ images, checkedBytes, checkedFiles }: VerifyReport): string {
  const rows = images.flatMap((image) =>
    image.problems.map(({ kind, digest, state, detail, reason }) => [titleOf(image), kind, shortId(digest), state, reason === undefined ? detail : `${detail} (${reason})`]),
  );
  const table = tableOr('', ['IMAGE', 'PART', 'DIGEST', 'STATE', 'DETAIL'], rows);
  const looked = `${countOf(images.length, 'image')} checked: ${formatBytes(checkedBytes)}, ${countOf(checkedFiles, 'file')}`;
  const problems = rows.length === 0 ? 'no problem' : countOf(rows.length, 'problem');
  return `${table === '' ? '' : `${table}\n`}${looked}, ${problems}`;
}

interface VerifyFlags extends GlobalFlags {
  readonly repair?: boolean;
  readonly quiet?: boolean;
}

function addVerify(image: Command, context: CliContext): void {
  addGlobalOptions(image.command('verify'))
    .summary('compare images with their digests')
    .description(
      'Compares what is on disk with what was stored: blobs with their digests, unpacked layers file by file with their index. With --repair only what is damaged is fetched again; a layer whose blob is whole is unpacked again without network. The exit status is 1 where damage stays.',
    )
    .argument('[image...]', 'names or ids (default: every image)')
    .option('--repair', 'fetch again what is damaged')
    .option('-q, --quiet', 'no progress')
    .addHelpText('after', '\nExamples:\n  $ berth image verify\n  $ berth image verify --repair docker.io/library/busybox:latest')
    .action(
      context.action<VerifyFlags>(async ({ rest, flags }) =>
        context.withEngine(
          flags,
          async (engine) => {
            const repair = flags.repair === true;
            const names = rest.length === 0 ? undefined : rest;
            for (const name of rest) await getImage(engine, { verb: 'verify', name });
            const credentials = repair ? await credentialsForStored(context, engine, names) : {};
            const report = await runTransfer(context, { title: 'verify images', quiet: flags.quiet === true }, async ({ onProgress, signal }) =>
              engine.verifyImages({ ...credentials, ...(names === undefined ? {} : { names }), repair, onProgress }, signal),
            );
            if (flags.output === 'json') await context.json(report);
            else await context.print(describeVerify(report));
            return report.images.some(({ problems }) => problems.some(({ state }) => state !== 'repaired')) ? 1 : 0;
          },
          { lasting: true },
        ),
      ),
    );
}

function describePrune(report: CollectReport, { dryRun }: { readonly dryRun: boolean }): string {
  const rows = report.images.map((one) => [one.names.join(' ') || one.digests[0] || '<none>', shortId(one.id), formatBytes(one.sizeBytes)]);
  const table = tableOr('', ['IMAGE', 'IMAGE ID', 'SIZE'], rows);
  const parts = [countOf(report.images.length, 'image'), countOf(report.layers.length, 'layer'), countOf(report.blobs.length, 'blob')];
  if (report.partials.length > 0) parts.push(countOf(report.partials.length, 'cut-off pull'));
  return `${table === '' ? '' : `${table}\n`}${dryRun ? 'would remove' : 'removed'} ${parts.join(', ')}: ${formatBytes(report.freedBytes)}`;
}

function decodeDuration(text: string): number {
  const durationMs = parseDuration(text);
  if (durationMs === undefined) throw new RuntimeError('invalidArgument', 'must be a duration such as 30m, 12h or 7d');
  return durationMs;
}

interface PruneFlags extends GlobalFlags {
  readonly all?: boolean;
  readonly dryRun?: boolean;
  readonly olderThan?: number;
}

function addPrune(image: Command, context: CliContext): void {
  addGlobalOptions(image.command('prune'))
    .summary('remove images that nothing uses')
    .description('Removes images that have no name, and content that belongs to no image. What a container uses, what is being pulled and what is pinned stays.')
    .option('-a, --all', 'also images with names, and what cut-off pulls left')
    .option('--older-than <duration>', 'only images stored longer ago, such as 12h or 30m', flag(decodeDuration))
    .option('--dry-run', 'remove nothing; print what would go')
    .addHelpText('after', '\nExamples:\n  $ berth image prune\n  $ berth image prune --all --older-than 48h --dry-run')
    .action(
      context.action<PruneFlags>(async ({ flags }) =>
        context.withEngine(
          flags,
          async (engine) => {
            const dryRun = flags.dryRun === true;
            const report = await runTransfer(context, { title: 'prune images', quiet: true }, async ({ signal }) =>
              engine.collectImages({ untagged: true, all: flags.all === true, dryRun, ...(flags.olderThan === undefined ? {} : { olderThanMs: flags.olderThan }) }, signal),
            );
            if (flags.output === 'json') await context.json(report);
            else await context.print(describePrune(report, { dryRun }));
          },
          { lasting: true },
        ),
      ),
    );
}

function addDf(image: Command, context: CliContext): void {
  addGlobalOptions(image.command('df'))
    .summary('show the space that images take')
    .description('Shows the space of each image: UNIQUE would be free without it, SHARED belongs to other images too.')
    .addHelpText('after', '\nExamples:\n  $ berth image df\n  $ berth image df --output json')
    .action(
      context.action<GlobalFlags>(async ({ flags }) =>
        context.withEngine(flags, async (engine) => {
          const usage = await engine.imageDiskUsage();
          if (flags.output === 'json') return context.json(usage);
          const noteOf = ({ isUsed, pinned }: ImageSpace): string => [isUsed ? 'in use' : '', pinned ? 'pinned' : ''].filter((note) => note !== '').join(', ');
          const rows = usage.images.map((one) => [
            one.names.join(' ') || '<none>',
            shortId(one.id),
            formatBytes(one.sizeBytes),
            formatBytes(one.uniqueBytes),
            formatBytes(one.sharedBytes),
            noteOf(one),
          ]);
          const totals = [
            ['blobs', formatBytes(usage.blobBytes)],
            ['layers', formatBytes(usage.layerBytes)],
            ['cut-off pulls', formatBytes(usage.partialBytes)],
            ['can be freed', `${formatBytes(usage.reclaimableBytes)}  (berth image prune --all)`],
          ];
          await context.print([...formatTable(['IMAGE', 'IMAGE ID', 'SIZE', 'UNIQUE', 'SHARED', ''], rows), '', ...formatTable(['TOTAL', ''], totals)].join('\n'));
        }),
      ),
    );
}

/** Adds the commands to the group `image`. */
export function addImageCareCommands(image: Command, context: CliContext): void {
  addVerify(image, context);
  addPrune(image, context);
  addDf(image, context);
}
