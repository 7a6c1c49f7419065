/** Rates of processor time from pairs of looks. In: what a counter said, and when. Out: billionths of one processor. Pure state, no clock. */
import { limits } from '#core';
import type { CpuUsage, GroupUsage } from './stats-types.ts';

interface Look {
  readonly atNs: bigint;
  readonly usageNs: bigint;
  /** Of the two looks before, for callers that follow each other too closely for a rate of their own. */
  readonly nanoCores: bigint | undefined;
}

/** A shorter time between two looks says nothing: the kernel counts in ticks of some milliseconds. */
const intervalNsMin = 100_000_000n;
const nanosecondsPerSecond = 1_000_000_000n;

/** The last look of each pod and container. One per engine, so that whoever asks, each rate is that since the look before. */
export class CpuRates {
  readonly #looks = new Map<string, Look>();

  /** The usage with its rate, where there is one, and remembers it for the next. */
  withRate(id: string, usage: GroupUsage): GroupUsage {
    const { cpu } = usage;
    if (cpu === undefined) return usage;
    const nanoCores = this.#rate(id, usage.atNs, cpu);
    return nanoCores === undefined ? usage : { ...usage, cpu: { ...cpu, nanoCores } };
  }

  #rate(id: string, atNs: bigint, { usageNs }: CpuUsage): bigint | undefined {
    const last = this.#looks.get(id);
    const passedNs = last === undefined ? 0n : atNs - last.atNs;
    // A clock that was set back, or a counter that began anew: from here on again.
    if (last === undefined || passedNs < 0n || usageNs < last.usageNs || passedNs > BigInt(limits.statsRateAgeMsMax) * 1_000_000n) {
      this.#looks.set(id, { atNs, usageNs, nanoCores: undefined });
      return undefined;
    }
    if (passedNs < intervalNsMin) return last.nanoCores;
    const nanoCores = ((usageNs - last.usageNs) * nanosecondsPerSecond) / passedNs;
    this.#looks.set(id, { atNs, usageNs, nanoCores });
    return nanoCores;
  }

  /** Forgets what is no longer there, once that is as much as what is. */
  retain(count: number, exists: (id: string) => boolean): void {
    if (this.#looks.size <= 2 * count + 16) return;
    for (const id of this.#looks.keys()) if (!exists(id)) this.#looks.delete(id);
  }
}
