/**
 * Reads what the validation programs print. In: text in the Test Anything Protocol, version 13, as runtime-tools writes it. Out: one verdict for each line,
 * with a name that is the same in every run and for every runtime, and one verdict on the program as a whole. Pure.
 */

/** Verdict on one line of a program. */
export interface Line {
  /** The description without what differs between runs; a repeated one has its number, `… (2)`. */
  readonly name: string;
  readonly ok: boolean;
  /** What the program said about it; for people. */
  readonly detail: string;
}

/** How a program ended. */
export interface ProgramEnd {
  readonly stdout: string;
  readonly stderr: string;
  /** `exit status N`, `killed by SIGNAL`, `not finished after N s`; empty: exit status 0. */
  readonly failure: string;
}

/** Name of the verdict on the program as a whole. */
export const wholeProgram = 'the program ends without an error';

/** What runs differ in: identifiers, directories that a program makes, inode numbers, process ids. */
function normalize(text: string): string {
  return text
    .trim()
    .replaceAll(/[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}/g, 'ID')
    .replaceAll(/\S*\/(ocitest|oci-pid)\d+/g, 'BUNDLE')
    .replaceAll(/:\[\d+\]/g, ':[INODE]')
    .replaceAll(/\/proc\/\d+\//g, '/proc/PID/');
}

/**
 * Verdicts on every line and, last, on the program. A program may print several documents. Seven programs print an empty plan, and an error in a block that
 * belongs to no line: that error, a line that a plan promises and that is missing, and a failing exit status fail the program.
 */
export function readVerdicts({ stdout, stderr, failure }: ProgramEnd): readonly Line[] {
  const lines: { name: string; ok: boolean; detail: string }[] = [];
  const problems: string[] = failure === '' ? [] : [failure];
  const seen = new Map<string, number>();
  let ofPlan = 0;
  let owner: { name: string; ok: boolean; detail: string } | undefined;
  let block: string[] | undefined;
  let plans = 0;
  for (const text of stdout.split('\n')) {
    if (block !== undefined) {
      if (text.trim() !== '...') {
        block.push(text.replace(/^ {2}/, ''));
        continue;
      }
      const content = block.join('\n');
      if (owner !== undefined) owner.detail += content;
      else if (/^\s*"error":/m.test(content)) problems.push(content);
      [block, owner] = [undefined, undefined];
    } else if (text === '  ---') {
      block = [];
    } else if (/^(not )?ok\b/.test(text)) {
      const [, not = '', description = ''] = /^(not )?ok(?: \d+)?(?: - ?)?(.*)$/.exec(text) ?? [];
      const base = normalize(description.replace(/ # SKIP.*/i, '')) || 'without a description';
      const times = (seen.get(base) ?? 0) + 1;
      seen.set(base, times);
      owner = { name: times === 1 ? base : `${base} (${times})`, ok: not === '', detail: '' };
      lines.push(owner);
      ofPlan += 1;
    } else {
      const plan = /^1\.\.(\d+)/.exec(text);
      if (plan !== null) {
        plans += 1;
        if (Number(plan[1]) !== ofPlan) problems.push(`the plan has ${plan[1]} lines, and ${ofPlan} were printed`);
        ofPlan = 0;
        owner = undefined;
      } else if (text.startsWith('#') && owner !== undefined) {
        owner.detail += `${text}\n`;
      }
    }
  }
  if (plans === 0 && lines.length > 0) problems.push('there is no plan');
  const words = problems.length === 0 ? '' : stderr.trim();
  lines.push({ name: wholeProgram, ok: problems.length === 0, detail: [...problems, words].filter((text) => text !== '').join('\n') });
  return lines;
}
