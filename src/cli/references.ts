/**
 * How people name pods and containers: by id, by a unique beginning of the id, by name, or a container as `pod/container`.
 * In: text and an engine. Out: the status, or notFound, or invalidArgument where several match.
 */
import { RuntimeError } from '#core';
import type { ContainerStatus, Engine, PodSandboxStatus } from '#pod';
import { podrunUidLabel } from '#podrun';
import { shortId } from './human.ts';

interface Named {
  readonly id: string;
  readonly metadata: { readonly name: string };
}

/** Exact id first, then names, then beginnings of ids; of these the first group with a member decides. */
function matchesOf<T extends Named>(reference: string, candidates: readonly T[]): readonly T[] {
  const groups = [
    candidates.filter(({ id }) => id === reference),
    candidates.filter(({ metadata }) => metadata.name === reference),
    candidates.filter(({ id }) => id.startsWith(reference)),
  ];
  return groups.find((group) => group.length > 0) ?? [];
}

function single<T extends Named>(noun: string, reference: string, matches: readonly T[]): T | undefined {
  if (matches.length > 1)
    throw new RuntimeError(
      'invalidArgument',
      `find ${noun} ${JSON.stringify(reference)}: ${matches.length} match: ${matches
        .slice(0, 5)
        .map(({ id, metadata }) => `${metadata.name} (${shortId(id)})`)
        .join(', ')}; use an id`,
    );
  return matches[0];
}

/** The pod, or undefined. `namespace/name` is not a form of it: pods of one host rarely share names. */
export async function findPod(engine: Engine, reference: string): Promise<PodSandboxStatus | undefined> {
  if (reference === '' || reference.includes('/')) return undefined;
  return single('pod', reference, matchesOf(reference, await engine.listPodSandboxes()));
}

/** The container, or undefined. */
export async function findContainer(engine: Engine, reference: string): Promise<ContainerStatus | undefined> {
  const slash = reference.indexOf('/');
  if (slash < 0) return reference === '' ? undefined : single('container', reference, matchesOf(reference, await engine.listContainers()));
  const pod = await findPod(engine, reference.slice(0, slash));
  if (pod === undefined) return undefined;
  const containers = await engine.listContainers({ podSandboxId: pod.id });
  return single('container', reference, matchesOf(reference.slice(slash + 1), containers));
}

/** A container, also as the only (or only running) container of the pod so named. Throws notFound. */
export async function getContainer(engine: Engine, reference: string): Promise<ContainerStatus> {
  const container = await findContainer(engine, reference);
  if (container !== undefined) return container;
  const pod = await findPod(engine, reference);
  if (pod === undefined) throw new RuntimeError('notFound', `find container ${JSON.stringify(reference)}: no such container or pod`);
  const containers = await engine.listContainers({ podSandboxId: pod.id });
  const running = containers.filter(({ state }) => state === 'running');
  const only = running.length === 1 ? running : containers;
  if (only.length !== 1 || only[0] === undefined)
    throw new RuntimeError(
      'invalidArgument',
      containers.length === 0
        ? `find container ${JSON.stringify(reference)}: the pod has no container`
        : `find container ${JSON.stringify(reference)}: the pod has ${containers.map(({ metadata }) => `${reference}/${metadata.name}`).join(', ')}; name one`,
    );
  return only[0];
}

/** Either; a pod goes before a container of the same name. Throws notFound. */
export async function getPodOrContainer(
  engine: Engine,
  reference: string,
): Promise<{ readonly kind: 'pod'; readonly pod: PodSandboxStatus } | { readonly kind: 'container'; readonly container: ContainerStatus }> {
  const pod = await findPod(engine, reference);
  if (pod !== undefined) return { kind: 'pod', pod };
  const container = await findContainer(engine, reference);
  if (container !== undefined) return { kind: 'container', container };
  throw new RuntimeError('notFound', `find ${JSON.stringify(reference)}: no such pod or container`);
}

/** Uid below which podrun keeps the pod's volumes and logs; undefined where something else made the pod. */
export function podrunUidOf(pod: PodSandboxStatus): string | undefined {
  const uid = pod.labels[podrunUidLabel];
  // The label alone is anyone's to set; only the pod's own uid names its directory.
  return uid === pod.metadata.uid ? uid : undefined;
}
