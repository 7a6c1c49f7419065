/**
 * Credentials for a registry: from options, or what the user's own files and helper programs have. In: flags, the process's streams.
 * Out: credentials for one call of the engine, which reads no user's files. Never printed.
 */
import type { Command } from 'commander';
import { RuntimeError } from '#core';
import { parseReference, referenceName } from '#oci';
import type { Engine, RegistryAuth, RegistryAuths } from '#pod';
import { type CliContext, usageError } from './context.ts';

const passwordBytesMax = 64 * 1024;

/** Options of commands that speak to a registry. */
export interface CredentialFlags {
  readonly username?: string;
  readonly passwordStdin?: boolean;
}

/** Adds the options. */
export function addCredentialOptions(command: Command): Command {
  return command
    .option('--username <name>', 'user at the registry (default: the credentials of docker or podman login)')
    .option('--password-stdin', 'read the password from standard input');
}

async function readPassword({ deps: { io } }: CliContext): Promise<string> {
  const chunks: Uint8Array[] = [];
  let bytes = 0;
  for await (const chunk of io.stdin.read(new AbortController().signal)) {
    bytes += chunk.length;
    if (bytes > passwordBytesMax) throw new RuntimeError('invalidArgument', `read the password: larger than ${passwordBytesMax} bytes`);
    chunks.push(chunk);
  }
  const password = Buffer.concat(chunks)
    .toString('utf8')
    .replace(/\r?\n$/, '');
  if (password === '') throw new RuntimeError('invalidArgument', 'read the password: standard input is empty');
  return password;
}

/**
 * Credentials for the repository of `reference`, as an option of the engine's calls: empty where there are none. Call it before the engine is opened, so
 * that a wrong usage costs nothing.
 */
export async function credentialsFor(
  context: CliContext,
  { command, flags, reference }: { readonly command: Command; readonly flags: CredentialFlags; readonly reference: string },
): Promise<{ readonly auth?: RegistryAuth }> {
  if ((flags.username === undefined) !== (flags.passwordStdin === undefined)) usageError(command, '--username and --password-stdin belong together');
  if (flags.username !== undefined) return { auth: { username: flags.username, password: await readPassword(context) } };
  const auth = await context.deps.findCredentials(referenceName(parseReference(reference)));
  return auth === undefined ? {} : { auth };
}

/** Credentials to fetch content of stored images again, for each registry that has some of it. Names that no image has are left to the call. */
export async function credentialsForStored(context: CliContext, engine: Engine, names: readonly string[] | undefined): Promise<{ readonly auths?: RegistryAuths }> {
  const images = names === undefined ? await engine.listImages() : await Promise.all(names.map(async (name) => engine.imageStatus(name)));
  const repositories = new Map<string, Set<string>>();
  for (const digest of images.flatMap((image) => image?.digests ?? [])) {
    const reference = parseReference(digest);
    const known = repositories.get(reference.registry) ?? new Set();
    repositories.set(reference.registry, known.add(referenceName(reference)));
  }
  const found: [string, RegistryAuth][] = [];
  for (const [registry, [first = registry, ...others]] of repositories) {
    // A path narrows what is found; several repositories share what the registry as a whole has.
    const auth = await context.deps.findCredentials(others.length === 0 ? first : registry);
    if (auth !== undefined) found.push([registry, auth]);
  }
  return found.length === 0 ? {} : { auths: Object.fromEntries(found) };
}
