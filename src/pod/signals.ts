/** Signal names and numbers of Linux. Pure. */
import { constants } from 'node:os';
import { RuntimeError } from '#core';

const numbers: ReadonlyMap<string, number> = new Map(Object.entries(constants.signals));

/**
 * Number of a signal given as `SIGTERM`, `TERM`, `15`, `SIGRTMIN+3` or `RTMAX-1`. Throws invalidArgument for anything else.
 * Source: image-spec StopSignal, which allows names and numbers.
 */
export function decodeSignal(text: string): number {
  const upper = text.toUpperCase();
  const known = numbers.get(upper) ?? numbers.get(`SIG${upper}`);
  if (known !== undefined) return known;
  if (/^\d{1,2}$/.test(text) && Number(text) >= 1 && Number(text) <= 64) return Number(text);
  const realTime = /^(?:SIG)?RT(MIN|MAX)(?:([+-])(\d{1,2}))?$/.exec(upper);
  if (realTime !== null) {
    const number = (realTime[1] === 'MIN' ? 34 : 64) + (realTime[2] === '-' ? -1 : 1) * Number(realTime[3] ?? 0);
    if (number >= 34 && number <= 64) return number;
  }
  throw new RuntimeError('invalidArgument', `signal ${JSON.stringify(text)}: unknown`);
}
