/*
 * Hooks: programs that a container's document names. In: the program, its state document, a bound of time. Out: its end, and in
 * the failure the last of what it said. It runs in a child that may wait (never in the shim's loop), with the credentials and
 * namespaces of that child, so where a hook stands in a plan says what it may do.
 */
#define _GNU_SOURCE
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include "frame.h"
#include "steps.h"

#define OUTPUT_TAIL 700u     /* of what a failing hook said; the detail holds 1 KiB */
#define KILLED_WAIT_MS 5000u /* beyond: it hangs in the kernel, or its user is another one now */
#define POLL_MS 20
#define CHUNKS_MAX 64 /* read in one go: the deadline is looked at in between */

struct hook {
  pid_t pid;
  int process, output, report; /* pidfd; what it writes; the errno of its execve */
  char tail[OUTPUT_TAIL];
  size_t kept;
  bool cut;
};

int number_of_process(const struct run *run, uint16_t slot, int *pid) {
  char path[32], target[64];
  snprintf(path, sizeof path, "/proc/self/fd/%d", slot_fd(run, slot));
  ssize_t size = slot_fd(run, slot) < 0 ? -1 : readlink(path, target, sizeof target - 1);
  if (size < 0) return EBADF;
  target[size] = 0;
  return sscanf(target, "/proc/%d", pid) == 1 && *pid > 0 ? 0 : EINVAL;
}

/* A file that holds the state document, with the process's number where it belongs. */
static int open_state(const struct run *run, const struct step_run_hook *step, int *out) {
  char number[16] = "";
  if (step->pid_at != UINT32_MAX) {
    int pid = getpid(), err = step->process == NO_SLOT ? 0 : number_of_process(run, step->process, &pid);
    if (err == 0 && step->pid_at > step->state.size) err = EINVAL;
    if (err != 0) return err;
    snprintf(number, sizeof number, "%d", pid);
  }
  size_t at = step->pid_at == UINT32_MAX ? step->state.size : step->pid_at;
  int fd = memfd_create("state", MFD_CLOEXEC);
  if (fd < 0) return errno;
  int err = write_all(fd, step->state.data, at);
  if (err == 0) err = write_all(fd, number, strlen(number));
  if (err == 0) err = write_all(fd, step->state.data + at, step->state.size - at);
  if (err == 0) err = result(lseek(fd, 0, SEEK_SET));
  if (err != 0) return close_with(fd, err);
  *out = fd;
  return 0;
}

static _Noreturn void hook_main(const struct step_run_hook *step, pid_t waiter, int state, int output, int report) {
  char *path_only[] = {(char *)step->file, NULL};
  /* SAFETY: the hook dies with whoever waits for it, so cancelling a plan leaves none behind; a group of its own lets the deadline end all of it.
   * Who died before the signal was set is nobody's parent now; one in another PID namespace shows as 0. */
  prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
  pid_t parent = getppid();
  if (parent > 0 && parent != waiter) _exit(127);
  reset_signals(); /* what whoever runs it ignores or holds back is not the hook's */
  setpgid(0, 0);
  int err = result(chdir(step->cwd[0] == 0 ? "/" : step->cwd));
  if (err == 0) err = result(dup3(state, 0, 0));
  if (err == 0) err = result(dup3(output, 1, 0));
  if (err == 0) err = result(dup3(output, 2, 0));
  /* SAFETY: slots, the control socket and other descriptors of the host are close-on-exec; this says it once more for all. */
  if (err == 0) err = result(sys_close_range(3, ~0u, CLOSE_RANGE_CLOEXEC));
  if (err == 0) {
    execve(step->file, step->argv.count > 0 ? step->argv.items : path_only, step->env.items);
    err = errno;
  }
  while (write(report, &err, sizeof err) < 0 && errno == EINTR) continue;
  _exit(127);
}

/* Begins the hook. What its execve may fail with comes later through `report`: the program may lie on storage that hangs. */
static int begin_hook(const struct step_run_hook *step, int state, struct hook *hook) {
  int output[2] = {-1, -1}, report[2] = {-1, -1};
  int err = result(pipe2(output, O_CLOEXEC));
  if (err == 0) err = result(pipe2(report, O_CLOEXEC));
  pid_t waiter = getpid();
  if (err == 0) err = result(hook->pid = fork());
  if (err == 0 && hook->pid == 0) hook_main(step, waiter, state, output[1], report[1]);
  close_with(output[1], 0);
  close_with(report[1], 0);
  if (err == 0) {
    setpgid(hook->pid, hook->pid); /* whoever comes first; once it has executed this is an error */
    fcntl(output[0], F_SETFL, O_NONBLOCK);
    fcntl(report[0], F_SETFL, O_NONBLOCK);
    hook->process = (int)syscall(SYS_pidfd_open, hook->pid, 0);
  }
  hook->output = output[0];
  hook->report = report[0];
  return err;
}

/* The errno of the execve of a hook that has ended, 0 where it was executed. */
static int execution_error(const struct hook *hook) {
  int err = 0;
  return read(hook->report, &err, sizeof err) == (ssize_t)sizeof err ? err : 0;
}

/* Keeps the end of what comes, so that a hook never waits for a reader. */
static void take_output(struct hook *hook) {
  char chunk[4096];
  for (int turn = 0; hook->output >= 0; turn++) {
    ssize_t got = turn < CHUNKS_MAX ? read(hook->output, chunk, sizeof chunk) : -1;
    if (got < 0) return;
    if (got == 0) break;
    const char *from = chunk;
    size_t size = (size_t)got;
    if (size > OUTPUT_TAIL) from += size - OUTPUT_TAIL, size = OUTPUT_TAIL, hook->cut = true;
    size_t drop = hook->kept + size > OUTPUT_TAIL ? hook->kept + size - OUTPUT_TAIL : 0;
    if (drop > 0) memmove(hook->tail, hook->tail + drop, hook->kept - drop), hook->cut = true;
    hook->kept -= drop;
    memcpy(hook->tail + hook->kept, from, size);
    hook->kept += size;
  }
  if (hook->output >= 0) close(hook->output);
  hook->output = -1;
}

/*
 * True once it has ended, within the time; it is not reaped, so that its group's number is nobody else's yet. Where pidfd_open is hidden from the process,
 * it is looked at again and again.
 */
static bool await_hook(struct hook *hook, uint64_t deadline) {
  for (;;) {
    siginfo_t end = {0};
    int got = waitid(P_PID, (id_t)hook->pid, &end, WEXITED | WNOHANG | WNOWAIT);
    if (got == 0 && end.si_pid == hook->pid) return take_output(hook), true;
    uint64_t now = now_ms();
    if ((got < 0 && errno != EINTR) || now >= deadline) return false;
    uint64_t left = deadline - now;
    struct pollfd waiting[2] = {{.fd = hook->process, .events = POLLIN}, {.fd = hook->output, .events = POLLIN}};
    poll(waiting, 2, hook->process < 0 && left > POLL_MS ? POLL_MS : left > 60000 ? 60000 : (int)left);
    if (waiting[1].revents != 0) take_output(hook);
  }
}

/* Reaps a hook that has ended, and gives its status. One that failed takes its group along. */
static int end_hook(const struct hook *hook) {
  siginfo_t end = {0};
  int status = 0;
  bool failed = waitid(P_PID, (id_t)hook->pid, &end, WEXITED | WNOHANG | WNOWAIT) < 0 || end.si_code != CLD_EXITED || end.si_status != 0;
  if (failed) kill(-hook->pid, SIGKILL);
  waitpid(hook->pid, &status, 0);
  return status;
}

static void say(struct failure *failure, const char *what, const struct hook *hook) {
  char text[FAILURE_DETAIL_MAX];
  size_t size = hook->kept;
  while (size > 0 && (hook->tail[size - 1] == '\n' || hook->tail[size - 1] == 0)) size--;
  int used = snprintf(text, sizeof text, "%s%s%s", what, size > 0 ? ": " : "", hook->cut && size > 0 ? "…" : "");
  memcpy(text + used, hook->tail, size);
  for (size_t i = 0; i < size; i++)
    if (text[(size_t)used + i] == 0) text[(size_t)used + i] = ' ';
  set_detail(failure, text, (size_t)used + size);
}

int run_run_hook(struct run *run, const struct step_run_hook *step, struct failure *failure) {
  struct hook hook = {.process = -1, .output = -1, .report = -1};
  char what[96] = "";
  int state = -1, status = 0, err = open_state(run, step, &state);
  if (err != 0) return err;
  err = begin_hook(step, state, &hook);
  close(state);
  if (err == 0 && !await_hook(&hook, now_ms() + step->timeout_ms)) {
    kill(-hook.pid, SIGKILL);
    kill(hook.pid, SIGKILL);
    if (await_hook(&hook, now_ms() + KILLED_WAIT_MS)) waitpid(hook.pid, NULL, 0);
    snprintf(what, sizeof what, "killed after its %u ms", step->timeout_ms);
    err = ETIMEDOUT;
  } else if (err == 0 && (status = end_hook(&hook)) != 0) {
    err = execution_error(&hook);
    if (err == 0 && WIFSIGNALED(status)) snprintf(what, sizeof what, "ended by signal %d", WTERMSIG(status));
    else if (err == 0) snprintf(what, sizeof what, "exit code %d", WEXITSTATUS(status));
    if (err == 0) err = ECHILD;
  }
  if (what[0] != 0) say(failure, what, &hook);
  close_with(hook.process, 0);
  close_with(hook.report, 0);
  return close_with(hook.output, err);
}

int run_link_root(struct run *run, const struct step_link_root *step, struct failure *failure UNUSED) {
  char target[PATH_MAX];
  int pid = 0, err = number_of_process(run, step->process, &pid);
  if (err != 0) return err;
  if (snprintf(target, sizeof target, "/proc/%d/root%s", pid, step->below) >= (int)sizeof target) return ENAMETOOLONG;
  return result(symlink(target, step->path));
}

int run_change_root(struct run *run, const struct step_change_root *step, struct failure *failure UNUSED) {
  int fd = slot_fd(run, step->slot);
  if (fd < 0) return EBADF;
  return fchdir(fd) < 0 || chroot(".") < 0 ? errno : 0;
}
