/**
 * Where the daemon's log goes: a descriptor whose reader may be slow, full or gone. In: lines. Out: the same lines in batches, in order,
 * one write at a time. The daemon never waits for it while it runs. Overflow policy: what does not fit is dropped and counted.
 */
import { write, writeSync } from 'node:fs';
import { setTimeout } from 'node:timers/promises';
import { errnoName, limits } from '#core';
import type { LogSink } from './log.ts';

/** A reader that takes nothing is tried again this often. */
const retryPauseMs = 100;
const flushPauseMs = 5;
const batchBytesMax = 64 * 1024;

/** Writes to `fd`. `describeLoss` makes the line that stands where lines are missing. */
export function openLogSink(fd: number, describeLoss: (droppedLines: number) => string): LogSink {
  let waiting: string[] = [];
  let waitingLength = 0;
  let droppedLines = 0;
  /** Handed to the kernel; what it has not taken yet. */
  let batch: Buffer = Buffer.alloc(0);
  let batchLines = 0;
  let isWriting = false;

  const refill = (): void => {
    if (waiting.length === 0 && droppedLines > 0) {
      waiting.push(describeLoss(droppedLines));
      droppedLines = 0;
    }
    const taken: string[] = [];
    let length = 0;
    while (waiting.length > 0 && (length === 0 || length < batchBytesMax)) {
      const line = waiting.shift() ?? '';
      taken.push(line);
      length += line.length;
    }
    waitingLength = Math.max(0, waitingLength - length);
    batchLines = taken.length;
    batch = Buffer.from(taken.join(''));
  };

  const next = (): void => {
    if (batch.length === 0) refill();
    isWriting = batch.length > 0;
    if (!isWriting) return;
    write(fd, batch, (error, bytes) => {
      batch = batch.subarray(bytes);
      if (error === null) next();
      else if (errnoName(error) === 'EAGAIN') void setTimeout(retryPauseMs, undefined, { ref: false }).then(next);
      else {
        // The reader has gone, or its disk is full: what was to be written is lost, and the daemon's work goes on.
        batch = Buffer.alloc(0);
        droppedLines += batchLines;
        isWriting = false;
      }
    });
  };

  return {
    write: (line) => {
      if (waitingLength + line.length > limits.logWaitingCharactersMax) {
        droppedLines += 1;
        return;
      }
      waiting.push(line);
      waitingLength += line.length;
      if (!isWriting) next();
    },
    flush: async () => {
      const deadlineMs = performance.now() + limits.drainTimeoutMs;
      while ((isWriting || waiting.length > 0) && performance.now() < deadlineMs) {
        // After a failed write nothing is under way: what still waits is tried, and lost where the reader has gone.
        if (!isWriting) next();
        await setTimeout(flushPauseMs);
      }
    },
    flushAtExit: () => {
      // The rest of a batch that is under way is the kernel's already.
      const rest = Buffer.from(waiting.join(''));
      waiting = [];
      waitingLength = 0;
      try {
        for (let start = 0; start < rest.length;) start += writeSync(fd, rest, start);
      } catch {
        // Nobody is left to be told.
      }
    },
  };
}
