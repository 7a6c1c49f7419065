/**
 * Volumes that come from images: those that a request mounts, and those that the container's own image declares (VOLUME).
 * In: a container's mounts, an image's declarations, a policy. Out: mounts of the runtime spec, what stands behind them, leases.
 * What an image declares was written by a stranger: here it is only words, resolved later inside the container's root and nowhere else.
 */
import { RuntimeError, errnoName, errorMessage, invalidArgument, limits } from '#core';
import type { SpecMount } from '#oci';
import type { ImagePort, ImageProcess, RootfsLayers } from './image-port.ts';
import type { ImageVolumePolicy, VolumeSource } from './ports.ts';
import type { Mount, UserMappings } from './types.ts';

/** What of a container says which images it uses besides its own. */
interface ImageUser {
  readonly id: string;
  readonly config: { readonly mounts: readonly Mount[] };
}

/** An image that a mount led to when its container was made. */
export interface MountedImage {
  /** Place in the request's mounts. */
  readonly mount: number;
  readonly imageId: string;
  readonly imageRef: string;
}

/** What a container keeps of images until it is removed. */
export interface LeasedImages {
  readonly layers: RootfsLayers;
  readonly volumes: Readonly<Record<string, VolumeSource>>;
}

/** File systems of the runtime's own; what an image declares at or below them would be covered. */
const runtimePaths = ['/proc', '/sys', '/dev'];
const mountFailed = 'ImageVolumeMountFailed';

const nameOfImageMount = (index: number): string => `image-${index}`;
const leaseOf = (containerId: string, index: number): string => `${containerId}/${nameOfImageMount(index)}`;
const printable = (text: string): string => JSON.stringify(text.slice(0, 200));

/** The container that a lease was taken for. */
export function containerOfLease(leaseId: string): string {
  return leaseId.split('/', 1)[0] ?? '';
}

/** Finds the images of a request's mounts. Throws notFound, with the reason that the kubelet shows. */
export function resolveImageMounts(images: Pick<ImagePort, 'resolve'>, mounts: readonly Mount[]): readonly MountedImage[] {
  return mounts.flatMap(({ image }, index) => {
    if (image === undefined) return [];
    const found = images.resolve(image.image);
    if (found === undefined) throw new RuntimeError('notFound', `${mountFailed}: config.mounts[${index}].image: image ${printable(image.image)}: not found`);
    return [{ mount: index, imageId: found.id, imageRef: found.digests[0] ?? found.id }];
  });
}

/** What a lease is taken with. */
type Lessor = Pick<ImagePort, 'lease'>;

const purposes = { root: { purpose: 'rootfs' }, volume: { purpose: 'volume' } } as const;

function imageVolume(container: ImageUser, mount: number, layers: RootfsLayers): readonly [string, VolumeSource] {
  const subPath = container.config.mounts[mount]?.image?.subPath ?? '';
  return [nameOfImageMount(mount), { kind: 'layers', layers, subPath, origin: `config.mounts[${mount}]` }];
}

/** Keeps the container's own image and those of its mounts. Equal leases again give the same answer. */
export function leaseImages(images: Lessor, container: ImageUser & { readonly imageId: string }, mounted: readonly MountedImage[]): LeasedImages {
  const layers = images.lease(container.imageId, container.id, purposes.root);
  const volumes = mounted.map(({ mount, imageId }) => imageVolume(container, mount, images.lease(imageId, leaseOf(container.id, mount), purposes.volume)));
  return { layers, volumes: Object.fromEntries(volumes) };
}

/** The same for a pod with a user namespace: layers that are mapped to its ids. */
export async function leaseMappedImages(
  images: Pick<ImagePort, 'leaseMapped'>,
  container: ImageUser & { readonly imageId: string },
  mounted: readonly MountedImage[],
  mappings: UserMappings,
): Promise<LeasedImages> {
  const layers = await images.leaseMapped(container.imageId, container.id, mappings, purposes.root);
  const volumes: (readonly [string, VolumeSource])[] = [];
  for (const { mount, imageId } of mounted) volumes.push(imageVolume(container, mount, await images.leaseMapped(imageId, leaseOf(container.id, mount), mappings, purposes.volume)));
  return { layers, volumes: Object.fromEntries(volumes) };
}

/** Gives up what `leaseImages` kept; absence is success. */
export function releaseImages(images: Pick<ImagePort, 'release'>, container: ImageUser): void {
  images.release(container.id);
  for (const [index, { image }] of container.config.mounts.entries()) if (image !== undefined) images.release(leaseOf(container.id, index));
}

/** The request's mount of an image, as an entry of the runtime spec whose source only this engine can give. */
export function planImageMount(mount: Mount, index: number): SpecMount {
  const at = `config.mounts[${index}]`;
  if (mount.hostPath !== '') throw invalidArgument(`${at}.host_path`, 'must be empty beside an image');
  // Nothing is mounted below an image, so nothing could propagate; to ask for it is a misunderstanding.
  if (mount.propagation !== 'private') throw invalidArgument(`${at}.propagation`, 'must be private for an image');
  const options = new Set(['bind', 'rprivate', 'ro', 'nosuid', 'nodev', ...(mount.restrictions ?? [])]);
  return { destination: mount.containerPath, type: 'bind', source: nameOfImageMount(index), options: [...options], idMapped: false };
}

function normalise(path: string): string {
  const parts = path.split('/').filter((part) => part !== '' && part !== '.');
  if (parts.includes('..') || path.includes('\0')) throw invalidArgument('image config.Volumes', `${printable(path)} must not contain ".." or NUL`);
  if (parts.length === 0) throw invalidArgument('image config.Volumes', `${printable(path)} is the root itself`);
  return `/${parts.join('/')}`;
}

const depthOf = (path: string): number => path.split('/').length;

/**
 * Where the image's VOLUMEs go: absolute, each once, parents first. Left out is what the request mounts itself and what lies on the runtime's own
 * file systems. Throws invalidArgument, resourceExhausted.
 */
export function declaredVolumes({ volumes = [] }: Pick<ImageProcess, 'volumes'>, mounts: readonly Mount[], policy: ImageVolumePolicy): readonly string[] {
  if (policy === 'ignore') return [];
  const targets = new Set(volumes.map(normalise));
  for (const { containerPath } of mounts) targets.delete(containerPath.replace(/(?<=.)\/+$/, ''));
  const wanted = [...targets].filter((target) => !runtimePaths.some((path) => target === path || target.startsWith(`${path}/`)));
  if (wanted.length > limits.imageVolumesMax) throw new RuntimeError('resourceExhausted', `image config.Volumes: ${wanted.length} volumes, at most ${limits.imageVolumesMax}`);
  return wanted.toSorted((a, b) => depthOf(a) - depthOf(b) || (a < b ? -1 : 1));
}

const nameOfDeclared = (index: number): string => `volume-${index}`;

/** The image's VOLUMEs as mounts of the runtime spec. They stand before all others, so that an image covers nothing of the runtime or the request. */
export function planDeclaredVolumes(targets: readonly string[]): readonly SpecMount[] {
  return targets.map((destination, index) => ({ destination, type: 'bind', source: nameOfDeclared(index), options: ['bind', 'rprivate', 'rw', 'nodev'], idMapped: false }));
}

/** What stands behind `planDeclaredVolumes`: directories of the container's own or memory, filled with what the image holds at the path. */
export function declaredSources(targets: readonly string[], policy: ImageVolumePolicy): Readonly<Record<string, VolumeSource>> {
  // The bound is for all of them together: links of an image can make many volumes of one directory.
  const bytesMax = Math.floor(limits.imageVolumeBytesMax / Math.max(targets.length, 1));
  return Object.fromEntries(
    targets.map((target, index): readonly [string, VolumeSource] => [
      nameOfDeclared(index),
      { kind: policy === 'tmpfs' ? 'memory' : 'directory', bytesMax, origin: `image config.Volumes[${printable(target)}]` },
    ]),
  );
}

/** A failed create in the words of its request where a mounted image is the cause, else the error as it is. */
export function explainMountFailure(error: unknown, mounts: readonly Mount[]): unknown {
  const found = /^config\.mounts\[(\d+)\](\.image_sub_path|\.image)?: /.exec(errorMessage(error));
  const mount = mounts[Number(found?.[1])];
  if (!(error instanceof RuntimeError) || found === null || mount?.image === undefined) return error;
  const [place, subPath] = [found[0].slice(0, -2), found[2] === '.image_sub_path'];
  const errno = errnoName(error);
  const isMissing = subPath && (errno === 'ENOENT' || errno === 'ENOTDIR');
  const cause = isMissing
    ? `the image ${printable(mount.image.userSpecifiedImage ?? mount.image.image)} has no ${printable(mount.image.subPath)}`
    : errorMessage(error).slice(found[0].length);
  return new RuntimeError(isMissing ? 'notFound' : error.code, `${mountFailed}: ${place}: ${cause}`, { cause: error, ...(errno === undefined ? {} : { errno }) });
}
