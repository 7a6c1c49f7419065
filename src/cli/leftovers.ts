/** Directories of pods that are gone. In: an engine and the volumes port. Out: removals. */
import type { Engine } from '#pod';
import type { VolumePort } from '#podrun';

/** Removes what a killed `run` could not: its sandbox ended with it, its volumes and logs are still there. */
export async function sweepLeftovers(engine: Engine, volumes: VolumePort): Promise<void> {
  const pods = await engine.listPodSandboxes();
  await volumes.sweep(new Set(pods.map(({ metadata }) => metadata.uid)));
}
