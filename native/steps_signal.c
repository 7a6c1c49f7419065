/*
 * A signal for one process that is nobody's child here. In: a decoded step. Out: the signal, or ESRCH: a number that another process has got
 * meanwhile never gets one.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include "steps.h"

#define STAT_BYTES 1024

/* Field 22 of /proc/<pid>/stat (proc_pid_stat(5)), counted from the last parenthesis: the name may hold spaces and parentheses. 0 where there is none. */
static uint64_t start_time_of(uint32_t pid) {
  char path[32], text[STAT_BYTES];
  snprintf(path, sizeof path, "/proc/%u/stat", pid);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  ssize_t size = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
  close_with(fd, 0);
  if (size <= 0) return 0;
  text[size] = 0;
  char *at = strrchr(text, ')');
  for (int field = 2; at != NULL && field < 22; field++) {
    at = strchr(at + 1, ' ');
  }
  return at == NULL ? 0 : strtoull(at + 1, NULL, 10);
}

/* SAFETY: the descriptor is opened before the time is compared, so it stands for the very process that was compared, whatever happens to its number. */
int run_signal_process(struct run *run UNUSED, const struct step_signal_process *step, struct failure *failure UNUSED) {
  int process = (int)syscall(SYS_pidfd_open, (pid_t)step->pid, 0);
  if (process < 0) return errno;
  int err = start_time_of(step->pid) == step->start_time ? result(syscall(SYS_pidfd_send_signal, process, (int)step->signal, NULL, 0)) : ESRCH;
  return close_with(process, err);
}
