/**
 * A new time namespace whose clocks are shifted. In: the document. Out: steps of the container's process. Pure. Source: time_namespaces(7).
 *
 * Offsets can be written until the first process is in the namespace, so it is made for children first, and entered once they are written. It belongs to
 * the user namespace of the runtime: nothing inside can tell.
 */
import { type SpecLinux, timeClocks } from '#oci';
import { type Step, clone, fileSystem, noSlot } from '#plan';

/** True where the document shifts a clock. */
export function hasTimeOffsets({ timeOffsets }: Pick<SpecLinux, 'timeOffsets'>): boolean {
  return timeOffsets !== undefined && Object.keys(timeOffsets).length > 0;
}

/** Makes the namespace and keeps it in the slot, to be entered with the others; nothing where no clock is shifted. Runs while the host's procfs is in reach. */
export function planTimeOffsets(linux: Pick<SpecLinux, 'timeOffsets'>, slot: number): readonly Step[] {
  if (!hasTimeOffsets(linux)) return [];
  const origin = '/linux/timeOffsets';
  const lines = timeClocks.flatMap((clock) => {
    const offset = linux.timeOffsets?.[clock];
    return offset === undefined ? [] : [`${clock} ${offset.secs} ${offset.nanosecs}\n`];
  });
  return [
    { kind: 'unshare', flags: clone.newTime, origin },
    { kind: 'writeFile', dir: noSlot, path: '/proc/self/timens_offsets', data: Buffer.from(lines.join('')), fileSystem: fileSystem.proc, origin },
    { kind: 'openNamespace', type: clone.newTime, out: slot, origin },
  ];
}
