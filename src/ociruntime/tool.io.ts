/**
 * Runs a program of the host for a command that is made of it: ps(1), criu(8). In: its words and the caller's environment. Out: its exit code and what it printed, up to a
 * bound. The program gets none of the caller's streams.
 */
import { RuntimeError, errnoName, limits, wrapError } from '#core';

/** How a program ended. */
export interface ToolResult {
  /** 1 also where a signal ended it. */
  readonly code: number;
  /** Both streams in the order in which they came. */
  readonly output: string;
}

/** Throws notFound where there is no such program, resourceExhausted where it prints more than `limits.ociToolOutputBytesMax`. */
export async function runTool(program: string, words: readonly string[], { env }: { readonly env: Readonly<Record<string, string>> }): Promise<ToolResult> {
  // Most commands run no program.
  const { spawn } = process.getBuiltinModule('node:child_process');
  const pieces: Buffer[] = [];
  let size = 0;
  const child = spawn(program, words, { env, cwd: '/', stdio: ['ignore', 'pipe', 'pipe'] });
  for (const stream of [child.stdout, child.stderr])
    stream.on('data', (piece: Buffer) => {
      size += piece.length;
      if (size > limits.ociToolOutputBytesMax) child.kill('SIGKILL');
      else pieces.push(piece);
    });
  const code = await new Promise<number>((resolve, reject) => {
    child.once('error', (cause) => {
      reject(
        errnoName(cause) === 'ENOENT'
          ? new RuntimeError('notFound', `exec: ${JSON.stringify(program)}: executable file not found in $PATH`, { cause })
          : wrapError(`run ${program}`, cause),
      );
    });
    child.once('close', (status) => resolve(status ?? 1));
  });
  if (size > limits.ociToolOutputBytesMax) throw new RuntimeError('resourceExhausted', `run ${program}: more than ${limits.ociToolOutputBytesMax} bytes of output`);
  return { code, output: Buffer.concat(pieces).toString('utf8') };
}
