/**
 * `update`: other limits for a container. In: flags, or a file with a linux.resources object. Out: control groups that have the limits, all or none, and a document that says so, so
 * that a later update begins with them. Device rules stay; source: runc-update(8).
 */
import { constants } from 'node:fs';
import { open } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { RuntimeError, errnoName, limits, wrapError } from '#core';
import { type SpecResources, decodeObject, decodeResources, formatJson, parseJson } from '#oci';
import { mergeResourceChange, updateLimits } from '#runtime';
import { readHostFacts } from '#system';
import type { Operation, UpdateOptions } from './options.ts';
import { readContainerDocument, readProcess, readRecord, readStatus, writeDocument } from './state-directory.io.ts';

const pieceBytes = 64 * 1024;
/** How long to wait for input that is not there yet. */
const inputPauseMs = 10;

/**
 * A file, or the caller's standard input, up to its end. Nothing here waits in the kernel, since this process may serve others; a caller that is gone ends the wait.
 */
async function readWhole(path: string, isWanted: () => boolean): Promise<string> {
  const pieces: Buffer[] = [];
  let size = 0;
  try {
    await using file = await open(path, constants.O_RDONLY | constants.O_NOCTTY | constants.O_NONBLOCK);
    for (;;) {
      const piece = Buffer.allocUnsafe(pieceBytes);
      const count = await file.read(piece).then(
        ({ bytesRead }) => bytesRead,
        (cause: unknown) => {
          if (errnoName(cause) === 'EAGAIN' && isWanted()) return undefined;
          throw cause;
        },
      );
      if (count === undefined) await sleep(inputPauseMs);
      if (count === 0) return Buffer.concat(pieces, size).toString('utf8');
      size += count ?? 0;
      if (size > limits.ociDocumentBytesMax) throw new RuntimeError('resourceExhausted', `read ${path}: more than ${limits.ociDocumentBytesMax} bytes`);
      pieces.push(piece.subarray(0, count ?? 0));
    }
  } catch (cause) {
    // The caller's standard input is opened once more, which a socket does not allow.
    if (errnoName(cause) === 'ENXIO') throw new RuntimeError('invalidArgument', `read ${path}: a socket cannot be read here, only a file, a pipe or a terminal`, { cause });
    throw cause instanceof RuntimeError ? cause : wrapError(`read ${path}`, cause);
  }
}

async function readChange({ file, resources }: UpdateOptions, isWanted: () => boolean): Promise<SpecResources> {
  const json = file === '' ? resources : parseJson(await readWhole(file, isWanted), file);
  return decodeResources(json, 'resources');
}

/** `update`. Throws invalidArgument and failedPrecondition with the place of the value; then nothing has changed. */
export const updateContainer: Operation<UpdateOptions> = async ({ front, global, log }, options) => {
  const { stateRoot } = global;
  const record = readRecord(stateRoot, options.id);
  for (const warning of options.warnings) log.warn(warning);
  const change = await readChange(options, () => readProcess(front.request.pid) !== undefined);
  const { json, spec } = readContainerDocument(stateRoot, options.id);
  if (readStatus(stateRoot, record) === 'stopped') throw new RuntimeError('failedPrecondition', 'container not running');
  const resources = mergeResourceChange(spec.linux.resources, change);
  await updateLimits(readHostFacts(), async (steps) => front.run({ sections: [{ actor: 'host', steps }] }), {
    placement: record.cgroup,
    resources,
    checkMemory: change.memory?.checkBeforeUpdate === true,
  });
  const document = decodeObject(json, '');
  const linux = decodeObject(document['linux'] ?? {}, 'linux');
  writeDocument(stateRoot, options.id, formatJson({ ...document, linux: { ...linux, resources } }));
  return { kind: 'exit', code: 0 };
};
