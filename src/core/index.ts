/** The ground that every folder stands on: errors, ids, bounds, locks, rollback, queues, the clock. No I/O. */
export * from './clock.ts';
export * from './errors.ts';
export * from './ids.ts';
export * from './limits.ts';
export * from './mutex.ts';
export * from './queue.ts';
export * from './rollback.ts';
export * from './json.ts';
export * from './records.ts';
