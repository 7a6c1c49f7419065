/** The engine's ports filled with the real network and image store. Only translation; the work is theirs. */
import type { PodSandboxId } from '#core';
import type { ImageStore, StoredImage } from '#image';
import type { Attachment, BridgeNetwork } from '#network';
import type { Plan } from '#plan';
import type { ImagePort, NetworkAttachment, NetworkPort, OpaquePlan, ResolvedImage } from '#pod';
import { podSlots } from '#runtime';

type RunPlan = (plan: Plan) => Promise<void>;
/** The engine hands plans on unseen; between these two ports they are plans. */
const opaque =
  (run: (plan: OpaquePlan) => Promise<void>): RunPlan =>
  async (plan) =>
    run(plan);

function describeAttachment({ addresses, interfaceName, gateway, hostInterface }: Attachment): NetworkAttachment {
  return { ips: addresses.map((address) => address.replace(/\/\d+$/, '')), details: { interface: interfaceName, gateway, hostInterface } };
}

/** The built-in bridge as the engine's network. */
export function createNetworkPort(network: BridgeNetwork): NetworkPort {
  return {
    async attach({ podId, portMappings }, execute, deposit) {
      const published = portMappings.filter(({ hostPort }) => hostPort !== 0);
      const run = async (plan: Plan, attachment?: Attachment): Promise<void> => execute(plan, attachment === undefined ? undefined : describeAttachment(attachment));
      return describeAttachment(await network.attach({ podId, netnsSlot: podSlots.net, portMappings: published }, run, deposit === undefined ? undefined : opaque(deposit)));
    },
    detach: async (podId: PodSandboxId, execute) => network.detach(podId, execute === undefined ? undefined : opaque(execute)),
    reconcile: async (livePodIds) => network.reconcile(livePodIds),
    explain: ({ podId, portMappings }) => network.explain({ podId, portMappings: portMappings.filter(({ hostPort }) => hostPort !== 0) }),
    status: () => network.status(),
    close: async () => network.close(),
  };
}

function describeImage(image: StoredImage): ResolvedImage {
  return {
    id: image.id,
    kind: image.kind,
    names: image.names,
    digests: image.digests,
    sizeBytes: image.sizeBytes,
    createdAtNs: image.createdAtNs,
    pinned: image.pinned,
    process: { ...image.process, volumes: image.config.volumes },
    ...(image.uid === undefined ? {} : { uid: image.uid }),
    ...(image.username === undefined ? {} : { username: image.username }),
  };
}

/** The image store as the engine's images. */
export function createImagePort(store: ImageStore): ImagePort {
  return {
    resolve: (nameOrId) => {
      const image = store.resolve(nameOrId);
      return image === undefined ? undefined : describeImage(image);
    },
    lease: (imageId, leaseId, options) => store.lease(imageId, leaseId, options),
    release: (leaseId) => store.release(leaseId),
    leases: () => store.leases(),
    list: () => store.list().map(describeImage),
    pull: async (reference, options) => describeImage(await store.pull(reference, options)),
    push: async (nameOrId, options) => store.push(nameOrId, options),
    importImages: async (path, options) => (await store.importImages(path, options)).map(describeImage),
    save: async (names, path, options) => {
      const { images, sizeBytes } = await store.save(names, path, options);
      return { images: images.map(describeImage), sizeBytes };
    },
    fromHost: async (request, signal) => {
      const { image, files } = await store.fromHost(request, signal);
      return { image: describeImage(image), files };
    },
    info: (nameOrId) => store.info(nameOrId),
    tag: (nameOrId, name) => describeImage(store.tag(nameOrId, name)),
    pin: (nameOrId, pinned) => describeImage(store.pin(nameOrId, pinned)),
    remove: async (nameOrId, options) => store.remove(nameOrId, options),
    usage: async () => store.usage(),
    diskUsage: async () => store.diskUsage(),
    verify: async (options) => store.verify(options),
    collect: async (options) => store.collect(options),
    tags: async (repository, options) => store.tags(repository, options),
    referrers: async (reference, options) =>
      (await store.referrers(reference, options)).map(({ size, digest, mediaType, artifactType, annotations }) => ({
        digest,
        mediaType,
        ...(artifactType === undefined ? {} : { artifactType }),
        sizeBytes: size,
        annotations,
      })),
  };
}
