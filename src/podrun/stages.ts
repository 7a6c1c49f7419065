/** The timed stages of a run, and the one that fetches images. In: ports. Out: events and results. No I/O of its own. */
import { type Clock, RuntimeError } from '#core';
import type { Engine, ImageSummary, RegistryAuth } from '#pod';
import type { ImagePlan } from './plan-types.ts';
import type { RunEvent, RunStage } from './runner-types.ts';

/** Runs `work` and reports its start, its end and the time between. */
export async function runStage<T>(
  report: { readonly clock: Clock; readonly onEvent: (event: RunEvent) => void },
  { stage, name, detailOf = () => '' }: { readonly stage: RunStage; readonly name: string; readonly detailOf?: (result: T) => string },
  work: () => Promise<T>,
): Promise<T> {
  const startMs = report.clock.monotonicMs();
  report.onEvent({ kind: 'stageStarted', stage, name });
  try {
    const result = await work();
    report.onEvent({ kind: 'stageDone', stage, name, detail: detailOf(result), durationMs: report.clock.monotonicMs() - startMs });
    return result;
  } catch (error) {
    report.onEvent({ kind: 'stageFailed', stage, name, durationMs: report.clock.monotonicMs() - startMs });
    throw error;
  }
}

/** The image as the policy wants it: from the store or pulled. Throws notFound where the policy is Never and it is absent. */
export async function fetchImage(
  ports: {
    readonly engine: Engine;
    readonly clock: Clock;
    readonly findCredentials?: (image: string) => Promise<RegistryAuth | undefined>;
    readonly onEvent: (event: RunEvent) => void;
  },
  { name, pullPolicy }: ImagePlan,
  signal: AbortSignal,
): Promise<ImageSummary> {
  const { engine, onEvent } = ports;
  let pulled = false;
  const detailOf = (): string => (pulled ? 'pulled' : 'present');
  return runStage(ports, { stage: 'image', name, detailOf }, async () => {
    const present = pullPolicy === 'Always' ? undefined : await engine.imageStatus(name);
    if (present !== undefined) return present;
    if (pullPolicy === 'Never') throw new RuntimeError('notFound', `find image ${name}: not present on this host, and the pull policy is Never`);
    pulled = true;
    const auth = await ports.findCredentials?.(name);
    return engine.pullImage(name, { ...(auth === undefined ? {} : { auth }), onProgress: (progress) => onEvent({ kind: 'imageProgress', name, progress }) }, signal);
  });
}
