/** What running a pod needs and reports. Types only. */
import type { ContainerId, PodSandboxId } from '#core';
import type { ProcessStreams, PullProgress } from '#pod';
import type { ContainerRole, VolumePlan } from './plan-types.ts';

/** Prepares the host side of volumes and a pod's log directory. The real one is `createVolumes`. */
export interface VolumePort {
  /** Makes the pod's own directories and volumes, and checks host paths. Leaves nothing when it fails. Throws alreadyExists for a uid in use. */
  create(podUid: string, volumes: readonly VolumePlan[], signal?: AbortSignal): Promise<void>;
  /** Removes what `create` made below the pods' directories; absence is no error. Host paths stay. */
  remove(podUid: string): Promise<void>;
  /** Removes the directories of pods that are not in `livePodUids` and whose maker has died. Returns their uids. */
  sweep(livePodUids: ReadonlySet<string>): Promise<readonly string[]>;
}

/** What a run is busy with. */
export type RunStage = 'image' | 'volumes' | 'sandbox' | 'network' | 'container' | 'stop' | 'remove';

/** Progress of a run, in order. `name` is the image, container, pod or address that the stage is about. */
export type RunEvent =
  | { readonly kind: 'stageStarted'; readonly stage: RunStage; readonly name: string }
  | { readonly kind: 'imageProgress'; readonly name: string; readonly progress: PullProgress }
  /** The time of `network` is a part of that of `sandbox`; with the host's network there is none. */
  | { readonly kind: 'stageDone'; readonly stage: RunStage; readonly name: string; readonly detail: string; readonly durationMs?: number }
  | { readonly kind: 'stageFailed'; readonly stage: RunStage; readonly name: string; readonly durationMs: number }
  | {
      readonly kind: 'containerEnded';
      readonly name: string;
      readonly role: ContainerRole;
      readonly exitCode: number;
      readonly reason: string;
      readonly ranMs: number;
      readonly restartInMs?: number;
    };

/** How a pod is run. */
export interface RunOptions {
  /** Start everything and return; otherwise wait for the end. */
  readonly detach: boolean;
  /** Remove the pod at the end, and let it die with this process (lifeline). */
  readonly remove: boolean;
  readonly onEvent: (event: RunEvent) => void;
  /**
   * Takes over the streams of a container before it starts; awaited after its end. Absent: output goes to the log only.
   * It must consume `output`, and must not throw for an end of the process.
   */
  readonly attach?: (container: { readonly name: string; readonly role: ContainerRole; readonly tty: boolean; readonly stdin: boolean }, streams: ProcessStreams) => Promise<void>;
  /** Size of the terminal that shows the output; one of a container has it before its process starts, which may look at once. undefined: there is none. */
  readonly windowSize?: () => { readonly columns: number; readonly rows: number } | undefined;
  /** Asks for an orderly end: containers get their grace period. */
  readonly stopSignal?: AbortSignal;
  /** Asks for an end at once. */
  readonly killSignal?: AbortSignal;
}

/** How a container ended for good. */
export interface ContainerOutcome {
  readonly name: string;
  readonly role: ContainerRole;
  readonly id: ContainerId;
  readonly exitCode: number;
  readonly reason: string;
  readonly restarts: number;
}

/** How a run ended. */
export interface RunResult {
  readonly podSandboxId: PodSandboxId;
  /** In the order of the manifest: init containers and sidecars, then containers; only those that ran. Empty for a detached run. */
  readonly containers: readonly ContainerOutcome[];
  /** A signal ended the run. */
  readonly interrupted: boolean;
  /** An init container failed for good, so that no container was started. */
  readonly initFailed: boolean;
}
