/**
 * A host for this folder's tests that is played by this file: it keeps what the plans say, step by step. In: plans. Out: their lines,
 * links and records. Touches no real host.
 */
import assert from 'node:assert/strict';
import { type Clock, RuntimeError, type Records } from '#core';
import { type Plan, decodePlan, encodePlan, explainPlan } from '#plan';
import { describeNetlink } from './describe.ts';
import { BridgeNetwork } from './network.ts';
import type { BridgeOptions, PortMapping } from './types.ts';

class MemoryRecords implements Records {
  readonly values = new Map<string, Map<string, unknown>>();
  put(kind: string, id: string, value: unknown): void {
    this.values.set(kind, (this.values.get(kind) ?? new Map<string, unknown>()).set(id, structuredClone(value)));
  }
  get(kind: string, id: string): unknown {
    return this.values.get(kind)?.get(id);
  }
  list(kind: string): { id: string; value: unknown }[] {
    return [...(this.values.get(kind) ?? [])].map(([id, value]) => ({ id, value })).sort((one, other) => one.id.localeCompare(other.id));
  }
  delete(kind: string, id: string): void {
    this.values.get(kind)?.delete(id);
  }
  transaction<T>(body: () => T): T {
    return body();
  }
}

const options: BridgeOptions = { name: 'berth0', subnet: '10.88.0.0/16', tableName: 'berth', markerDir: '/run/berth/network' };
/** A host port for a pod. */
export const web: PortMapping = { protocol: 'tcp', containerPort: 80, hostPort: 8080 };

/** One world: records that outlive an owner, links, and a log of every plan's lines. */
export function makeWorld(overrides: Partial<BridgeOptions> = {}) {
  const records = new MemoryRecords();
  const links = new Set<string>();
  const log: string[] = [];
  const world = {
    records,
    links,
    log,
    nowMs: 1_000_000,
    ipForward: '0\n',
    busyPorts: new Set<number>(),
    /** Lets the first plan line that contains the text fail. */
    // SAFETY: widens the type of an empty place; a test sets it.
    failAt: undefined as { text: string; errno: string; times: number } | undefined,
    run: (plan: Plan): Promise<void> => {
      // Through the wire form, so that what cannot be encoded fails here.
      for (const section of decodePlan(encodePlan(plan)).sections) {
        for (const step of section.steps) {
          const lines =
            step.kind === 'netlink'
              ? describeNetlink(step.protocol, step.messages)
              : explainPlan({ sections: [{ actor: 'host', steps: [step] }] })
                  .slice(1)
                  .map((line) => line.replace(/^ *\d+\. |  \[.*\]$/g, ''));
          for (const line of lines) {
            const { failAt } = world;
            if (failAt !== undefined && failAt.times > 0 && line.includes(failAt.text)) {
              failAt.times -= 1;
              return Promise.reject(new RuntimeError('unknown', `${line}: ${failAt.errno}`, { errno: failAt.errno }));
            }
            log.push(line);
            const created = /^create (?:bridge|veth) (\S+?)(?: |,)/.exec(line)?.[1];
            if (created !== undefined) links.add(created);
            if (line.startsWith('delete link')) links.delete('berth0');
            const forward = /^write "(\d)" to .*ip_forward$/.exec(line)?.[1];
            if (forward !== undefined) world.ipForward = `${forward}\n`;
          }
        }
      }
      return Promise.resolve();
    },
    open: (): BridgeNetwork =>
      new BridgeNetwork({
        records,
        clock,
        runOnHost: world.run,
        options: { ...options, ...overrides },
        readHost: { readIpForward: () => world.ipForward, hasLink: (name) => links.has(name), isPortFree: ({ hostPort }) => Promise.resolve(!world.busyPorts.has(hostPort)) },
      }),
    /** The lines since the last call. */
    take: (): string[] => log.splice(0),
  };
  const clock: Clock = {
    nowNs: () => BigInt(world.nowMs) * 1_000_000n,
    monotonicMs: () => world.nowMs,
    sleep: (durationMs) => {
      world.nowMs += durationMs;
      return Promise.resolve();
    },
    randomBytes: (byteCount) => new Uint8Array(byteCount),
  };
  return world;
}

/** What `makeWorld` makes. */
export type World = ReturnType<typeof makeWorld>;
/** Attaches a pod whose namespace is in slot 3. */
export const attach = (world: World, network: BridgeNetwork, podId: string, ...portMappings: PortMapping[]) => network.attach({ podId, netnsSlot: 3, portMappings }, world.run);
/** Expects a RuntimeError of exactly this code and message. */
export const fails = async (promise: Promise<unknown>, code: string, message: string): Promise<void> => {
  await assert.rejects(promise, (error: unknown) => (error instanceof RuntimeError && error.code === code && error.message === message) || assert.fail(String(error)));
};
