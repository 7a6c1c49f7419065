/**
 * Records of attachments by plugins. In: what a pod is about to get. Out: the same after a crash. A record is written before the namespace
 * is pinned and before the first plugin runs, and removed after the last DEL has succeeded and the pin is gone.
 */
import type { Records } from '#core';
import { restoreCniList } from './cni-config.ts';
import type { CniCall } from './cni-plugins.ts';
import { parseObject } from './cni-result.ts';
import type { CniAttachmentState, CniRecord } from './cni-types.ts';

const attachmentKind = 'cniAttachment';
const podCidrKind = 'networkPodCidr';
const podCidrId = 'node';

/** Kept in memory and in records. */
export class CniStore {
  readonly #records: Records;
  readonly #attachments = new Map<string, CniRecord>();
  #podCidrs: readonly string[] = [];

  constructor(records: Records) {
    this.#records = records;
    for (const { value } of records.list(attachmentKind)) {
      // SAFETY: only `put` writes this kind, and always a whole record.
      const record = value as CniRecord;
      this.#attachments.set(record.podId, record);
    }
    const ranges = records.get(podCidrKind, podCidrId);
    if (Array.isArray(ranges)) this.#podCidrs = ranges.map(String);
  }

  get(podId: string): CniRecord | undefined {
    return this.#attachments.get(podId);
  }

  list(): CniRecord[] {
    return [...this.#attachments.values()];
  }

  put(record: CniRecord): CniRecord {
    this.#records.put(attachmentKind, record.podId, record);
    this.#attachments.set(record.podId, record);
    return record;
  }

  /** No error where it is gone. */
  setState(podId: string, state: CniAttachmentState): void {
    const record = this.#attachments.get(podId);
    if (record !== undefined && record.state !== state) this.put({ ...record, state });
  }

  delete(podId: string): void {
    this.#records.delete(attachmentKind, podId);
    this.#attachments.delete(podId);
  }

  /** Ranges of the node's pods, as they were told last. */
  get podCidrs(): readonly string[] {
    return this.#podCidrs;
  }

  setPodCidrs(ranges: readonly string[]): void {
    this.#records.put(podCidrKind, podCidrId, ranges);
    this.#podCidrs = ranges;
  }
}

/** The call of plugins that a record stands for. */
export function callOf({ podId, netnsPath, interfaceName, list, args, capabilityArgs, result }: CniRecord): CniCall {
  const decoded = result === undefined ? undefined : parseObject(result);
  return {
    list: restoreCniList(list),
    target: { containerId: podId, netnsPath, interfaceName, args },
    capabilityArgs: parseObject(capabilityArgs) ?? {},
    ...(decoded === undefined ? {} : { result: decoded }),
  };
}
