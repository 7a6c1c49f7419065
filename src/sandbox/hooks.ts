/**
 * Hooks that run once a container's process does, and once it is gone. In: what is known of the container, something that runs plans. Out: nothing. By the
 * specification a failure of poststart is one of the start, and one of poststop is told and undoes nothing.
 */
import { errorCode, wrapError } from '#core';
import type { RuntimeSpec } from '#oci';
import type { Plan } from '#plan';
import { type HookPlace, planPoststart, planPoststop } from '#runtime';
import { type NativeLayout, containerPaths } from './layout.ts';

/** Where plans are run, and where failures are told. */
export interface HookRunner {
  readonly run: (plan: Plan) => Promise<void>;
  readonly report: (error: unknown) => void;
}

/** A container's name for its hooks and the directory that they read. */
export function hookPlaceOf(layout: NativeLayout, ids: { readonly podId: string; readonly containerId: string }): HookPlace {
  return { id: ids.containerId, bundle: `${containerPaths(layout, ids).directory}/bundle` };
}

/**
 * Runs the hooks of poststart in order; `pid` is the container's process. Throws the first failure, after which none follows. `ended` says that the process has
 * ended: then nobody waits for a hook that still runs, and none begins.
 */
export async function runPoststart(
  { run, report }: HookRunner,
  spec: RuntimeSpec,
  place: HookPlace,
  { pid, ended }: { readonly pid: number; readonly ended: AbortSignal },
): Promise<void> {
  if (spec.hooks.poststart === undefined) return;
  const over = new Promise<void>((resolve) => {
    ended.addEventListener('abort', () => resolve(), { once: true });
  });
  for (const plan of planPoststart(spec, place, pid)) {
    if (ended.aborted) return;
    const hook = run(plan).catch((error: unknown) => {
      const failure = wrapError(`run the poststart hooks of container ${place.id}`, error);
      if (!ended.aborted) throw failure;
      report(failure);
    });
    await Promise.race([hook, over]);
  }
}

/** The document without what has run already. */
function withoutPoststop(spec: RuntimeSpec): RuntimeSpec {
  const { poststop: _done, ...hooks } = spec.hooks;
  return { ...spec, hooks };
}

/**
 * Runs the hooks of poststop in order, and gives what is to be remembered from then on to `remember`, so that they do not run again. Throws unavailable where
 * what runs them has ended meanwhile; then they are still to be run.
 */
export async function runPoststop<T extends { readonly spec: RuntimeSpec }>(
  { run, report }: HookRunner,
  place: HookPlace,
  known: T | undefined,
  remember: (known: T) => void,
): Promise<void> {
  if (known?.spec.hooks.poststop === undefined) return;
  for (const plan of planPoststop(known.spec, place)) {
    await run(plan).catch((error: unknown) => {
      const failure = wrapError(`run the poststop hooks of container ${place.id}`, error);
      // No failure of a hook: whoever ran it is gone. All of them are left to the next one.
      if (errorCode(failure) === 'unavailable') throw failure;
      report(failure);
    });
  }
  remember({ ...known, spec: withoutPoststop(known.spec) });
}
