/*
 * What the front does without asking anybody: state, start, kill, delete, pause, resume of a container in a state that allows it. In: a command
 * that was understood whole. Out: done and true, or nothing said and false: then the compiler does it again, or tells the caller why not.
 */
#include "front.h"
#include "syscalls.h"
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

/* The message that the step failed with which could not even begin; it has no place in a plan. */
static int fail(struct failure *failure, int err, const char *detail) {
  *failure = (struct failure){.step = UINT32_MAX, .err = err};
  snprintf(failure->detail, sizeof failure->detail, "%s", detail);
  return err;
}

static bool print_state(const struct container *c, enum status status) {
  static const char *const names[] = {[STATUS_STOPPED] = "stopped", [STATUS_CREATED] = "created", [STATUS_RUNNING] = "running", [STATUS_PAUSED] = "paused"};
  struct buffer out = {0};
  char pid[16];
  snprintf(pid, sizeof pid, "%u", status == STATUS_STOPPED ? 0 : c->pid);
  const char *const parts[] = {c->state_prefix, names[status], c->state_middle, pid, c->state_suffix, "\n"};
  for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) buffer_append(&out, parts[i], strlen(parts[i]));
  if (buffer_write(&out, 1)) _exit(1); /* nobody reads it */
  return true;
}

/* What the process says between its release and its execve. */
static int await_execution(int starter, struct failure *failure) {
  for (bool is_executing = false;;) {
    struct child_message message;
    int fd = -1, got = receive_message(starter, &message, &fd);
    if (fd >= 0) close(fd);
    if (got == 1 && message.type == CHILD_EXECUTING) is_executing = true;
    if (got == 1 && message.type == CHILD_FAILED) {
      *failure = message.failure;
      failure->section = message.value;
      return failure->err;
    }
    if (got != 1) return is_executing ? 0 : fail(failure, got < 0 && got != -ECONNRESET ? -got : ECHILD, "the process ended before it was executed");
  }
}

int start_container(int directory, struct failure *failure) {
  struct child_message go = {.type = PARENT_GO};
  int starter = connect_to(SOCK_SEQPACKET, directory, START_SOCKET);
  if (starter < 0) return fail(failure, -starter, "connect to the start socket");
  /* Gone before the process goes on: one that runs must never be taken for one that waits. */
  int err = unlinkat(directory, START_SOCKET, 0) < 0 ? errno : -send_message(starter, &go, -1);
  err = err ? fail(failure, err, "release the process") : await_execution(starter, failure);
  close(starter);
  return err;
}

static bool send_signal(const struct container *c, int number, struct failure *failure) {
  /* SAFETY: the descriptor is taken first and the start time looked at then, so the signal cannot reach a later process of that number. */
  int process = (int)syscall(SYS_pidfd_open, (pid_t)c->pid, 0);
  int err = process < 0 ? errno : 0;
  if (!err && read_start_time((pid_t)c->pid) != c->start_time) err = ESRCH;
  if (!err && syscall(SYS_pidfd_send_signal, process, number, NULL, 0) < 0) err = errno;
  if (process >= 0) close(process);
  return fail(failure, err, "send the signal") == 0;
}

static bool run_own_plan(struct bytes plan, struct failure *failure) { return plan.size > 0 && run_plan(plan, failure) == 0; }

bool delete_container(int directory, struct failure *failure) {
  struct container c;
  return read_front_file(directory, &c) == 0 && !(c.flags & FRONT_DELETE_ASKS) && run_own_plan(c.delete_plan, failure);
}

static bool run_in(int directory, const struct command *command, struct failure *failure) {
  struct container c;
  bool locks = command->kind != COMMAND_STATE && command->kind != COMMAND_KILL;
  int err = locks ? lock_state_directory(directory, command->force ? FORCED_LOCK_NS : LOCK_NS) : 0;
  if (err) return fail(failure, err, LOCKED_BY_OTHERS), false;
  if (read_front_file(directory, &c) != 0) return false;
  enum status status = read_status(directory, &c);
  switch (command->kind) {
    case COMMAND_STATE: return print_state(&c, status);
    case COMMAND_START: return status == STATUS_CREATED && !(c.flags & FRONT_START_ASKS) && start_container(directory, failure) == 0;
    case COMMAND_KILL:
      if (status != STATUS_CREATED && status != STATUS_RUNNING) return false;
      if (command->signal == SIGKILL && c.flags & FRONT_KILL_ALL) return run_own_plan(c.kill_plan, failure);
      return send_signal(&c, command->signal, failure);
    case COMMAND_DELETE:
      if (status == STATUS_PAUSED || (status == STATUS_RUNNING && !command->force)) return false;
      return !(c.flags & FRONT_DELETE_ASKS) && run_own_plan(c.delete_plan, failure);
    case COMMAND_PAUSE: return (status == STATUS_CREATED || status == STATUS_RUNNING) && run_own_plan(c.pause_plan, failure);
    case COMMAND_RESUME: return status == STATUS_PAUSED && run_own_plan(c.resume_plan, failure);
    default: return false;
  }
}

bool run_command(const struct command *command, struct failure *failure) {
  if (command->kind == COMMAND_OTHER) return false;
  int directory = open_state_directory(command->root, command->id);
  if (directory == -ENOENT && command->kind == COMMAND_DELETE && command->force) return true;
  if (directory < 0) return false;
  front.executable = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
  if (run_in(directory, command, failure)) return true;
  close(directory);
  return false;
}
