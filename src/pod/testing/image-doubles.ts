/** An image store in memory for the engine's unit tests. In: a journal. Out: one image under one name. For tests only. */
import type { ImagePort, ResolvedImage } from '../ports.ts';
import type { Journal } from './doubles.ts';

const image: ResolvedImage = {
  id: 'sha256:1',
  names: ['docker.io/library/x:latest'],
  digests: ['docker.io/library/x@sha256:2'],
  sizeBytes: 1,
  createdAtNs: 0n,
  pinned: false,
  process: { entrypoint: ['/bin/app'], command: ['serve'], env: ['A=image', 'B=image'], workingDir: '', user: '', stopSignal: '' },
};

export class FakeImages implements ImagePort {
  readonly held = new Set<string>();
  readonly #journal: Journal;

  constructor(journal: Journal) {
    this.#journal = journal;
  }

  resolve(nameOrId: string): ResolvedImage | undefined {
    return nameOrId === 'x' ? image : undefined;
  }
  lease(_imageId: string, leaseId: string): { storeDir: string; lower: string[] } {
    this.#journal.calls.push('lease');
    this.held.add(leaseId);
    return { storeDir: '/layers', lower: ['1'] };
  }
  async leaseMapped(imageId: string, leaseId: string): Promise<{ storeDir: string; lower: string[]; mapLower: boolean }> {
    return { ...this.lease(imageId, leaseId), mapLower: true };
  }
  release(leaseId: string): void {
    this.held.delete(leaseId);
  }
  leases(): readonly string[] {
    return [...this.held];
  }
  list(): ResolvedImage[] {
    return [image];
  }
  async pull(): Promise<ResolvedImage> {
    return image;
  }
  async importImages(): Promise<ResolvedImage[]> {
    return [image];
  }
  async fromHost(): Promise<{ image: ResolvedImage; files: never[] }> {
    return { image, files: [] };
  }
  info(): Record<string, unknown> {
    return {};
  }
  async push(): Promise<{ reference: string; digest: string; pushedBytes: number; mountedBytes: number }> {
    return { reference: 'x', digest: 'sha256:0', pushedBytes: 0, mountedBytes: 0 };
  }
  async save(): Promise<{ images: ResolvedImage[]; sizeBytes: number }> {
    return { images: [image], sizeBytes: 1 };
  }
  tag(): ResolvedImage {
    return image;
  }
  pin(): ResolvedImage {
    return image;
  }
  async remove(): Promise<void> {
    await this.#journal.step('removeImage');
  }
  async diskUsage(): Promise<{ images: never[]; blobBytes: number; layerBytes: number; partialBytes: number; reclaimableBytes: number }> {
    return { images: [], blobBytes: 0, layerBytes: 0, partialBytes: 0, reclaimableBytes: 0 };
  }
  async verify(): Promise<{ images: never[]; checkedBytes: number; checkedFiles: number }> {
    return { images: [], checkedBytes: 0, checkedFiles: 0 };
  }
  async collect(): Promise<{ images: never[]; layers: never[]; blobs: never[]; partials: never[]; freedBytes: number }> {
    return { images: [], layers: [], blobs: [], partials: [], freedBytes: 0 };
  }
  async tags(): Promise<string[]> {
    return [];
  }
  async referrers(): Promise<never[]> {
    return [];
  }
  async usage(): Promise<{ atNs: bigint; mountpoint: string; usedBytes: number; inodesUsed: number }> {
    return { atNs: 0n, mountpoint: '/', usedBytes: 0, inodesUsed: 0 };
  }
}
