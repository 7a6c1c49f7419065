/** "Stop and Remove succeed on absence", without hiding other failures. Pure control flow. */
import { errorCode } from '#core';

/**
 * Runs `action`; a notFound from it is a success only where `exists` then says notFound too. A file that is missing inside a stop
 * would carry the same code, and must not read as "nothing to stop".
 */
export async function succeedWhenAbsent(exists: () => Promise<unknown>, action: () => Promise<void>): Promise<void> {
  try {
    await action();
  } catch (error) {
    if (errorCode(error) !== 'notFound' || !(await isAbsent(exists))) throw error;
  }
}

async function isAbsent(exists: () => Promise<unknown>): Promise<boolean> {
  try {
    return (await exists()) === undefined;
  } catch (error) {
    return errorCode(error) === 'notFound';
  }
}
