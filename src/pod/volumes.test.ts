/** Volumes from images: where declared ones go, what is refused, which leases are taken and given up, how failures read. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { RuntimeError, limits } from '#core';
import type { Mount } from './types.ts';
import {
  containerOfLease,
  declaredSources,
  declaredVolumes,
  explainMountFailure,
  leaseImages,
  planDeclaredVolumes,
  planImageMount,
  releaseImages,
  resolveImageMounts,
} from './volumes.ts';

const mountOf = (change: Partial<Mount> = {}): Mount => ({
  containerPath: '/data',
  hostPath: '',
  readonly: true,
  propagation: 'private',
  image: { image: 'x', subPath: '' },
  ...change,
});
const hostMount = (containerPath: string): Mount => ({ containerPath, hostPath: '/h', readonly: false, propagation: 'private' });

describe('declared volumes', () => {
  const targets = (volumes: readonly string[], mounts: readonly Mount[] = []): readonly string[] => declaredVolumes({ volumes }, mounts, 'anonymous');

  it('are absolute, each once, parents first', () => {
    assert.deepEqual(targets(['/b/c/', 'b', '//a/./x', '/a/x']), ['/b', '/a/x', '/b/c']);
    assert.deepEqual(targets([]), []);
    assert.deepEqual(declaredVolumes({}, [], 'anonymous'), []);
    assert.deepEqual(declaredVolumes({ volumes: ['/../x'] }, [], 'ignore'), []);
  });

  it('leave out what the request mounts and what the runtime does', () => {
    assert.deepEqual(targets(['/data', '/data/in', '/proc', '/proc/sys', '/sys/fs/cgroup', '/dev/shm', '/process'], [hostMount('/data/')]), ['/process', '/data/in']);
  });

  it('are refused where no builder would have put them', () => {
    for (const path of ['/', '', '.', '//']) assert.throws(() => targets([path]), { code: 'invalidArgument', message: /^image config\.Volumes: ".*" is the root itself$/ });
    for (const path of ['/a/../b', '..', '/a\0b']) assert.throws(() => targets([path]), { code: 'invalidArgument', message: /must not contain "\.\." or NUL$/ });
    const many = Array.from({ length: limits.imageVolumesMax + 1 }, (_, index) => `/v${index}`);
    assert.throws(() => targets(many), { code: 'resourceExhausted', message: 'image config.Volumes: 65 volumes, at most 64' });
  });

  it('share one bound of bytes, and are named alike in the spec and beside it', () => {
    const sources = declaredSources(['/a', '/b'], 'anonymous');
    assert.deepEqual(
      planDeclaredVolumes(['/a', '/b']).map(({ source }) => source),
      Object.keys(sources),
    );
    assert.deepEqual(sources['volume-1'], { kind: 'directory', bytesMax: limits.imageVolumeBytesMax / 2, origin: 'image config.Volumes["/b"]' });
    assert.equal(declaredSources(['/a'], 'tmpfs')['volume-0']?.kind, 'memory');
    assert.deepEqual(declaredSources([], 'anonymous'), {});
  });
});

describe('mounted images', () => {
  it('are read-only, without set-user-id and devices, and as asked without execution', () => {
    assert.deepEqual(planImageMount(mountOf({ readonly: false, restrictions: ['noexec', 'nodev'] }), 3), {
      destination: '/data',
      type: 'bind',
      source: 'image-3',
      options: ['bind', 'rprivate', 'ro', 'nosuid', 'nodev', 'noexec'],
      idMapped: false,
    });
    assert.throws(() => planImageMount(mountOf({ hostPath: '/h' }), 0), { code: 'invalidArgument', message: 'config.mounts[0].host_path: must be empty beside an image' });
    assert.throws(() => planImageMount(mountOf({ propagation: 'hostToContainer' }), 1), { message: 'config.mounts[1].propagation: must be private for an image' });
  });

  it('are found, leased one by one, and given up with their container', () => {
    const held = new Map<string, string>();
    const images = {
      resolve: (name: string) => (name === 'x' ? { id: 'sha256:1', names: [], digests: ['x@sha256:2'], sizeBytes: 0, createdAtNs: 0n, pinned: false, process } : undefined),
      lease: (imageId: string, leaseId: string, options?: { readonly purpose: string }) => {
        held.set(leaseId, `${imageId} ${options?.purpose}`);
        return { storeDir: '/layers', lower: ['1'] };
      },
      release: (leaseId: string) => void held.delete(leaseId),
    };
    const process = { entrypoint: [], command: [], env: [], workingDir: '', user: '', stopSignal: '' };
    const mounts = [hostMount('/h'), mountOf({ image: { image: 'x', subPath: 'part' } })];
    const mounted = resolveImageMounts(images, mounts);
    assert.deepEqual(mounted, [{ mount: 1, imageId: 'sha256:1', imageRef: 'x@sha256:2' }]);
    const container = { id: 'c1', imageId: 'sha256:9', config: { mounts } };
    const { volumes } = leaseImages(images, container, mounted);
    assert.deepEqual(volumes, { 'image-1': { kind: 'layers', layers: { storeDir: '/layers', lower: ['1'] }, subPath: 'part', origin: 'config.mounts[1]' } });
    assert.deepEqual(
      [...held],
      [
        ['c1', 'sha256:9 rootfs'],
        ['c1/image-1', 'sha256:1 volume'],
      ],
    );
    assert.deepEqual([...held.keys()].map(containerOfLease), ['c1', 'c1']);
    releaseImages(images, container);
    assert.equal(held.size, 0);
    assert.throws(() => resolveImageMounts(images, [mountOf({ image: { image: 'y', subPath: '' } })]), {
      code: 'notFound',
      message: 'ImageVolumeMountFailed: config.mounts[0].image: image "y": not found',
    });
  });

  it('fail in the words of the request', () => {
    const mounts = [mountOf({ image: { image: 'sha256:1', userSpecifiedImage: 'models', subPath: 'no\nne' } })];
    const explained = (message: string, errno?: string): unknown => explainMountFailure(new RuntimeError('notFound', message, errno === undefined ? {} : { errno }), mounts);
    const missing = explained('config.mounts[0].image_sub_path: clone the mount: ENOENT', 'ENOENT');
    assert.ok(missing instanceof RuntimeError);
    assert.equal(missing.message, 'ImageVolumeMountFailed: config.mounts[0].image_sub_path: the image "models" has no "no\\nne"');
    const other = explained('config.mounts[0].image: mount overlay: EINVAL', 'EINVAL');
    assert.ok(other instanceof RuntimeError);
    assert.equal(other.message, 'ImageVolumeMountFailed: config.mounts[0].image: mount overlay: EINVAL');
    for (const error of [new RuntimeError('unknown', '/mounts/3: clone'), new RuntimeError('unknown', 'config.mounts[7]: x'), new Error('x')])
      assert.equal(explainMountFailure(error, mounts), error);
  });
});
