/**
 * Hooks that run once a container's process does, and once it is gone. In: what is known of the container, something that runs plans. Out: nothing; by the
 * specification a failure of these is told and undoes nothing.
 */
import { wrapError } from '#core';
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

async function runEach(plans: readonly Plan[], { run, report }: HookRunner, what: string): Promise<void> {
  for (const plan of plans) await run(plan).catch((error: unknown) => report(wrapError(what, error)));
}

/** Runs the hooks of poststart in order; `pid` is the container's process. */
export async function runPoststart(runner: HookRunner, spec: RuntimeSpec, place: HookPlace, pid: number): Promise<void> {
  if (spec.hooks.poststart !== undefined) await runEach(planPoststart(spec, place, pid), runner, `run the poststart hooks of container ${place.id}`);
}

/** The document without what has run already. */
function withoutPoststop(spec: RuntimeSpec): RuntimeSpec {
  const { poststop: _done, ...hooks } = spec.hooks;
  return { ...spec, hooks };
}

/** Runs the hooks of poststop in order, and gives what is to be remembered from then on to `remember`, so that they never run twice. */
export async function runPoststop<T extends { readonly spec: RuntimeSpec }>(
  runner: HookRunner,
  place: HookPlace,
  known: T | undefined,
  remember: (known: T) => void,
): Promise<void> {
  if (known?.spec.hooks.poststop === undefined) return;
  await runEach(planPoststop(known.spec, place), runner, `run the poststop hooks of container ${place.id}`);
  remember({ ...known, spec: withoutPoststop(known.spec) });
}
