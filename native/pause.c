/*
 * The pause role: init of a shared PID namespace. In: nothing. Out: nothing but reaped children. Containers can see this
 * process, so it has no descriptor, no capability, an empty root (its plan pivots first) and cannot be traced.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include "steps.h"

_Noreturn void pause_main(void) {
  sigset_t child;
  prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
  prctl(PR_SET_NAME, "berth-pause", 0, 0, 0);
  sys_close_range(0, ~0u, 0);
  /* SAFETY: the plan's step has emptied these before execve; a pause started any other way is no stronger. */
  limit_bounding(0);
  sys_capset(0, 0, 0);
  prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  sigemptyset(&child);
  sigaddset(&child, SIGCHLD);
  /* Blocked before the first look at the children, so that no exit falls between looking and waiting. */
  sigprocmask(SIG_BLOCK, &child, NULL);
  for (;;) {
    while (waitpid(-1, NULL, WNOHANG) > 0) continue;
    sigwaitinfo(&child, NULL);
  }
}
