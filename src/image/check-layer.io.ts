/** One unpacked layer against its index, in a worker thread. In: where both are. Out: what differs. The tree is read by the confined child alone. */
import { errnoName, errorMessage, wrapError } from '#core';
import { type InspectedEntry, inspectLayer } from '#system';
import { LayerComparison } from './compare-layer.ts';
import { readIndexText } from './layer-index-file.io.ts';
import type { CheckLayerTask, StoreTaskResult } from './store-tasks.ts';

/** Runs the comparison. Throws only what has to do with neither tree nor index, such as a launcher that is gone. */
export async function checkLayer(task: CheckLayerTask, onBytes: (bytes: number) => void, signal: AbortSignal): Promise<StoreTaskResult> {
  let comparison: LayerComparison;
  try {
    comparison = new LayerComparison(readIndexText(task.indexPath));
  } catch (error) {
    return { kind: 'layer', entries: 0, contentBytes: 0, indexProblem: errorMessage(error), differences: [] };
  }
  let reported = 0;
  let indexProblem: string | undefined;
  const handler = {
    entry: (entry: InspectedEntry) => {
      try {
        comparison.entry(entry);
      } catch (error) {
        indexProblem = `read layer index: ${errorMessage(error)}`;
        throw error;
      }
    },
    content: (chunk: Uint8Array) => {
      comparison.content(chunk);
      onBytes(comparison.contentBytes - reported);
      reported = comparison.contentBytes;
    },
  };
  try {
    const entries = await inspectLayer(task.launcherSocket, { layerDir: task.layerDir, rootDir: task.rootDir }, handler, signal);
    return { kind: 'layer', entries, contentBytes: comparison.contentBytes, differences: comparison.finish() };
  } catch (error) {
    signal.throwIfAborted();
    if (indexProblem !== undefined) return { kind: 'layer', entries: 0, contentBytes: comparison.contentBytes, indexProblem, differences: [] };
    // A part of the tree that cannot be read is damage like any other.
    if (errnoName(error) !== undefined && errorMessage(error).startsWith('read '))
      return { kind: 'layer', entries: 0, contentBytes: comparison.contentBytes, differences: [errorMessage(error)] };
    throw wrapError(`inspect layer ${task.diffId}`, error);
  }
}
