/**
 * Progress on a terminal: lines that stay, above a block of live lines that is redrawn in place. Elsewhere only the lines that stay.
 * In: texts. Out: text and cursor moves to a sink. It decides no wording.
 */
import type { Clock } from '#core';
import type { CliSink } from './dependencies.ts';
import { printable } from './human.ts';

const hideCursor = '\u001b[?25l';
const showCursor = '\u001b[?25h';
const eraseBelow = '\u001b[J';
const barWidth = 24;
/** Reports come hundreds of times a second; eyes, and lines to far terminals, take fewer. */
const drawIntervalMs = 50;

/** `[########----------------]  33%`. Without a total, how much is done cannot be drawn and the bar is empty. */
export function formatBar(done: number, total: number): string {
  const share = total > 0 ? Math.min(1, Math.max(0, done / total)) : 0;
  const filled = Math.round(share * barWidth);
  return `[${'#'.repeat(filled)}${'-'.repeat(barWidth - filled)}] ${String(Math.floor(share * 100)).padStart(3)}%`;
}

/** Writes lines and keeps live lines below them. All calls are in order; await `flush` before the sink is used by others. */
export class Progress {
  readonly #sink: CliSink;
  readonly #clock: Pick<Clock, 'monotonicMs' | 'sleep'> | undefined;
  #drawnAtMs = Number.NEGATIVE_INFINITY;
  /** A draw that waits for its time. */
  #waiting: AbortController | undefined;
  readonly #live = new Map<string, string>();
  /** Live lines that stand on the screen now. */
  #drawn = 0;
  #written: Promise<void> = Promise.resolve();

  /** Without a clock every change is drawn at once. */
  constructor(sink: CliSink, clock?: Pick<Clock, 'monotonicMs' | 'sleep'>) {
    this.#sink = sink;
    this.#clock = clock;
  }

  /** Characters that a live line may have now; a longer one is cut. */
  get width(): number {
    // A line wider than the screen would wrap and spoil the count of lines to go back.
    return Math.max(10, this.#sink.columns - 1);
  }

  /** Adds or changes a live line. Ignored where the sink is no terminal. */
  update(key: string, text: string): void {
    if (!this.#sink.isTTY || this.#live.get(key) === text) return;
    this.#live.set(key, text);
    this.#drawSoon();
  }

  /** Takes live lines away: that of the key, and those below it (`key/…`). */
  clear(key: string): void {
    const keys = [...this.#live.keys()].filter((candidate) => candidate === key || candidate.startsWith(`${key}/`));
    for (const candidate of keys) this.#live.delete(candidate);
    if (keys.length > 0) this.#draw('');
  }

  /** A line that stays, above the live ones. It may hold colours; control characters of others must be gone from it. */
  line(text: string): void {
    this.#draw(`${text}\n`);
  }

  /** Takes every live line away and gives the cursor back. */
  async finish(): Promise<void> {
    this.#live.clear();
    if (this.#drawn > 0 || this.#waiting !== undefined) this.#draw('');
    await this.flush();
  }

  /** Resolves once everything is written. */
  async flush(): Promise<void> {
    await this.#written;
  }

  #drawSoon(): void {
    if (this.#waiting !== undefined) return;
    const restMs = this.#clock === undefined ? 0 : this.#drawnAtMs + drawIntervalMs - this.#clock.monotonicMs();
    if (this.#clock === undefined || restMs <= 0) return this.#draw('');
    const waiting = new AbortController();
    this.#waiting = waiting;
    const draw = (): void => {
      if (this.#waiting === waiting) this.#draw('');
    };
    // An aborted wait is one whose lines were drawn by something else.
    this.#clock.sleep(restMs, waiting.signal).then(draw, () => undefined);
  }

  #draw(above: string): void {
    this.#waiting?.abort();
    this.#waiting = undefined;
    if (this.#clock !== undefined) this.#drawnAtMs = this.#clock.monotonicMs();
    const back = this.#drawn > 0 ? `\u001b[${this.#drawn}A\r${eraseBelow}` : '';
    // More lines than rows cannot be reached.
    const lines = [...this.#live.values()].slice(0, Math.max(1, this.#sink.rows - 2)).map((line) => printable(line).slice(0, this.width));
    const cursor = lines.length > 0 && this.#drawn === 0 ? hideCursor : lines.length === 0 && this.#drawn > 0 ? showCursor : '';
    this.#drawn = lines.length;
    const text = `${back}${above}${cursor}${lines.map((line) => `${line}\n`).join('')}`;
    // A terminal that has gone is no failure of the work that is shown, which may want an orderly end now.
    if (text !== '') this.#written = this.#written.then(async () => this.#sink.write(text)).catch(() => undefined);
  }
}

/** Wraps in a colour where colours are wanted. Source: ECMA-48 SGR; no-color.org. */
export function colourOf(sink: CliSink, env: Readonly<Record<string, string | undefined>>): (code: number, text: string) => string {
  const wanted = sink.isTTY && (env['NO_COLOR'] ?? '') === '' && env['TERM'] !== 'dumb';
  return (code, text) => (wanted ? `\u001b[${code}m${text}\u001b[0m` : text);
}
