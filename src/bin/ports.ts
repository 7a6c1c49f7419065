/** The engine's port of images, filled with the real store. Only translation; the work is the store's. */
import type { ImageStore, StoredImage } from '#image';
import type { ImagePort, ResolvedImage } from '#pod';

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
    leaseMapped: async (imageId, leaseId, mappings, options) => store.leaseMapped(imageId, leaseId, mappings, options),
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
