/**
 * Preloaded into every test process: descriptors that are open at its end and were not at its start are told to the suite.
 * In: BERTH_TEST_DESCRIPTORS, the file to append to. Out: one JSON line when something stayed open.
 */
import { appendFileSync, readdirSync, readlinkSync } from 'node:fs';
import { isMainThread } from 'node:worker_threads';

const report = process.env['BERTH_TEST_DESCRIPTORS'];

/** The event loop's own; it opens them when it first needs them. */
const ownedByTheLoop = /^anon_inode:\[(eventpoll|eventfd|timerfd|io_uring)\]$|^\/dev\/(null|urandom|pts\/|tty)|^\/proc\/\d+\/fd$/;

function listDescriptors(): Map<string, string> {
  const open = new Map<string, string>();
  for (const fd of readdirSync('/proc/self/fd')) {
    try {
      open.set(fd, readlinkSync(`/proc/self/fd/${fd}`));
    } catch {
      // the descriptor that listed the directory
    }
  }
  return open;
}

if (report !== undefined && isMainThread) {
  delete process.env['BERTH_TEST_DESCRIPTORS'];
  // The first signal handler makes the loop open a pipe that stays.
  const handler = (): void => {};
  process.on('SIGUSR2', handler).off('SIGUSR2', handler);
  void process.stdout;
  void process.stderr;
  const before = new Set(listDescriptors().values());
  process.on('exit', () => {
    const left = [...listDescriptors().values()].filter((target) => !before.has(target) && !ownedByTheLoop.test(target));
    if (left.length > 0) appendFileSync(report, `${JSON.stringify(left)}\n`);
  });
}
