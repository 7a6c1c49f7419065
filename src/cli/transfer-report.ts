/**
 * Progress of long operations on images. In: the engine's reports. Out: on a terminal a live line for the whole and one for each layer in
 * work; elsewhere a line when the whole enters a stage and when a layer is done. No I/O of its own.
 */
import type { ImageProgress } from '#pod';
import { formatBytes, printable, shortId } from './human.ts';
import { type Progress, formatBar } from './progress.ts';

const stageWidth = 11;
const wholeKey = 'whole';
const titleWidthMin = 16;

/** Other words for stages, where they fit an operation better. */
export type StageWords = Readonly<Partial<Record<ImageProgress['stage'], string>>>;

/** `downloading [####----] 12% 3.1 MiB/26 MiB`. */
export function describeProgress({ stage, bytesDone, bytesTotal }: ImageProgress, words: StageWords = {}): string {
  const word = words[stage] ?? stage;
  if (bytesTotal <= 0) return word;
  return `${word.padEnd(stageWidth)} ${formatBar(bytesDone, bytesTotal)} ${formatBytes(bytesDone)}/${formatBytes(bytesTotal)}`;
}

/** A blob that is sent, or was there, has nothing more to come. */
function isDone({ stage, bytesDone, bytesTotal }: ImageProgress): boolean {
  return stage === 'done' || (stage === 'uploading' && bytesDone >= bytesTotal);
}

/** The end of a name says more than its beginning, and how far the work is must stay on the screen. */
function shorten(text: string, width: number): string {
  const kept = Math.max(titleWidthMin, width);
  return text.length <= kept ? text : `…${text.slice(1 - kept)}`;
}

/** Key of a live line: one per layer below that of the whole. Layers that are done disappear. */
export function showProgress(target: Progress, key: string, name: string, progress: ImageProgress, words: StageWords = {}): void {
  const layerKey = progress.layer === undefined ? key : `${key}/${progress.layer}`;
  if (progress.layer !== undefined && isDone(progress)) target.clear(layerKey);
  else {
    const state = describeProgress(progress, words);
    const title = progress.layer === undefined ? shorten(printable(name), target.width - state.length - 2) : `  ${shortId(progress.layer)}`;
    target.update(layerKey, `${title}  ${state}`);
  }
}

/** One operation's reports. Made by `CliContext.transfer`. */
export class TransferReport {
  readonly #target: Progress;
  readonly #isLive: boolean;
  readonly #title: string;
  readonly #words: StageWords;
  /** Last stage of the whole that had a line, and layers that had theirs. */
  #stage = '';
  readonly #layersDone = new Set<string>();

  /** `title` names the operation, such as `pull docker.io/library/busybox:latest`. */
  constructor(target: Progress, options: { readonly isLive: boolean; readonly title: string; readonly words?: StageWords }) {
    this.#target = target;
    this.#isLive = options.isLive;
    this.#title = printable(options.title);
    this.#words = options.words ?? {};
  }

  readonly show = (progress: ImageProgress): void => {
    if (this.#isLive) showProgress(this.#target, wholeKey, this.#title, progress, this.#words);
    else if (progress.layer === undefined) this.#showStage(progress);
    else if (isDone(progress) && !this.#layersDone.has(progress.layer)) {
      this.#layersDone.add(progress.layer);
      this.#target.line(`  ${shortId(progress.layer)}  done  ${formatBytes(progress.bytesTotal)}`);
    }
  };

  #showStage({ stage, bytesTotal }: ImageProgress): void {
    if (stage === this.#stage) return;
    this.#stage = stage;
    if (stage !== 'done') this.#target.line(`${this.#title}: ${this.#words[stage] ?? stage}${bytesTotal > 0 ? ` ${formatBytes(bytesTotal)}` : ''}`);
  }
}
