/**
 * The IPv4 pool: which address of a network is used, resting or free. Pure: the time and the host's links come in as arguments,
 * nothing is stored. An address rests after its release, because the kernel tears a network namespace down in the background.
 */
import { assert, limits } from '#core';
import { type Subnet, formatIpv4, parseIpv4 } from './address.ts';

/** An address that was released. */
export interface Rest {
  /** Link that must be gone before the address is used again. */
  readonly hostInterface: string;
  readonly releasedAtMs: number;
}

/** What a search for an address may look at. */
export interface PoolView {
  readonly nowMs: number;
  readonly hasLink: (name: string) => boolean;
}

/** `resting`: none is free now, but one will be soon. */
export type TakeResult = { readonly kind: 'taken'; readonly address: string } | { readonly kind: 'resting' } | { readonly kind: 'full' };

/** Hands addresses out in turn, so that a released one is used again as late as possible. */
export class AddressPool {
  readonly #subnet: Subnet;
  readonly #used = new Set<number>();
  readonly #resting = new Map<number, Rest>();
  /** Offset in the network: 0 is the network, 1 the gateway, the last one broadcast. */
  #next = 2;

  constructor(subnet: Subnet) {
    this.#subnet = subnet;
  }

  /** Addresses for pods, used or not. */
  get size(): number {
    return this.#subnet.size - 3;
  }

  get usedCount(): number {
    return this.#used.size;
  }

  get restingCount(): number {
    return this.#resting.size;
  }

  /** The address that the bridge has. */
  get gateway(): string {
    return formatIpv4(this.#subnet.network + 1);
  }

  /** Position of an address in the network, or undefined where it is none that a pod could have. */
  offsetOf(address: string): number | undefined {
    const number = parseIpv4(address);
    if (number === undefined) return undefined;
    const offset = number - this.#subnet.network;
    return offset >= 2 && offset < this.#subnet.size - 1 ? offset : undefined;
  }

  #offset(address: string): number {
    const offset = this.offsetOf(address);
    assert(offset !== undefined, `${address} is no pod address of ${this.#subnet.text}`);
    return offset;
  }

  static #isRested(rest: Rest, view: PoolView): boolean {
    const restedMs = view.nowMs - rest.releasedAtMs;
    // A clock that was set back must not keep an address for ever.
    return (restedMs >= limits.addressRestMs || restedMs < 0) && !view.hasLink(rest.hostInterface);
  }

  /** Marks an address that a record says is used. */
  reserve(address: string): void {
    const offset = this.#offset(address);
    this.#resting.delete(offset);
    this.#used.add(offset);
  }

  /** Puts an address to rest. */
  release(address: string, rest: Rest): void {
    const offset = this.#offset(address);
    this.#used.delete(offset);
    this.#resting.set(offset, rest);
  }

  /** Takes the next free address. */
  take(view: PoolView): TakeResult {
    if (this.#used.size === this.size) return { kind: 'full' };
    for (let step = 0; step < this.size; step += 1) {
      const offset = 2 + ((this.#next - 2 + step) % this.size);
      if (this.#used.has(offset)) continue;
      const rest = this.#resting.get(offset);
      if (rest !== undefined && !AddressPool.#isRested(rest, view)) continue;
      this.#resting.delete(offset);
      this.#used.add(offset);
      this.#next = offset + 1;
      return { kind: 'taken', address: formatIpv4(this.#subnet.network + offset) };
    }
    return { kind: 'resting' };
  }

  /** Forgets up to `countMax` of the addresses that have rested longest, and returns them. */
  wake(view: PoolView, countMax: number): string[] {
    const woken: number[] = [];
    for (const [offset, rest] of this.#resting) {
      if (woken.length === countMax || !AddressPool.#isRested(rest, view)) break;
      woken.push(offset);
    }
    for (const offset of woken) this.#resting.delete(offset);
    return woken.map((offset) => formatIpv4(this.#subnet.network + offset));
  }
}
