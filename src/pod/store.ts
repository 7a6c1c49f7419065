/**
 * The engine's records of pods and containers: in memory for reading, written through to `Records` before anything else happens.
 * In: records. Out: lookups by id, by unique prefix, by name. No policy, no host access.
 */
import { type ContainerId, type PodSandboxId, type Records, RuntimeError } from '#core';
import type { Identity, NetworkAttachment, SandboxRecord } from './ports.ts';
import type { ContainerConfig, LinuxResources, PodSandboxConfig } from './types.ts';
import type { PodSandboxUpdate } from './update.ts';
import type { MountedImage } from './volumes.ts';

/**
 * States of a pod. Transitions: creating → ready → notReady → gone; creating → gone on failure.
 * `creating` is recorded before the host is touched and is never listed.
 */
export type PodRecordState = 'creating' | 'ready' | 'notReady';

/** A pod as it is kept. */
export interface PodRecord {
  readonly id: PodSandboxId;
  readonly config: PodSandboxConfig;
  readonly hostname: string;
  readonly state: PodRecordState;
  readonly createdAtNs: bigint;
  readonly runtimeHandler: string;
  readonly foreground: boolean;
  readonly sandbox: SandboxRecord;
  readonly attachment?: NetworkAttachment;
  /** How long the attachment took, for people; absent with the host's network. */
  readonly networkMs?: number;
  /** What holds instead of the configuration's resources since an update. */
  readonly updated?: PodSandboxUpdate;
}

/** States of a container: creating → created → running → exited → gone; a created one may end without running. */
export type ContainerRecordState = 'creating' | 'created' | 'running' | 'exited';

/** A container as it is kept. Times are Unix nanoseconds, 0n: not yet. */
export interface ContainerRecord {
  readonly id: ContainerId;
  readonly podId: PodSandboxId;
  readonly config: ContainerConfig;
  readonly imageId: string;
  readonly imageRef: string;
  readonly state: ContainerRecordState;
  readonly pid: number;
  readonly createdAtNs: bigint;
  readonly startedAtNs: bigint;
  readonly finishedAtNs: bigint;
  readonly exitCode: number;
  readonly reason: string;
  readonly message: string;
  readonly stopSignal: string;
  readonly identity?: Identity;
  /** What its mounts of images led to; absent: it has none. */
  readonly mountedImages?: readonly MountedImage[];
  /** What holds instead of the configuration's since an update. */
  readonly updated?: UpdatedContainer;
  /** An update under way: what will hold, perhaps applied in part. */
  readonly pendingUpdate?: UpdatedContainer;
}

/** Resources and annotations after an update, all of them. */
export interface UpdatedContainer {
  readonly resources?: LinuxResources;
  readonly annotations: Readonly<Record<string, string>>;
}

/** Name under which creates are joined. */
export function podKey(config: PodSandboxConfig): string {
  const { namespace, name, uid, attempt } = config.metadata;
  return `${namespace}/${name}/${uid}/${attempt}`;
}

/** The same for containers of one pod. */
export function containerKey(podId: string, config: ContainerConfig): string {
  return `${podId}/${config.metadata.name}/${config.metadata.attempt}`;
}

/** Legal moves of a container, the one place where they are written down. */
const containerMoves: Readonly<Record<ContainerRecordState, readonly ContainerRecordState[]>> = {
  creating: ['created'],
  created: ['running', 'exited'],
  running: ['exited'],
  exited: [],
};

/** Records by kind, with lookups that never touch the disk. */
export class PodStore {
  readonly #records: Records;
  readonly #pods = new Map<string, PodRecord>();
  readonly #containers = new Map<string, ContainerRecord>();
  readonly #podsByKey = new Map<string, string>();
  readonly #containersByKey = new Map<string, string>();

  constructor(records: Records) {
    this.#records = records;
    // SAFETY: only this class writes these two kinds, with exactly these types.
    for (const { value } of records.list('pod')) this.#indexPod(value as PodRecord);
    for (const { value } of records.list('container')) this.#indexContainer(value as ContainerRecord);
  }

  #indexPod(pod: PodRecord): void {
    this.#pods.set(pod.id, pod);
    this.#podsByKey.set(podKey(pod.config), pod.id);
  }

  #indexContainer(container: ContainerRecord): void {
    this.#containers.set(container.id, container);
    this.#containersByKey.set(containerKey(container.podId, container.config), container.id);
  }

  putPod(pod: PodRecord): PodRecord {
    this.#records.put('pod', pod.id, pod);
    this.#indexPod(pod);
    return pod;
  }

  deletePod(id: string): void {
    const pod = this.#pods.get(id);
    this.#records.delete('pod', id);
    if (pod === undefined) return;
    this.#pods.delete(id);
    if (this.#podsByKey.get(podKey(pod.config)) === id) this.#podsByKey.delete(podKey(pod.config));
  }

  putContainer(container: ContainerRecord): ContainerRecord {
    this.#records.put('container', container.id, container);
    this.#indexContainer(container);
    return container;
  }

  /** Moves a container's state and stores the change; an illegal move is a bug. Returns undefined when the container is gone. */
  moveContainer(id: string, change: Partial<ContainerRecord> & { readonly state: ContainerRecordState }): ContainerRecord | undefined {
    const container = this.#containers.get(id);
    if (container === undefined) return undefined;
    if (!containerMoves[container.state].includes(change.state)) {
      throw new RuntimeError('failedPrecondition', `container ${id} is ${container.state}, cannot become ${change.state}`);
    }
    return this.putContainer({ ...container, ...change });
  }

  deleteContainer(id: string): void {
    const container = this.#containers.get(id);
    this.#records.delete('container', id);
    if (container === undefined) return;
    this.#containers.delete(id);
    const key = containerKey(container.podId, container.config);
    if (this.#containersByKey.get(key) === id) this.#containersByKey.delete(key);
  }

  podByKey(key: string): PodRecord | undefined {
    const id = this.#podsByKey.get(key);
    return id === undefined ? undefined : this.#pods.get(id);
  }

  containerByKey(key: string): ContainerRecord | undefined {
    const id = this.#containersByKey.get(key);
    return id === undefined ? undefined : this.#containers.get(id);
  }

  /** By id or unique prefix of one; undefined when there is none. Throws invalidArgument when the prefix fits several. */
  findPod(id: string): PodRecord | undefined {
    return findByPrefix(this.#pods, id, 'pod sandbox');
  }

  findContainer(id: string): ContainerRecord | undefined {
    return findByPrefix(this.#containers, id, 'container');
  }

  /** Like findPod, but throws notFound. The wording is what callers of CRI match. */
  getPod(id: string): PodRecord {
    const pod = this.findPod(id);
    if (pod === undefined) throw new RuntimeError('notFound', `pod sandbox ${JSON.stringify(id)}: pod sandbox does not exist`);
    return pod;
  }

  getContainer(id: string): ContainerRecord {
    const container = this.findContainer(id);
    if (container === undefined) throw new RuntimeError('notFound', `container ${JSON.stringify(id)}: container does not exist`);
    return container;
  }

  pods(): PodRecord[] {
    return [...this.#pods.values()];
  }

  containers(podId?: string): ContainerRecord[] {
    const all = [...this.#containers.values()];
    return podId === undefined ? all : all.filter((container) => container.podId === podId);
  }
}

function findByPrefix<T>(all: ReadonlyMap<string, T>, id: string, kind: string): T | undefined {
  const exact = all.get(id);
  if (exact !== undefined || id === '') return exact;
  const matches = [...all.keys()].filter((key) => key.startsWith(id));
  if (matches.length > 1) throw new RuntimeError('invalidArgument', `${kind} ${JSON.stringify(id)}: matches ${matches.length} ids`);
  const [match] = matches;
  return match === undefined ? undefined : all.get(match);
}
