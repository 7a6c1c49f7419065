/** What an engine over in-memory ports is wired with. For tests only. */
import type { Clock } from '#core';
import type { EngineDependencies } from '../engine-state.ts';
import { FakeDriver, FakeNetwork, type Journal, MemoryRecords, fakeDefaults } from './doubles.ts';
import { FakeImages } from './image-doubles.ts';

/** Ports that write what they are asked into the journal; `parts` replace any of them. */
export function fakeDependencies(journal: Journal, clock: Clock, parts: Partial<EngineDependencies> = {}): EngineDependencies {
  return {
    records: new MemoryRecords(),
    clock,
    drivers: new Map([['native', new FakeDriver(journal, clock)]]),
    defaultHandler: 'native',
    images: new FakeImages(journal),
    network: new FakeNetwork(journal),
    containerUsage: async () => ({ atNs: 1n, mountpoint: '/containers', usedBytes: 2, inodesUsed: 3 }),
    layerUsage: async () => undefined,
    defaults: fakeDefaults,
    version: '0',
    readiness: () => ({ runtimeReady: true }),
    info: () => ({}),
    report: () => undefined,
    ...parts,
  };
}
