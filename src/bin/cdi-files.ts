/**
 * The directories of specifications of the Container Device Interface. In: their paths. Out: every `.json` and `.yaml` file in them, decoded, or why it is not.
 * Looked at anew each time, read only where something has changed. Nothing is written, and what is not a regular file is not read.
 */
import { constants } from 'node:fs';
import { type FileHandle, open, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { type DoctorCheck, parseManifestText } from '#cli';
import { RuntimeError, errnoName, limits, wrapError } from '#core';
import { parseJson } from '#oci';
import { type CdiFile, cdiWarnings, decodeCdiSpec } from '#pod';

interface Known {
  /** What says that a file is still the same. */
  readonly mark: string;
  readonly file: CdiFile;
}

const invalid = (cause: string): RuntimeError => new RuntimeError('invalidArgument', cause);

async function readBounded(handle: FileHandle): Promise<string> {
  const bytes = Buffer.allocUnsafe(limits.cdiFileBytesMax + 1);
  let size = 0;
  while (size < bytes.length) {
    const { bytesRead } = await handle.read(bytes, size, bytes.length - size, null);
    if (bytesRead === 0) return bytes.toString('utf8', 0, size);
    size += bytesRead;
  }
  throw invalid(`larger than ${limits.cdiFileBytesMax} bytes`);
}

function parse(path: string, text: string): unknown {
  if (path.endsWith('.json')) return parseJson(text, 'document');
  const [document, ...more] = parseManifestText(text, 'document');
  if (document === undefined || more.length > 0) throw invalid(`${more.length + (document === undefined ? 0 : 1)} YAML documents, must be one`);
  return document;
}

/** Specifications of some directories; one per engine. */
export class CdiFiles {
  readonly #directories: readonly string[];
  #known = new Map<string, Known>();

  /** Later directories win. */
  constructor(directories: readonly string[]) {
    this.#directories = directories;
  }

  /** Every file as it is now, in the order of directories and names. Never rejects; a directory that is absent holds nothing. */
  async read(): Promise<readonly CdiFile[]> {
    const known = new Map<string, Known>();
    const files: CdiFile[] = [];
    for (const [priority, directory] of this.#directories.entries()) {
      for (const { path, error } of await this.#list(directory)) {
        const found = error === undefined ? await this.#readFile(path, priority) : { mark: '', file: { path, priority, error } };
        if (found === undefined) continue;
        if (found.mark !== '') known.set(path, found);
        files.push(found.file);
      }
    }
    this.#known = known;
    return files;
  }

  async #list(directory: string): Promise<readonly { readonly path: string; readonly error?: RuntimeError }[]> {
    try {
      const names = (await readdir(directory)).filter((name) => /\.(json|yaml)$/.test(name)).toSorted();
      if (names.length > limits.cdiFilesMax) throw invalid(`${names.length} files, at most ${limits.cdiFilesMax}`);
      return names.map((name) => ({ path: join(directory, name) }));
    } catch (error) {
      return errnoName(error) === 'ENOENT' ? [] : [{ path: directory, error: wrapError(`read CDI directory ${directory}`, error) }];
    }
  }

  /** undefined where the file went away meanwhile. */
  async #readFile(path: string, priority: number): Promise<Known | undefined> {
    let mark = '';
    try {
      // A FIFO would hold up a thread for ever; devices and sockets are no specifications either.
      await using handle = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
      const found = await handle.stat({ bigint: true });
      if (!found.isFile()) throw invalid('is not a regular file');
      mark = [found.dev, found.ino, found.size, found.mtimeNs, found.ctimeNs].join(':');
      const known = this.#known.get(path);
      if (known?.mark === mark && known.file.priority === priority) return known;
      return { mark, file: { path, priority, spec: decodeCdiSpec(parse(path, await readBounded(handle))) } };
    } catch (error) {
      if (errnoName(error) === 'ENOENT') return undefined;
      return { mark, file: { path, priority, error: wrapError(`read CDI specification ${path}`, error) } };
    }
  }
}

/** What `berth doctor` says of the directories; nothing where no file is, or where another check says what is wrong with the configuration. */
export async function checkCdi(directories: () => readonly string[]): Promise<readonly DoctorCheck[]> {
  let named: readonly string[];
  try {
    named = directories();
  } catch {
    return [];
  }
  const files = await new CdiFiles(named).read();
  const warnings = cdiWarnings(files);
  if (files.length === 0) return [];
  const name = 'CDI devices';
  const good = files.filter((file) => 'spec' in file).length;
  return warnings.length === 0
    ? [{ name, state: 'ok', detail: `${good} specifications` }]
    : [{ name, state: 'limited', detail: warnings.join('; '), remedy: 'correct these specifications; devices of others can be used' }];
}
