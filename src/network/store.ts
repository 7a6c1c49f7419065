/**
 * The network's records and the pool that follows from them. In: attachments. Out: the same after a crash. A record is written
 * before the host is touched and removed after the host was cleaned. Touches no host.
 */
import { type Records, RuntimeError } from '#core';
import { parseIpv4, type Subnet } from './address.ts';
import { addressOf } from './bridge.ts';
import { AddressPool, type PoolView, type TakeResult } from './pool.ts';
import { hostAddressOf } from './ruleset.ts';
import type { Attachment, PortMapping } from './types.ts';

const attachmentKind = 'networkAttachment';
const restKind = 'networkRest';
const bridgeKind = 'networkBridge';
/** Rested addresses forgotten per release, so that their records do not pile up. */
const wakeCountMax = 8;

/** What must be undone with the bridge. */
export interface BridgeRecord {
  /** ip_forward was off before, so it is switched off again. */
  readonly disableIpForward: boolean;
}

const isObject = (value: unknown): value is Readonly<Record<string, unknown>> => typeof value === 'object' && value !== null;

/** `8080/tcp`, or `127.0.0.1:8080/tcp` where the mapping is for one address. */
export function describePort(mapping: PortMapping): string {
  const hostAddress = hostAddressOf(mapping);
  return `${hostAddress === undefined ? '' : `${hostAddress}:`}${mapping.hostPort}/${mapping.protocol}`;
}

/** True where one host port cannot serve both: equal port and protocol, and an address in common. */
export function portsCollide(one: PortMapping, other: PortMapping): boolean {
  const [oneAddress, otherAddress] = [hostAddressOf(one), hostAddressOf(other)];
  return one.protocol === other.protocol && one.hostPort === other.hostPort && (oneAddress === undefined || otherAddress === undefined || oneAddress === otherAddress);
}

/** Attachments by pod id, kept in memory and in records. */
export class AttachmentStore {
  readonly #records: Records;
  readonly #pool: AddressPool;
  readonly #bridgeName: string;
  readonly #attachments = new Map<string, Attachment>();
  #bridge: BridgeRecord | undefined;

  constructor(records: Records, { subnet, bridgeName }: { readonly subnet: Subnet; readonly bridgeName: string }) {
    this.#records = records;
    this.#bridgeName = bridgeName;
    this.#pool = new AddressPool(subnet);
    this.#load();
  }

  #load(): void {
    for (const { id, value } of this.#records.list(restKind)) {
      if (this.#pool.offsetOf(id) === undefined || !isObject(value) || typeof value['hostInterface'] !== 'string' || typeof value['releasedAtMs'] !== 'number')
        this.#records.delete(restKind, id);
      else this.#pool.release(id, { hostInterface: value['hostInterface'], releasedAtMs: value['releasedAtMs'] });
    }
    for (const { value } of this.#records.list(attachmentKind)) {
      // SAFETY: only `take` writes this kind, and always a whole attachment.
      const attachment = value as Attachment;
      const address = addressOf(attachment);
      // An attachment of another subnet (the options changed) keeps its ports; its address is none of this pool.
      if (this.#pool.offsetOf(address) !== undefined) this.#pool.reserve(address);
      this.#attachments.set(attachment.podId, attachment);
    }
    const bridge = this.#records.get(bridgeKind, this.#bridgeName);
    if (isObject(bridge)) this.#bridge = { disableIpForward: bridge['disableIpForward'] === true };
  }

  get(podId: string): Attachment | undefined {
    return this.#attachments.get(podId);
  }

  list(): Attachment[] {
    return [...this.#attachments.values()];
  }

  get pool(): Pick<AddressPool, 'size' | 'usedCount' | 'restingCount' | 'gateway'> {
    return this.#pool;
  }

  /** The bridge's record; undefined while Berth has made none. */
  get bridge(): BridgeRecord | undefined {
    return this.#bridge;
  }

  /** Stores or forgets what must be undone with the bridge. */
  setBridge(record: BridgeRecord | undefined): void {
    if (record === undefined) this.#records.delete(bridgeKind, this.#bridgeName);
    else this.#records.put(bridgeKind, this.#bridgeName, record);
    this.#bridge = record;
  }

  /** Throws alreadyExists where a pod, or the mapping list itself, has one of these ports. */
  assertPortsUnused(podId: string, portMappings: readonly PortMapping[]): void {
    for (const [index, mapping] of portMappings.entries()) {
      const refuse = (cause: string): never => {
        throw new RuntimeError('alreadyExists', `attach pod ${podId}: host port ${describePort(mapping)} is ${cause}`);
      };
      if (portMappings.slice(0, index).some((other) => portsCollide(mapping, other))) refuse('mapped twice');
      const owner = this.list().find((attachment) => attachment.podId !== podId && attachment.portMappings.some((other) => portsCollide(mapping, other)));
      if (owner !== undefined) refuse(`used by pod ${owner.podId}`);
    }
  }

  /** Takes an address and stores the attachment that `build` makes of it, in one go. */
  take(view: PoolView, build: (address: string) => Attachment): Attachment | Exclude<TakeResult, { kind: 'taken' }> {
    const taken = this.#pool.take(view);
    if (taken.kind !== 'taken') return taken;
    const attachment = build(taken.address);
    this.#records.transaction(() => {
      this.#records.delete(restKind, taken.address);
      this.#records.put(attachmentKind, attachment.podId, attachment);
    });
    this.#attachments.set(attachment.podId, attachment);
    return attachment;
  }

  /** Forgets an attachment and puts its address to rest. */
  release({ podId, hostInterface, addresses }: Attachment, view: PoolView): void {
    const address = addressOf({ addresses });
    const rest = { hostInterface, releasedAtMs: view.nowMs };
    const isOurs = this.#pool.offsetOf(address) !== undefined;
    this.#records.transaction(() => {
      this.#records.delete(attachmentKind, podId);
      for (const woken of this.#pool.wake(view, wakeCountMax)) this.#records.delete(restKind, woken);
      if (isOurs) this.#records.put(restKind, address, rest);
    });
    if (isOurs) this.#pool.release(address, rest);
    this.#attachments.delete(podId);
  }
}

/** Checks the mappings of a request. Throws invalidArgument with the mapping's place. Mappings without a host port are left out. */
export function decodePortMappings(portMappings: readonly PortMapping[]): PortMapping[] {
  return portMappings
    .filter(({ hostPort }) => hostPort !== 0)
    .map((mapping, index) => {
      const fail = (field: string, cause: string): never => {
        throw new RuntimeError('invalidArgument', `portMappings[${index}].${field}: ${cause}`);
      };
      for (const field of ['containerPort', 'hostPort'] as const) {
        if (!Number.isInteger(mapping[field]) || mapping[field] < 1 || mapping[field] > 65_535) fail(field, `${mapping[field]} is not between 1 and 65535`);
      }
      const hostAddress = hostAddressOf(mapping);
      if (hostAddress !== undefined && parseIpv4(hostAddress) === undefined) fail('hostIp', `${JSON.stringify(hostAddress.slice(0, 80))} is not an IPv4 address`);
      const { protocol, containerPort, hostPort } = mapping;
      return { protocol, containerPort, hostPort, ...(hostAddress === undefined ? {} : { hostIp: hostAddress }) };
    });
}
