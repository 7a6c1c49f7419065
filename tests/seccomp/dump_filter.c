/*
 * Test tool: `dump_filter OUT COMMAND…` runs a command with everything that it starts under ptrace, and writes the first filter of system
 * calls that any of it installs to OUT, as the kernel gives it back (an array of struct sock_filter). Ends when the command's processes have, with 0
 * where there was a filter. What is still there when it ends itself is killed.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define TASKS_MAX 4096
struct task { pid_t id; bool installs; };
static struct task tasks[TASKS_MAX];
static bool found;

static struct task *task_of(pid_t id) {
  for (int i = 0; i < TASKS_MAX; i++)
    if (tasks[i].id == id) return &tasks[i];
  for (int i = 0; i < TASKS_MAX; i++)
    if (tasks[i].id == 0) {
      tasks[i] = (struct task){.id = id};
      return &tasks[i];
    }
  exit(2);
}

/* The task has just come back from installing a filter: the youngest has index 0. */
static void take_filter(pid_t id, const char *out) {
  static struct sock_filter program[BPF_MAXINSNS];
  long count = ptrace(PTRACE_SECCOMP_GET_FILTER, id, 0, NULL);
  if (count <= 0 || count > BPF_MAXINSNS || ptrace(PTRACE_SECCOMP_GET_FILTER, id, 0, program) != count) {
    fprintf(stderr, "dump_filter: read the filter: %s\n", strerror(errno));
    exit(2);
  }
  int fd = open(out, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  ssize_t size = (ssize_t)(count * (long)sizeof *program);
  if (fd < 0 || write(fd, program, (size_t)size) != size) exit(2);
  close(fd);
  found = true;
}

static void at_syscall(pid_t id, const char *out) {
  struct __ptrace_syscall_info info;
  struct task *task = task_of(id);
  if (ptrace(PTRACE_GET_SYSCALL_INFO, id, sizeof info, &info) <= 0) return;
  if (info.op == PTRACE_SYSCALL_INFO_ENTRY)
    task->installs = (info.entry.nr == SYS_seccomp && info.entry.args[0] == SECCOMP_SET_MODE_FILTER && info.entry.args[2] != 0) ||
                     (info.entry.nr == SYS_prctl && info.entry.args[0] == PR_SET_SECCOMP && info.entry.args[2] != 0);
  else if (info.op == PTRACE_SYSCALL_INFO_EXIT && task->installs && !info.exit.is_error) take_filter(id, out);
}

int main(int argc, char **argv) {
  if (argc < 3) return 64;
  pid_t child = fork();
  if (child == 0) {
    ptrace(PTRACE_TRACEME, 0, NULL, NULL);
    raise(SIGSTOP);
    execvp(argv[2], argv + 2);
    _exit(127);
  }
  int status;
  if (waitpid(child, &status, 0) != child || !WIFSTOPPED(status)) return 2;
  long options = PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACECLONE | PTRACE_O_EXITKILL;
  if (ptrace(PTRACE_SETOPTIONS, child, NULL, options) < 0) return 2;
  task_of(child);
  ptrace(PTRACE_SYSCALL, child, NULL, NULL);
  for (;;) {
    pid_t id = waitpid(-1, &status, __WALL);
    if (id < 0) break;
    if (!WIFSTOPPED(status)) {
      task_of(id)->id = 0;
      continue;
    }
    int signal = WSTOPSIG(status);
    bool known = false;
    for (int i = 0; i < TASKS_MAX; i++) known |= tasks[i].id == id;
    if (signal == (SIGTRAP | 0x80)) {
      if (!found) at_syscall(id, argv[1]);
      signal = 0;
    } else if (status >> 16 != 0 || signal == SIGTRAP || (!known && signal == SIGSTOP)) {
      signal = 0;
    }
    task_of(id);
    ptrace(found ? PTRACE_CONT : PTRACE_SYSCALL, id, NULL, signal);
  }
  return found ? 0 : 1;
}
