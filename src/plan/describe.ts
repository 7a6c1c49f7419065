/** Plans in words: one sentence per step, and the error that a failed step becomes. Pure. */
import { type ErrorCode, RuntimeError, codeOfErrno } from '#core';
import { type Plan, type Section, type Step, type Wording, vocabulary } from './vocabulary.ts';
import { errnoNameOf } from './errno.ts';

/** The sentence of a step, without final stop. */
export function describeStep(step: Step, wording: Wording = { showSecrets: false }): string {
  // SAFETY: the row of a step's own kind takes that step; TypeScript cannot correlate the two unions.
  return (vocabulary[step.kind].says as (step: Step, wording: Wording) => string)(step, wording);
}

const actorTitles = { host: 'on the host', podNamespaces: "in the pod's namespaces", containerSetup: 'setting up the container', payload: "as the container's process" } as const;

/** Heading of a section, such as `setting up the container (new namespaces …)`. */
export function describeSection(section: Section): string {
  if (section.barrier !== undefined && section.actor === 'podNamespaces') return `on the host, beside the waiting child, at barrier ${section.barrier}`;
  const barrier = section.barrier === undefined ? '' : `, at barrier ${section.barrier}`;
  return `${actorTitles[section.actor]}${barrier}`;
}

/** The whole plan as lines: a heading per section and a numbered sentence per step with its origin. */
export function explainPlan(plan: Plan, wording: Wording = { showSecrets: false }): string[] {
  return plan.sections.flatMap((section) => [
    describeSection(section),
    ...section.steps.map((step, index) => `  ${String(index + 1).padStart(3)}. ${describeStep(step, wording)}${step.origin === undefined ? '' : `  [${step.origin}]`}`),
  ]);
}

/** What the interpreter reports of a failed step. `step` is 4294967295 where the child itself could not be made. */
export interface StepFailure {
  readonly section: number;
  readonly step: number;
  /** Positive errno. */
  readonly errno: number;
  /** The kernel's own words, at most 1 KiB. */
  readonly detail: string;
}

/** The failure as an error: `origin: sentence: ERRNO (detail)`. The code follows the errno; an unusual one gives `unknown`. */
export function stepError(plan: Plan, failure: StepFailure): RuntimeError {
  const step = plan.sections[failure.section]?.steps[failure.step];
  const errno = errnoNameOf(failure.errno);
  const detail = failure.detail === '' ? '' : ` (${failure.detail.replaceAll(/\s*\n\s*/g, '; ').trim()})`;
  const what = step === undefined ? 'create the process' : describeStep(step, { showSecrets: false, brief: true });
  const origin = step?.origin === undefined ? '' : `${step.origin}: `;
  // How a hook ended is no errno.
  if (step?.kind === 'runHook' && failure.detail !== '') {
    const end = failure.detail
      .replaceAll(/\s*\n\s*/g, '; ')
      .replaceAll(/[\p{Cc}\p{Cf}]/gu, '?')
      .trim();
    return new RuntimeError(errno === 'ETIMEDOUT' ? 'deadlineExceeded' : 'failedPrecondition', `${origin}${what}: ${end}`, { errno });
  }
  const code: ErrorCode = codeOfErrno(errno) ?? 'unknown';
  return new RuntimeError(code, `${origin}${what}: ${errno}${detail}`, { errno });
}
