/**
 * A user's credentials for a registry. In: the files that `docker login`, `podman login` and their kin write, and the helper programs
 * that these name. Out: credentials, or nothing. For programs that run as the user; an engine never reads these files.
 */
import { join } from 'node:path';
import { RuntimeError, errorMessage } from '#core';
import { readConfigurationFile } from './configuration-files.io.ts';
import { type CredentialAnswer, type CredentialQuery, credentialQuery, decodeCredentials, decodeHelperAnswer, helperServers, saysNotFound } from './credentials.ts';
import type { RegistryAuth } from './types.ts';

/** One run of a helper program. */
export interface ToolCall {
  /** Name that is looked up in PATH, never a path. */
  readonly name: string;
  readonly args: readonly string[];
  readonly stdin: string;
}

/**
 * Runs a program of the user's and collects what it prints. Bounds its time (`limits.credentialToolTimeoutMs`) and its output
 * (`limits.credentialToolBytesMax`), past which it is ended and the promise rejects. Rejects with `notFound` where there is no such program.
 */
export type RunTool = (call: ToolCall) => Promise<{ readonly exitCode: number; readonly stdout: string }>;

/** Whose credentials, and who runs helper programs. */
export interface CredentialOptions {
  /** Home directory; undefined where the user has none. */
  readonly home: string | undefined;
  /** `XDG_RUNTIME_DIR`; without it podman uses `/run/containers/<uid>`. */
  readonly xdgRuntimeDir: string | undefined;
  /** For that directory. */
  readonly uid?: number;
  /** `REGISTRY_AUTH_FILE`, `DOCKER_CONFIG` and `XDG_CONFIG_HOME` are read from it. */
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly runTool: RunTool;
}

/** Files in the order of asking. */
function credentialFiles({ home, xdgRuntimeDir, uid, env }: CredentialOptions): readonly string[] {
  const runtimeDir = xdgRuntimeDir || (uid === undefined ? undefined : `/run/containers/${uid}`);
  const configHome = env['XDG_CONFIG_HOME'] || (home === undefined ? undefined : join(home, '.config'));
  const dockerDir = env['DOCKER_CONFIG'] || (home === undefined ? undefined : join(home, '.docker'));
  return [
    ...(runtimeDir === undefined ? [] : [xdgRuntimeDir ? join(runtimeDir, 'containers/auth.json') : join(runtimeDir, 'auth.json')]),
    ...(configHome === undefined ? [] : [join(configHome, 'containers/auth.json')]),
    ...(dockerDir === undefined ? [] : [join(dockerDir, 'config.json')]),
  ];
}

async function askHelper(helper: string, query: CredentialQuery, runTool: RunTool): Promise<RegistryAuth | undefined> {
  const name = `docker-credential-${helper}`;
  for (const server of helperServers(query)) {
    try {
      const { exitCode, stdout } = await runTool({ name, args: ['get'], stdin: server });
      if (exitCode !== 0 && saysNotFound(stdout)) continue;
      if (exitCode !== 0) throw new RuntimeError('unauthenticated', `it ended with status ${exitCode}`);
      const auth = decodeHelperAnswer(stdout);
      if (auth !== undefined) return auth;
    } catch (error) {
      // No cause: what the program printed may be a part of it.
      throw new RuntimeError('unauthenticated', `ask ${name} for the credentials of ${query.registry}: ${errorMessage(error)}`);
    }
  }
  return undefined;
}

/**
 * The user's credentials for `name`, a registry (`quay.io`) or a repository of it (`quay.io/team/app`, which also finds entries for a path);
 * undefined where nobody has any. `REGISTRY_AUTH_FILE` is the only file where it is set. Throws `read FILE: key: cause` (failedPrecondition) on a file
 * that cannot be used and `ask PROGRAM …` (unauthenticated) on a helper that fails, never with a secret.
 */
export async function findCredentials(name: string, options: CredentialOptions): Promise<RegistryAuth | undefined> {
  const query = credentialQuery(name);
  const only = options.env['REGISTRY_AUTH_FILE'] || undefined;
  for (const file of only === undefined ? credentialFiles(options) : [only]) {
    const text = await readConfigurationFile(file);
    if (text === undefined && only !== undefined) throw new RuntimeError('failedPrecondition', `read ${file}: does not exist, and REGISTRY_AUTH_FILE names it`);
    if (text === undefined || text.trim() === '') continue;
    let answer: CredentialAnswer;
    try {
      answer = decodeCredentials(text, query);
    } catch (error) {
      throw new RuntimeError('failedPrecondition', `read ${file}: ${errorMessage(error)}`);
    }
    const auth = (answer.helper === undefined ? undefined : await askHelper(answer.helper, query, options.runTool)) ?? answer.auth;
    if (auth !== undefined) return auth;
  }
  return undefined;
}
