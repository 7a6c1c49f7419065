/** What the suite of the front gives it to execute and to read. In: scripts, directories. Out: plans, and the state directory's file as docs/native.md has it. */
import { chmodSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { MadeProcess } from '#ociruntime';
import { ByteWriter, type Plan, type Step, encodePlan, noSlot } from '#plan';

const listenerSlot = 80;

/** What a container's process does up to its start, and then. */
export function planWaiting(directory: string, script: string, file = '/bin/busybox', more: readonly Step[] = []): Plan {
  return {
    sections: [
      { actor: 'host', steps: [{ kind: 'listen', path: `${directory}/start.sock`, out: listenerSlot }] },
      {
        actor: 'payload',
        steps: [
          { kind: 'newSession', controllingTerminal: 0 },
          ...more,
          { kind: 'awaitStart', slot: listenerSlot },
          { kind: 'execute', file, argv: ['sh', '-c', script], env: ['PATH=/bin:/usr/bin'] },
        ],
      },
    ],
  };
}

/** A process that executes a script at once. */
export function planPlain(script: string, more: readonly Step[] = []): Plan {
  return { sections: [{ actor: 'payload', steps: [...more, { kind: 'execute', file: '/bin/busybox', argv: ['sh', '-c', script], env: ['PATH=/bin:/usr/bin'] }] }] };
}

/** The file by which a front does without asking; its deletion removes the directory. `mode` is the file's. */
export function writeFrontFile(directory: string, made: MadeProcess, change: { readonly flags?: number; readonly mode?: number } = {}): void {
  const removal: Plan = { sections: [{ actor: 'host', steps: [{ kind: 'removeTree', dir: noSlot, path: directory }] }] };
  const file = new ByteWriter()
    .u32(0x46545242)
    .u32(1)
    .u32(made.pid)
    .u64(made.startTime)
    .u32(change.flags ?? 0);
  file.text('').text('{"status":"').text('","pid":').text('}').bytes(new Uint8Array()).bytes(new Uint8Array()).bytes(new Uint8Array()).bytes(encodePlan(removal));
  writeFileSync(join(directory, 'front'), file.take());
  chmodSync(join(directory, 'front'), change.mode ?? 0o600);
}

/** Whether a process exists and is no zombie; it may go at any moment. */
export function isAlive(pid: number): boolean {
  try {
    return !/\) [ZX] /.test(readFileSync(`/proc/${pid}/stat`, 'utf8'));
  } catch {
    return false;
  }
}
