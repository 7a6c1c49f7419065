/**
 * The secrets in streaming URLs. In: what a URL shall stand for. Out: a token of 128 random bits, and once, to whoever brings it back in
 * time for the same kind of request, what it stands for. Pure but for the clock. Source of the rules: hostile clients that guess or repeat URLs.
 */
import { type Clock, RuntimeError, limits } from '#core';
import type { StreamTarget } from './types.ts';

const tokenBytes = 16;
/** Twenty-two characters of base64url. */
const tokenPattern = /^[A-Za-z0-9_-]{22}$/;

/** Tokens that are not used yet. */
export class StreamTokens {
  readonly #clock: Clock;
  readonly #targets = new Map<string, { readonly target: StreamTarget; readonly expiresAtMs: number }>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Throws resourceExhausted while `limits.streamTokensMax` wait to be used. */
  issue(target: StreamTarget): string {
    const now = this.#clock.monotonicMs();
    // In the order of issuing, which is that of expiring.
    for (const [token, { expiresAtMs }] of this.#targets) {
      if (expiresAtMs > now) break;
      this.#targets.delete(token);
    }
    if (this.#targets.size >= limits.streamTokensMax)
      throw new RuntimeError(
        'resourceExhausted',
        `make a streaming URL: ${limits.streamTokensMax} wait to be used; one that is not used is given up after ${limits.streamTokenAgeMsMax / 1000} s`,
      );
    const token = Buffer.from(this.#clock.randomBytes(tokenBytes)).toString('base64url');
    this.#targets.set(token, { target, expiresAtMs: now + limits.streamTokenAgeMsMax });
    return token;
  }

  /** What the token stands for; it is used up. undefined for one that is unknown, used, too old or of another kind: nobody learns which. */
  take(kind: StreamTarget['kind'], token: string): StreamTarget | undefined {
    if (!tokenPattern.test(token)) return undefined;
    const found = this.#targets.get(token);
    this.#targets.delete(token);
    return found !== undefined && found.target.kind === kind && found.expiresAtMs > this.#clock.monotonicMs() ? found.target : undefined;
  }

  clear(): void {
    this.#targets.clear();
  }
}
