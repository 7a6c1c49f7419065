/**
 * Runs a small program of the user's for its answer, such as a credential helper. In: a name looked up in PATH, words, standard input.
 * Out: exit code and standard output, both bounded. Its standard error goes to ours, where the user reads it; nothing it prints gets into an error.
 */
import { spawn } from 'node:child_process';
import { RuntimeError, limits, wrapError } from '#core';

/**
 * Runs the program to its end. Throws notFound where there is none of that name, deadlineExceeded and resourceExhausted where it takes longer than
 * `limits.credentialToolTimeoutMs` or says more than `limits.credentialToolBytesMax`; then it is killed.
 */
export async function runTool(call: {
  readonly name: string;
  readonly args: readonly string[];
  readonly stdin: string;
}): Promise<{ readonly exitCode: number; readonly stdout: string }> {
  const { name, args, stdin } = call;
  // A name that is a path would be taken from wherever a configuration file says.
  if (!/^[\w.-]+$/.test(name)) throw new RuntimeError('invalidArgument', `run ${JSON.stringify(name.slice(0, 100))}: is no name of a program`);
  const child = spawn(name, args, { stdio: ['pipe', 'pipe', 'inherit'] });
  const ended = Promise.withResolvers<number>();
  let refusal: RuntimeError | undefined;
  const refuse = (error: RuntimeError): void => {
    refusal ??= error;
    child.kill('SIGKILL');
    // A grandchild may hold the pipes open.
    child.stdout.destroy();
  };
  const chunks: Buffer[] = [];
  let bytes = 0;
  child.stdout.on('data', (chunk: Buffer) => {
    bytes += chunk.length;
    if (bytes > limits.credentialToolBytesMax) refuse(new RuntimeError('resourceExhausted', `run ${name}: it prints more than ${limits.credentialToolBytesMax} bytes`));
    else chunks.push(chunk);
  });
  child.once('error', (error) => ended.reject(wrapError(`run ${name}`, error)));
  child.once('close', (code, signal) => {
    if (code === null) ended.reject(refusal ?? new RuntimeError('aborted', `run ${name}: it was ended by ${signal ?? 'a signal'}`));
    else ended.resolve(code);
  });
  // A program that does not read its input is no error of ours.
  child.stdin.on('error', () => undefined);
  child.stdin.end(stdin);
  const timer = setTimeout(
    () => refuse(new RuntimeError('deadlineExceeded', `run ${name}: no answer within ${limits.credentialToolTimeoutMs / 1000} s`)),
    limits.credentialToolTimeoutMs,
  );
  try {
    const exitCode = await ended.promise;
    if (refusal !== undefined) throw refusal;
    return { exitCode, stdout: Buffer.concat(chunks).toString('utf8') };
  } finally {
    clearTimeout(timer);
  }
}
