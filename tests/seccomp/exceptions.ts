/**
 * Calls of the corpus that runc with libseccomp 2.5.4 answers otherwise than the profile reads, and otherwise than the compiler here. In: nothing. Out: their names by profile and by
 * reason. The list is exact both ways: a call that differs and is not here fails the test, and so does one that is here and no longer differs.
 *
 * Every one of them is on calls for which several rules compare arguments. None is in a profile of docker, podman or Berth.
 */

/**
 * - `wrongWord`: libseccomp leaves out the load of an argument where the comparison before it in the rules' order has loaded the same one, but checks only one of the ways that lead there.
 *   Whoever comes from within a longer rule, with another argument loaded, is compared by that. Seen in its program: the comparison is reached with different words loaded. With the
 *   left-out loads put back into libseccomp (2.5.4 and 2.6.1 leave them out) every one of these differences is gone. The 32-bit conventions have most, because their comparisons of one
 *   argument stand side by side, not below comparisons of upper halves.
 * - `mergedBounds`: two rules have bounds, or "not equal", on one argument with the same upper half, and one of them goes on with other arguments. libseccomp keeps one comparison of the upper half
 *   for both and hangs what follows on it: then a rule goes on where only the other's bound holds, or is dropped because the other one is shorter.
 *   Where two rules with different actions both hold, it also changes which comes first, of which no specification says anything: beyond the common upper half the one on the later argument, not
 *   the nearer bound.
 */
export type Reason = 'wrongWord' | 'mergedBounds';

/** Profile → reason → calls, each with its convention. */
export const exceptions: Readonly<Record<string, Readonly<Partial<Record<Reason, readonly string[]>>>>> = {
  'several rules 1': { mergedBounds: ['x86_64 getsockopt'] },
  'several rules 3': { wrongWord: ['i386 acct', 'i386 mq_getsetattr'] },
  'several rules 4': { wrongWord: ['x86_64 inotify_init', 'x32 inotify_init', 'x32 signalfd', 'x32 recvmmsg'] },
  'several refusals 6': { wrongWord: ['i386 acct'] },
  'several actions 11': {
    wrongWord: [
      'x86_64 shmctl',
      'x32 shmctl',
      'x32 msgctl',
      'x32 reboot',
      'x32 mq_timedreceive',
      'x32 sync_file_range',
      'i386 reboot',
      'i386 mq_timedreceive',
      'i386 sync_file_range',
      'i386 shmctl',
      'i386 msgctl',
    ],
  },
  'several actions 13': { wrongWord: ['i386 mq_open', 'i386 shmctl'] },
  'any bounds 1': {
    wrongWord: ['x86_64 sysfs', 'x86_64 pivot_root', 'x86_64 getxattr', 'x32 ustat', 'i386 ustat'],
    mergedBounds: ['x86_64 getsockopt', 'x86_64 removexattr'],
  },
  'any bounds 4': {
    wrongWord: ['x86_64 getpeername', 'x86_64 msgctl', 'x86_64 mq_open', 'x86_64 sync_file_range', 'x32 llistxattr', 'x32 inotify_init', 'x32 signalfd', 'x32 recvmmsg'],
  },
  'any bounds, several actions 4': {
    wrongWord: [
      'x86_64 shmat',
      'x86_64 getpeername',
      'x86_64 msgctl',
      'x86_64 mq_open',
      'x86_64 sync_file_range',
      'x32 llistxattr',
      'x32 inotify_init',
      'x32 signalfd',
      'x32 recvmmsg',
    ],
  },
  'any bounds, several actions 8': { wrongWord: ['x86_64 getsockname', 'x86_64 llistxattr', 'x86_64 mq_unlink', 'i386 getsockname'], mergedBounds: ['x86_64 msgget'] },
};
