/** What wait(2) reports of a process. Pure. */

/** Exit code as shells show it: the process's own, or 128 and the signal that ended it. */
export function exitCodeOf(waitStatus: number): number {
  const signal = waitStatus & 0x7f;
  return signal === 0 ? (waitStatus >> 8) & 0xff : 128 + signal;
}
