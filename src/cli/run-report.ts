/** The events of a run as lines for people. In: RunEvent. Out: lines and live lines of a Progress. No I/O of its own. */
import { assertNever } from '#core';
import type { RunEvent, RunResult, RunStage } from '#podrun';
import { formatDuration, printable } from './human.ts';
import type { Progress } from './progress.ts';
import { showProgress } from './transfer-report.ts';

const stageWidth = 10;
const green = 32;
const red = 31;
const dim = 2;

type Colour = (code: number, text: string) => string;

/** Shows stages as they come. */
export class RunReport {
  readonly #target: Progress;
  readonly #colour: Colour;
  readonly #quiet: boolean;

  /** `quiet`: only what takes long, as live lines: an image that is pulled. */
  constructor(target: Progress, options: { readonly colour: Colour; readonly quiet: boolean }) {
    this.#target = target;
    this.#colour = options.colour;
    this.#quiet = options.quiet;
  }

  readonly show = (event: RunEvent): void => {
    switch (event.kind) {
      case 'stageStarted':
        if (!this.#quiet) this.#target.update(`${event.stage} ${event.name}`, `${event.stage.padEnd(stageWidth)}${event.name} …`);
        return;
      case 'imageProgress':
        showProgress(this.#target, `image ${event.name}`, event.name, event.progress);
        return;
      case 'stageDone':
        this.#target.clear(`${event.stage} ${event.name}`);
        this.#line(event.stage, event.name, [event.detail, event.durationMs === undefined ? '' : formatDuration(event.durationMs)]);
        return;
      case 'stageFailed':
        this.#target.clear(`${event.stage} ${event.name}`);
        this.#line(event.stage, event.name, [this.#colour(red, 'failed'), formatDuration(event.durationMs)]);
        return;
      case 'containerEnded': {
        const restart = event.restartInMs === undefined ? '' : event.restartInMs === 0 ? 'restarting' : `restarting in ${formatDuration(event.restartInMs)}`;
        this.#line('exit', event.name, [
          this.#colour(event.exitCode === 0 ? green : red, `code ${event.exitCode}`),
          printable(event.reason),
          `after ${formatDuration(event.ranMs)}`,
          restart,
        ]);
        return;
      }
      default:
        assertNever(event);
    }
  };

  #line(stage: RunStage | 'exit', name: string, details: readonly string[]): void {
    if (this.#quiet) return;
    const texts = details.filter((text) => text !== '');
    this.#target.line(`${this.#colour(dim, stage.padEnd(stageWidth))}${printable(name)}${texts.length === 0 ? '' : `  ${texts.join('  ')}`}`);
  }
}

/**
 * Exit status of a finished run: that of an init container that failed for good, else the first of a container that is not 0. Sidecars are
 * ended from outside and do not count. An interrupted run without a failure is 130, as shells have it for SIGINT.
 */
export function exitStatusOf(result: RunResult): number {
  const counted = result.containers.filter(({ role }) => role === 'main' || (role === 'init' && result.initFailed));
  return counted.find(({ exitCode }) => exitCode !== 0)?.exitCode ?? (result.interrupted ? 130 : 0);
}
