/** Lists in parts: what a stream sends as one message. In: items. Out: batches. Pure. */
import { type DescMessage, type MessageInitShape, create, toBinary } from '@bufbuild/protobuf';
import { limits } from '#core';

/** The items in order, at most `max` in a batch and, where their sizes are known, at most `bytesMax` together; a larger one goes alone. Nothing gives no batch. */
export function* inBatches<T>(
  items: Iterable<T>,
  max: number,
  { sizeOf, bytesMax }: { readonly sizeOf: (item: T) => number; readonly bytesMax: number } = { sizeOf: () => 0, bytesMax: 0 },
): Generator<T[], void, void> {
  let batch: T[] = [];
  let bytes = 0;
  for (const item of items) {
    const size = sizeOf(item);
    if (batch.length > 0 && (batch.length >= max || bytes + size > bytesMax)) {
      yield batch;
      batch = [];
      bytes = 0;
    }
    batch.push(item);
    bytes += size;
  }
  if (batch.length > 0) yield batch;
}

/** Messages of a list in batches that fit one answer of a stream, whatever labels and annotations they carry. */
export function messageBatches<M extends DescMessage>(schema: M, items: Iterable<MessageInitShape<M>>): Generator<MessageInitShape<M>[], void, void> {
  return inBatches(items, limits.streamBatchItemsMax, { sizeOf: (item) => toBinary(schema, create(schema, item)).length, bytesMax: limits.streamBatchBytesMax });
}

/** Which stream has the same items as a list, by name of the RPC. */
export const streamOfList: ReadonlyMap<string, string> = new Map([
  ['ListPodSandbox', 'StreamPodSandboxes'],
  ['ListContainers', 'StreamContainers'],
  ['ListContainerStats', 'StreamContainerStats'],
  ['ListPodSandboxStats', 'StreamPodSandboxStats'],
  ['ListPodSandboxMetrics', 'StreamPodSandboxMetrics'],
  ['ListImages', 'StreamImages'],
]);
