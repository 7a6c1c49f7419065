/** Directories of the engine's own: made, thrown away, removed. Never a path that a tenant controls, never through a link. */
import { existsSync } from 'node:fs';
import { chmod, lstat, mkdir, readdir, rename, rm, writeFile } from 'node:fs/promises';
import { RuntimeError, errnoName, wrapError } from '#core';

/** Makes a directory and its parents with this mode; an existing one keeps its own. Throws failedPrecondition where a file is in the way. */
export async function makeDirectory(path: string, mode = 0o700): Promise<void> {
  try {
    await mkdir(path, { recursive: true, mode });
    if (!(await lstat(path)).isDirectory()) throw new RuntimeError('failedPrecondition', 'is not a directory');
  } catch (error) {
    throw wrapError(`make directory ${path}`, error);
  }
}

/** Makes a tree of directories (0755) and empty files (0644) once. The last of the files says that the tree is whole. */
export async function makeSkeleton(path: string, { directories, files }: { readonly directories: readonly string[]; readonly files: readonly string[] }): Promise<void> {
  try {
    if (existsSync(`${path}/${files.at(-1) ?? ''}`)) return;
    await makeDirectory(path);
    for (const name of directories) {
      await makeDirectory(`${path}/${name}`);
      // Whatever the caller's umask is.
      await chmod(`${path}/${name}`, 0o755);
    }
    for (const name of files) {
      await writeFile(`${path}/${name}`, '');
      await chmod(`${path}/${name}`, 0o644);
    }
  } catch (error) {
    throw wrapError(`make skeleton ${path}`, error);
  }
}

/** Removes a small directory of our own; absence is success. */
export async function removeDirectory(path: string): Promise<void> {
  await rm(path, { recursive: true, force: true }).catch((error: unknown) => {
    throw wrapError(`remove directory ${path}`, error);
  });
}

/**
 * Moves a tree to `trash/name`, which is instant, so that what was in it can be removed in the background. Returns the new path, or
 * undefined when there was nothing. Both must be on one file system.
 */
export async function moveToTrash(path: string, { trash, name }: { readonly trash: string; readonly name: string }): Promise<string | undefined> {
  const target = `${trash}/${name}`;
  try {
    await rename(path, target);
    return target;
  } catch (error) {
    if (errnoName(error) === 'ENOENT') return undefined;
    throw wrapError(`move ${path} to ${target}`, error);
  }
}

/** Paths in a directory, none where it is absent. */
export async function listDirectory(path: string): Promise<string[]> {
  const names = await readdir(path).catch((error: unknown) => {
    if (errnoName(error) === 'ENOENT') return [];
    throw wrapError(`list directory ${path}`, error);
  });
  return names.map((name) => `${path}/${name}`);
}
