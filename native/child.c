/* The parent's side of a child, and the child until its sections begin; see child.h. Never reads a path of a tenant. */
#include "child.h"
#include "frame.h"
#include "syscalls.h"
#include <dirent.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

#define LOCAL_COUNT (SLOT_COUNT - POD_SLOT_COUNT)
#ifndef CLONE_INTO_CGROUP
#define CLONE_INTO_CGROUP 0x200000000ull
#endif
struct clone3_args { /* struct clone_args of linux/sched.h, its second version */
  uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup;
};

static bool is_process_actor(uint8_t actor) { return actor == ACTOR_CONTAINER_SETUP || actor == ACTOR_PAYLOAD; }

/* The order of sections that execution_new promises. */
static bool check_sections(const struct plan *plan, bool process) {
  bool made = false;
  for (uint32_t i = 0; i < plan->section_count; i++) {
    const struct section *s = &plan->sections[i];
    if (is_process_actor(s->actor)) made = true;
    else if (made && s->barrier == 0) return false;
  }
  return made == process;
}

struct execution *execution_new(const void *data, size_t size, bool process, struct slots *pod, int executable, int *err) {
  struct execution *x = calloc(1, sizeof *x);
  if (!x) {
    *err = ENOMEM;
    return NULL;
  }
  *x = (struct execution){.pod = pod, .executable = executable, .stdio = {-1, -1, -1}, .control = -1, .waiting = -1, .message_fd = -1, .process = process};
  for (int i = 0; i < LOCAL_COUNT; i++) x->local[i] = -1;
  *err = plan_decode(data, size, &x->plan);
  if (!*err && !check_sections(&x->plan, process)) {
    plan_free(&x->plan);
    *err = EINVAL;
  }
  if (!*err) return x;
  free(x);
  return NULL;
}

/* Lends the scratch part of the pod's table to this plan's slots, and takes it back. */
static void slots_lend(struct execution *x) { memcpy(x->pod->fd + POD_SLOT_COUNT, x->local, sizeof x->local); }
static void slots_return(struct execution *x) {
  memcpy(x->local, x->pod->fd + POD_SLOT_COUNT, sizeof x->local);
  for (int i = POD_SLOT_COUNT; i < SLOT_COUNT; i++) x->pod->fd[i] = -1;
}

static enum execution_event fail(struct execution *x, uint32_t section, uint32_t step, int err, const char *detail) {
  x->failure = (struct failure){.section = section, .step = step, .err = err};
  snprintf(x->failure.detail, sizeof x->failure.detail, "%s", detail);
  execution_kill(x);
  return EXECUTION_FAILED;
}

static enum execution_event run_host(struct execution *x, uint32_t index) {
  struct run run = {.slots = x->pod, .stdio = {-1, -1, -1}, .control = -1, .executable = x->executable, .host = true};
  x->failure = (struct failure){0};
  slots_lend(x);
  int err = plan_run_section(&x->plan.sections[index], &run, &x->failure);
  slots_return(x);
  if (!err) return EXECUTION_WAIT;
  x->failure.section = index;
  x->failure.err = err;
  execution_kill(x);
  return EXECUTION_FAILED;
}

/* --- in the child --- */

static int compare_fds(const void *a, const void *b) { return *(const int *)a - *(const int *)b; }

/*
 * Closes all but the slots, the control socket, the executable and the payload's streams: another process's pipe end
 * that stayed open here, perhaps for as long as the start barrier, would keep that process from seeing its end of file.
 */
static void close_others(const struct run *run) {
  int keep[SLOT_COUNT + 8], count = 0;
  keep[count++] = run->control;
  keep[count++] = run->executable;
  for (int i = 0; i < 3; i++)
    if (run->stdio[i] > 2) keep[count++] = run->stdio[i];
  for (int i = 0; i < SLOT_COUNT; i++)
    if (run->slots->fd[i] > 2) keep[count++] = run->slots->fd[i];
  qsort(keep, (size_t)count, sizeof *keep, compare_fds);
  unsigned from = 3 + run->preserved;
  for (int i = 0; i < count; i++) {
    if ((unsigned)keep[i] > from) sys_close_range(from, (unsigned)keep[i] - 1, 0);
    if ((unsigned)keep[i] >= from) from = (unsigned)keep[i] + 1;
  }
  sys_close_range(from, ~0u, 0);
}

static _Noreturn void child_main(struct execution *x, uint32_t first, uint32_t last, int control) {
  /* SAFETY: the shim is not dumpable and fork keeps that, so there is no moment before this line; said again for the one-shot
   * runner. The death signal covers the set-up; a change of credentials clears it, therefore plans set it again. */
  prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
  prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
  struct pollfd parent = {.fd = control};
  if (poll(&parent, 1, 0) > 0 && parent.revents & POLLHUP) _exit(127); /* the parent died before the signal was set */
  reset_signals();
  slots_lend(x);
  struct run run = {.slots = x->pod, .stdio = {x->stdio[0], x->stdio[1], x->stdio[2]}, .control = control, .executable = x->executable};
  if (is_process_actor(x->plan.sections[first].actor)) run.preserved = x->preserved;
  close_others(&run);
  for (uint32_t i = first; i < last; i++) {
    if (x->plan.sections[i].actor == ACTOR_HOST || (x->plan.sections[i].barrier != 0 && i != first)) continue;
    struct child_message message = {.type = CHILD_FAILED, .failure = {.section = i}};
    int err = plan_run_section(&x->plan.sections[i], &run, &message.failure);
    if (!err) continue;
    message.value = message.failure.section & ANSWERED ? message.failure.section : i;
    message.failure.err = err;
    send_message(run.control, &message, -1); /* not the socket it began with: `awaitStart` has taken another one */
    _exit(127);
  }
  struct child_message message = {.type = CHILD_DONE};
  send_message(run.control, &message, -1);
  _exit(0);
}

/* --- in the parent --- */

/* clone3 without a stack of its own is a fork; the namespaces and the cgroup are the section's. */
static pid_t clone_child(const struct section *s, int cgroup) {
  struct clone3_args args = {.flags = s->clone_flags, .exit_signal = SIGCHLD};
  if (cgroup >= 0) {
    args.flags |= CLONE_INTO_CGROUP;
    args.cgroup = (uint64_t)cgroup;
  }
  pid_t pid = (pid_t)syscall(SYS_clone3, &args, sizeof args);
  /* A container engine's seccomp profile may hide clone3; without a cgroup the older call does the same. */
  if (pid < 0 && errno == ENOSYS && cgroup < 0) pid = (pid_t)syscall(SYS_clone, (unsigned long)s->clone_flags | SIGCHLD, 0, 0, 0, 0);
  return pid;
}

/* A child for the sections from first up to (not including) last. */
static enum execution_event start_child(struct execution *x, uint32_t first, uint32_t last, pid_t *child, int *control) {
  const struct section *s = &x->plan.sections[first];
  slots_lend(x);
  int pid_namespace = s->pid_namespace < SLOT_COUNT ? x->pod->fd[s->pid_namespace] : -1;
  int cgroup = s->cgroup < SLOT_COUNT ? x->pod->fd[s->cgroup] : -1;
  slots_return(x);
  if ((s->pid_namespace != NO_SLOT && pid_namespace < 0) || (s->cgroup != NO_SLOT && cgroup < 0))
    return fail(x, first, UINT32_MAX, EBADF, "the slot of the PID namespace or cgroup is empty");
  int pair[2], own = -1;
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) return fail(x, first, UINT32_MAX, errno, "socketpair");
  /* SAFETY: setns with CLONE_NEWPID concerns later children only; it is undone below, before anything else is made. */
  if (pid_namespace >= 0 && ((own = open("/proc/self/ns/pid", O_RDONLY | O_CLOEXEC)) < 0 || setns(pid_namespace, CLONE_NEWPID) < 0)) {
    int err = errno;
    close(pair[0]), close(pair[1]);
    if (own >= 0) close(own);
    return fail(x, first, UINT32_MAX, err, "enter the PID namespace");
  }
  pid_t pid = clone_child(s, cgroup);
  if (pid == 0) child_main(x, first, last, pair[1]);
  int err = errno;
  if (own >= 0) {
    if (setns(own, CLONE_NEWPID) < 0) abort(); /* every later child would land in a container */
    close(own);
  }
  close(pair[1]);
  if (pid < 0) {
    close(pair[0]);
    return fail(x, first, UINT32_MAX, err, "clone");
  }
  *control = pair[0];
  *child = pid;
  return EXECUTION_WAIT;
}

/* Makes the child of the section at `next`; the process runs all sections from there on. */
static enum execution_event make_child(struct execution *x) {
  uint32_t first = x->next;
  bool process = is_process_actor(x->plan.sections[first].actor);
  uint32_t last = process ? x->plan.section_count : first + 1;
  x->child_section = first;
  x->executing = x->done = false;
  enum execution_event event = start_child(x, first, last, &x->pid, &x->control);
  if (event == EXECUTION_FAILED) return event;
  for (int i = 0; process && i < 3; i++)
    if (x->stdio[i] >= 0) close(x->stdio[i]), x->stdio[i] = -1;
  x->next = last;
  return event;
}

enum execution_event execution_continue(struct execution *x) {
  while (x->next < x->plan.section_count) {
    const struct section *s = &x->plan.sections[x->next];
    if (s->barrier == 0 && s->actor != ACTOR_HOST) return make_child(x);
    if (s->barrier == 0 && run_host(x, x->next) == EXECUTION_FAILED) return EXECUTION_FAILED;
    x->next++;
  }
  return EXECUTION_FINISHED;
}

/* A section of a barrier that may take its time has a child of its own, beside the one that waits. */
static enum execution_event make_beside(struct execution *x, uint32_t section) {
  pid_t pid = 0;
  int control = -1;
  enum execution_event event = start_child(x, section, section + 1, &pid, &control);
  if (event == EXECUTION_FAILED) return event;
  x->waiting = x->control;
  x->control = control;
  x->beside = pid;
  x->beside_done = false;
  return event;
}

/* Runs the sections of the barrier in their order, which find the waiting child in CHILD_SLOT, and lets the child go on. */
static enum execution_event continue_barrier(struct execution *x) {
  char path[32];
  snprintf(path, sizeof path, "/proc/%d", x->pid);
  while (x->barrier_next < x->plan.section_count) {
    uint32_t i = x->barrier_next++;
    if (x->plan.sections[i].barrier != x->barrier) continue;
    int *slot = &x->local[CHILD_SLOT - POD_SLOT_COUNT];
    /* SAFETY: the pid is our child's and is not reaped while it waits, so the number cannot have been reused. */
    if (*slot < 0) *slot = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (x->plan.sections[i].actor != ACTOR_HOST) return make_beside(x, i);
    if (run_host(x, i) == EXECUTION_FAILED) return EXECUTION_FAILED;
  }
  int *slot = &x->local[CHILD_SLOT - POD_SLOT_COUNT];
  if (*slot >= 0) close(*slot), *slot = -1;
  send_message(x->control, &(struct child_message){.type = PARENT_GO}, -1); /* where it fails the child is dead, and the end of file says so */
  return EXECUTION_WAIT;
}

static enum execution_event pass_barrier(struct execution *x, uint32_t barrier) {
  x->barrier = barrier;
  x->barrier_next = 0;
  return continue_barrier(x);
}

enum execution_event execution_release(struct execution *x) { return pass_barrier(x, 1); }

enum execution_event execution_answer(struct execution *x, const void *plan, size_t size) {
  int fd = memfd_create("answer", MFD_CLOEXEC);
  struct child_message answer = {.type = PARENT_ANSWER};
  int bad = fd < 0 || write(fd, plan, size) != (ssize_t)size || lseek(fd, 0, SEEK_SET) < 0 ? errno : 0;
  if (!bad) send_message(x->control, &answer, fd);
  if (fd >= 0) close(fd);
  return bad ? fail(x, x->child_section, UINT32_MAX, bad, "hand over the answer") : EXECUTION_WAIT;
}

/* The section beside the waiting child has ended. */
static enum execution_event beside_ended(struct execution *x) {
  if (!x->beside_done) return fail(x, x->barrier_next - 1, UINT32_MAX, ECHILD, "the child ended before its section did");
  close(x->control);
  x->control = x->waiting;
  x->waiting = -1;
  return continue_barrier(x);
}

/* The control socket ended: the child executed its payload, ended its sections, or died. */
static enum execution_event child_ended(struct execution *x) {
  if (x->waiting >= 0) return beside_ended(x);
  close(x->control);
  x->control = -1;
  if (!x->done && !x->executing) return fail(x, x->child_section, UINT32_MAX, ECHILD, "the child ended before its sections did");
  return execution_continue(x);
}

/* A pid that a child claims to have made must be a child of ours. */
static enum execution_event child_forked(struct execution *x, pid_t pid) {
  siginfo_t info;
  if (pid <= 1 || waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) < 0)
    return fail(x, x->child_section, UINT32_MAX, ESRCH, "the process that should continue is not a child of the shim");
  x->pid = pid;
  return EXECUTION_FORKED;
}

/* A descriptor for the children of this plan that come later. */
static void keep_export(struct execution *x, uint32_t slot, int fd) {
  if (slot >= CHILD_SLOT) {
    close(fd);
    return;
  }
  int *place = &x->local[slot - POD_SLOT_COUNT];
  if (*place >= 0) close(*place);
  *place = fd;
}

/* SAFETY: the child waits and is not reaped, so its pid is its own; the listener comes this way, as the filter may forbid to send it. */
static enum execution_event take_listener(struct execution *x, int number, uint32_t slot) {
  int fd = slot < POD_SLOT_COUNT || slot >= CHILD_SLOT ? -EPROTO : descriptor_of(x->pid, number);
  if (fd < 0) return fail(x, x->child_section, UINT32_MAX, -fd, "take over the listener of the filter");
  keep_export(x, slot, fd);
  send_message(x->control, &(struct child_message){.type = PARENT_GO}, -1); /* where it fails the child is dead, and the end of file says so */
  return EXECUTION_WAIT;
}

/* A child beside the waiting one may end or fail, nothing else: it is nobody's process and has nothing to hand over. */
static enum execution_event receive_beside(struct execution *x, struct child_message *message, int fd) {
  if (fd >= 0) close(fd);
  x->beside_done = message->type == CHILD_DONE;
  if (x->beside_done) return EXECUTION_WAIT;
  if (message->type != CHILD_FAILED) return fail(x, x->barrier_next - 1, UINT32_MAX, EPROTO, "unexpected message of the child");
  x->failure = message->failure;
  x->failure.section = x->barrier_next - 1;
  x->failure.detail[FAILURE_DETAIL_MAX] = 0;
  execution_kill(x);
  return EXECUTION_FAILED;
}

enum execution_event execution_receive(struct execution *x) {
  struct child_message message;
  int fd = -1;
  int got = receive_message(x->control, &message, &fd);
  if (got == -EAGAIN || got == -EINTR) return EXECUTION_WAIT;
  if (got <= 0) return child_ended(x);
  bool keeps = message.type == CHILD_ASK || message.type == CHILD_TERMINAL || message.type == CHILD_EXPORT;
  if (fd >= 0 && !keeps) close(fd);
  if (keeps && fd < 0) return fail(x, x->child_section, UINT32_MAX, EPROTO, "a message of the child lacks its descriptor");
  if (x->waiting >= 0) return receive_beside(x, &message, fd);
  switch (message.type) {
    case CHILD_FAILED:
      x->failure = message.failure;
      x->failure.section = message.value;
      x->failure.detail[FAILURE_DETAIL_MAX] = 0;
      close(x->control);
      x->control = -1;
      return EXECUTION_FAILED;
    case CHILD_BARRIER: return message.value == 1 && x->process ? EXECUTION_START : pass_barrier(x, message.value);
    case CHILD_ASK: x->message_fd = fd; return EXECUTION_ASK;
    case CHILD_TERMINAL: x->message_fd = fd; return EXECUTION_TERMINAL;
    case CHILD_EXPORT:
      if (message.value < POD_SLOT_COUNT) slots_set(x->pod, (uint16_t)message.value, fd);
      else keep_export(x, message.value, fd);
      return EXECUTION_WAIT;
    case CHILD_FORKED: return child_forked(x, (pid_t)message.value);
    case CHILD_LISTENER: return take_listener(x, (int)message.value, message.failure.section);
    case CHILD_DONE: x->done = true; return EXECUTION_WAIT;
    case CHILD_EXECUTING: x->executing = true; return EXECUTION_WAIT;
    default: return fail(x, x->child_section, UINT32_MAX, EPROTO, "unknown message of the child");
  }
}

void kill_session(pid_t session) {
  DIR *proc = opendir("/proc");
  for (struct dirent *entry; proc && (entry = readdir(proc));) {
    pid_t pid = atoi(entry->d_name);
    char path[64], text[256];
    if (pid <= 1 || pid == getpid()) continue;
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t got = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (fd >= 0) close(fd);
    if (got <= 0) continue;
    text[got] = 0;
    /* `pid (name) state ppid pgrp session`: the name may hold anything, but no field after it has a parenthesis. */
    char *at = strrchr(text, ')');
    for (int spaces = 0; at && spaces < 4; spaces++) at = strchr(at + 1, ' ');
    if (at && atoi(at) == session) kill(pid, SIGKILL);
  }
  if (proc) closedir(proc);
}

/* A child that leads a session has hooks in it, which may have children of their own. */
static void kill_child(pid_t pid) {
  if (pid <= 0) return;
  /* SAFETY: whoever reaps a child clears its pid, so the number is still its own. */
  if (getsid(pid) == pid) kill_session(pid);
  kill(pid, SIGKILL);
}

void execution_kill(struct execution *x) {
  if (x->control < 0) return;
  kill_child(x->beside);
  kill_child(x->pid);
  close(x->control);
  if (x->waiting >= 0) close(x->waiting);
  x->control = x->waiting = -1;
}

void execution_free(struct execution *x) {
  if (!x) return;
  if (x->control >= 0) close(x->control);
  if (x->waiting >= 0) close(x->waiting);
  if (x->message_fd >= 0) close(x->message_fd);
  for (int i = 0; i < 3; i++)
    if (x->stdio[i] >= 0) close(x->stdio[i]);
  for (int i = 0; i < LOCAL_COUNT; i++)
    if (x->local[i] >= 0) close(x->local[i]);
  plan_free(&x->plan);
  free(x);
}
