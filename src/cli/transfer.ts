/** Long operations on images: progress while they run, an orderly end by a signal. In: a title and the work. Out: its result. */
import { RuntimeError } from '#core';
import type { ImageProgress } from '#pod';
import type { CliContext } from './context.ts';
import { Progress } from './progress.ts';
import { type StageWords, TransferReport } from './transfer-report.ts';

/** Exit status after SIGINT, as shells have it. */
const interruptedStatus = 130;

/** What long work is given. */
export interface TransferWork {
  readonly onProgress: (progress: ImageProgress) => void;
  /** Aborted by SIGINT, SIGTERM and SIGHUP. */
  readonly signal: AbortSignal;
}

/**
 * Runs the work and shows its progress on standard error. The first signal cancels it: then it throws `TITLE: interrupted`, with `kept` saying
 * what is left, and the exit status is 130.
 */
export async function runTransfer<T>(
  context: CliContext,
  options: { readonly title: string; readonly quiet?: boolean; readonly kept?: string; readonly words?: StageWords },
  work: (given: TransferWork) => Promise<T>,
): Promise<T> {
  const { io, clock } = context.deps;
  const target = new Progress(io.stderr, clock);
  const report = new TransferReport(target, { isLive: io.stderr.isTTY, title: options.title, words: options.words ?? {} });
  const abort = new AbortController();
  const stops = (['SIGINT', 'SIGTERM', 'SIGHUP'] as const).map((name) =>
    io.onSignal(name, () => {
      abort.abort();
      // A second one ends the process at once, whatever the work is waiting for.
      for (const stop of stops) stop();
    }),
  );
  try {
    return await work({ onProgress: options.quiet === true ? () => undefined : report.show, signal: abort.signal });
  } catch (error) {
    if (!abort.signal.aborted) throw error;
    context.errorStatus = interruptedStatus;
    throw new RuntimeError('cancelled', `${options.title}: interrupted${options.kept === undefined ? '' : `; ${options.kept}`}`, { cause: error });
  } finally {
    for (const stop of stops) stop();
    await target.finish();
  }
}
