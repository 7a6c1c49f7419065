/** A check of failures for `assert.rejects`: code and message, printable on one line, never any error. */
import assert from 'node:assert/strict';
import { RuntimeError } from '#core';

/** True for a RuntimeError of this code whose message matches; else the assertion that says how it differs. */
export const failsWith =
  (code: string, message: RegExp) =>
  (error: unknown): boolean => {
    assert.ok(error instanceof RuntimeError, String(error));
    assert.equal(error.code, code, error.message);
    assert.match(error.message, message);
    // Nothing of a stranger's that would steer a terminal or begin a new line of a log.
    assert.doesNotMatch(error.message, /\p{Cc}/u);
    return true;
  };
