/**
 * When a container that ended is started again. Pure.
 * Source: Kubernetes, "Pod Lifecycle", container restarts: at once after the first crash, then after 10 s, 20 s, … at most 300 s;
 * ten minutes without a crash start the count again.
 */
import type { RestartPolicy } from './manifest-types.ts';
import type { ContainerRole } from './plan-types.ts';

const firstDelayMs = 10_000;
const delayMaxMs = 300_000;
const resetAfterMs = 600_000;

/** True where a container of this role starts again after this exit code. */
export function shouldRestart(role: ContainerRole, policy: RestartPolicy, exitCode: number): boolean {
  switch (role) {
    case 'sidecar':
      return true;
    // An init container that succeeded is done under every policy.
    case 'init':
      return exitCode !== 0 && policy !== 'Never';
    case 'main':
      return policy === 'Always' || (policy === 'OnFailure' && exitCode !== 0);
  }
}

/** The back-off of one container. */
export class RestartBackoff {
  #delayMs = 0;

  /** Milliseconds to wait before the next start, after a run of `ranMs`. */
  next(ranMs: number): number {
    const delayMs = ranMs >= resetAfterMs ? 0 : this.#delayMs;
    this.#delayMs = delayMs === 0 ? firstDelayMs : Math.min(delayMs * 2, delayMaxMs);
    return delayMs;
  }
}
