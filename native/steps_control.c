/*
 * Messages between a child and its parent, and the steps that are made of them: barrier, ask, export, fork, execute. In:
 * decoded steps. Out: messages on the control socket, documented in plan.h, and in the end the payload.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include "steps.h"

int send_message(int control, const struct child_message *message, int fd) {
  struct iovec iov = {.iov_base = (void *)(uintptr_t)message, .iov_len = sizeof *message};
  union { struct cmsghdr header; char space[CMSG_SPACE(sizeof(int))]; } ancillary;
  struct msghdr header = {.msg_iov = &iov, .msg_iovlen = 1};
  memset(&ancillary, 0, sizeof ancillary);
  if (fd >= 0) {
    header.msg_control = &ancillary;
    header.msg_controllen = sizeof ancillary;
    struct cmsghdr *control_message = CMSG_FIRSTHDR(&header);
    *control_message = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof fd)};
    memcpy(CMSG_DATA(control_message), &fd, sizeof fd);
  }
  ssize_t sent;
  do sent = sendmsg(control, &header, MSG_NOSIGNAL);
  while (sent < 0 && errno == EINTR);
  return sent < 0 ? -errno : 0;
}

int receive_message(int control, struct child_message *message, int *fd) {
  struct iovec iov = {.iov_base = message, .iov_len = sizeof *message};
  union { struct cmsghdr header; char space[CMSG_SPACE(sizeof(int))]; } ancillary;
  struct msghdr header = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &ancillary, .msg_controllen = sizeof ancillary};
  memset(&ancillary, 0, sizeof ancillary);
  *fd = -1;
  ssize_t size;
  do size = recvmsg(control, &header, MSG_CMSG_CLOEXEC);
  while (size < 0 && errno == EINTR);
  if (size < 0) return -errno;
  struct cmsghdr *got = CMSG_FIRSTHDR(&header);
  if (got != NULL && got->cmsg_level == SOL_SOCKET && got->cmsg_type == SCM_RIGHTS && got->cmsg_len == CMSG_LEN(sizeof(int))) {
    memcpy(fd, CMSG_DATA(got), sizeof(int));
  }
  if (size == 0) return close_with(*fd, 0);
  message->failure.detail[FAILURE_DETAIL_MAX] = 0;
  if (size == sizeof *message && (header.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) == 0) return 1;
  close_with(*fd, 0);
  *fd = -1;
  return -EPROTO;
}

/* Without a descriptor by a plain write: the filter of the payload may be in force already, and it is the one call that none forbids. */
int tell_parent(const struct run *run, uint32_t type, uint32_t value, int fd) {
  struct child_message message = {.type = type, .value = value};
  if (run->control < 0) return EPERM;
  if (fd >= 0) return -send_message(run->control, &message, fd);
  return write(run->control, &message, sizeof message) == (ssize_t)sizeof message ? 0 : EPIPE;
}

int await_go(int control) {
  struct child_message message;
  ssize_t got;
  do got = read(control, &message, sizeof message);
  while (got < 0 && errno == EINTR);
  if (got < 0) return errno;
  return got == 0 ? ECONNRESET : got == (ssize_t)sizeof message && message.type == PARENT_GO ? 0 : EPROTO;
}

/* Waits for one message of this type; its descriptor goes to *fd. A parent that has gone is ECONNRESET. */
static int await_parent(const struct run *run, uint32_t type, int *fd) {
  struct child_message message;
  int got = receive_message(run->control, &message, fd);
  if (got == 1 && message.type == type) return 0;
  close_with(*fd, 0);
  *fd = -1;
  return got < 0 ? -got : got == 0 ? ECONNRESET : EPROTO;
}

/* --- steps of the control flow */

int run_barrier(struct run *run, const struct step_barrier *step, struct failure *failure UNUSED) {
  int err = tell_parent(run, CHILD_BARRIER, step->barrier, -1);
  return err != 0 ? err : await_go(run->control);
}

int run_export_slot(struct run *run, const struct step_export_slot *step, struct failure *failure UNUSED) {
  int fd = slot_fd(run, step->slot);
  if (fd < 0) return EBADF;
  return step->pod_slot < CHILD_SLOT ? tell_parent(run, CHILD_EXPORT, step->pod_slot, fd) : EINVAL;
}

/*
 * SAFETY: the file is looked at by an O_PATH descriptor first and again after opening, so neither a FIFO nor a device is
 * ever waited for, and at most `limit` bytes are read whatever the file claims (CVE-2025-4437, CVE-2024-9676).
 */
static int read_regular(const struct run *run, uint16_t root, const char *path, size_t limit, uint8_t **data, uint32_t *size) {
  struct stat info;
  for (int flags = O_PATH, fd;; flags = O_RDONLY | O_NONBLOCK | O_NOCTTY) {
    fd = open_below(run, root, path, flags, 0);
    if (fd < 0) return -fd;
    int err = fstat(fd, &info) < 0 ? errno : S_ISDIR(info.st_mode) ? EISDIR : !S_ISREG(info.st_mode) ? EINVAL : info.st_size > (off_t)limit ? EFBIG : 0;
    if (err != 0 || flags == O_PATH) {
      close(fd);
      if (err != 0) return err;
      continue;
    }
    *data = malloc(limit + 1);
    if (*data == NULL) return close_with(fd, ENOMEM);
    size_t at = 0;
    ssize_t got = 1;
    while (at <= limit && (got = read(fd, *data + at, limit + 1 - at)) > 0) at += (size_t)got;
    err = got < 0 ? errno : at > limit ? EFBIG : 0;
    *size = (uint32_t)at;
    return close_with(fd, err);
  }
}

static int write_u32(int fd, uint32_t value) {
  uint8_t data[4] = {(uint8_t)value, (uint8_t)(value >> 8), (uint8_t)(value >> 16), (uint8_t)(value >> 24)};
  return write_all(fd, data, sizeof data);
}

/* The payload of an ASK frame: u32 count, then per file: text path, i32 errno, bytes content. */
static int write_asked_files(const struct run *run, const struct step_ask *step, int out) {
  size_t limit = step->bytes_max < FRAME_BYTES_MAX / 2 ? step->bytes_max : FRAME_BYTES_MAX / 2, total = 4;
  int failed = write_u32(out, step->files.count);
  for (uint32_t i = 0; failed == 0 && i < step->files.count; i++) {
    uint8_t *data = NULL;
    uint32_t size = 0, path_size = (uint32_t)strlen(step->files.items[i]);
    int err = read_regular(run, step->root, step->files.items[i], limit, &data, &size);
    if (err != 0) size = 0;
    total += (size_t)path_size + size + 13;
    failed = total > FRAME_BYTES_MAX ? E2BIG : write_u32(out, path_size);
    if (failed == 0) failed = write_all(out, step->files.items[i], (size_t)path_size + 1);
    if (failed == 0) failed = write_u32(out, (uint32_t)err);
    if (failed == 0) failed = write_u32(out, size);
    if (failed == 0 && size > 0) failed = write_all(out, data, size);
    free(data);
  }
  return failed;
}

static int decode_answer(int fd, struct plan *plan) {
  struct stat info;
  if (fstat(fd, &info) < 0) return errno;
  if (info.st_size < 0 || info.st_size > PLAN_BYTES_MAX) return E2BIG;
  size_t size = (size_t)info.st_size, at = 0;
  uint8_t *data = malloc(size + 1);
  if (data == NULL) return ENOMEM;
  for (ssize_t got; at < size; at += (size_t)got) {
    got = pread(fd, data + at, size - at, (off_t)at);
    if (got <= 0) break;
  }
  int err = at == size ? plan_decode(data, size, plan) : EIO;
  free(data);
  return err;
}

static int run_answer(const struct plan *plan, struct run *run, struct failure *failure) {
  for (uint32_t i = 0; i < plan->section_count; i++) {
    if (plan->sections[i].actor < ACTOR_CONTAINER_SETUP) return EINVAL;
  }
  for (uint32_t i = 0; i < plan->section_count; i++) {
    int err = plan_run_section(&plan->sections[i], run, failure);
    if (err == 0) continue;
    if ((failure->section & ANSWERED) == 0) failure->section = ANSWERED | i;
    return err;
  }
  return 0;
}

int run_ask(struct run *run, const struct step_ask *step, struct failure *failure) {
  struct plan plan;
  int question = memfd_create("ask", MFD_CLOEXEC), answer = -1;
  if (question < 0) return errno;
  int err = write_asked_files(run, step, question);
  if (err == 0) err = tell_parent(run, CHILD_ASK, 0, question);
  close(question);
  if (err == 0) err = await_parent(run, PARENT_ANSWER, &answer);
  if (err != 0) return err;
  err = answer < 0 ? EPROTO : decode_answer(answer, &plan);
  close_with(answer, 0);
  if (err != 0) return err;
  err = run_answer(&plan, run, failure);
  plan_free(&plan);
  return err;
}

/*
 * What a plan holds leads to the host: the directory of a process in the host's procfs, cgroups, namespaces. "Not dumpable" closes
 * it to most, but not to a container with SYS_PTRACE, so none of it enters a PID namespace that others live in, nor stays while a hook
 * inside the container runs.
 */
static int shed_slots(struct run *run, bool keep_listener) {
  for (int i = 0; i < SLOT_COUNT; i++) {
    int is_listening = 0;
    socklen_t size = sizeof is_listening;
    /* SAFETY: a start socket leads nowhere; who takes it over there has stopped the container's own start. */
    if (keep_listener && getsockopt(run->slots->fd[i], SOL_SOCKET, SO_ACCEPTCONN, &is_listening, &size) == 0 && is_listening) continue;
    slots_set(run->slots, (uint16_t)i, -1);
  }
  return prepare_streams(run);
}

int run_close_slots(struct run *run, const struct step_close_slots *step UNUSED, struct failure *failure UNUSED) { return shed_slots(run, false); }

/*
 * SAFETY: the new process waits until the old one has reported it and is gone, so messages stay in order and nothing that
 * was copied from the host is seen twice in a joined PID namespace. It is as little dumpable as the old one (CVE-2016-9962).
 */
static int continue_in_new_process(const struct run *run, uint32_t flags) {
  int gate[2];
  char unused;
  int death_signal = 0;
  prctl(PR_GET_PDEATHSIG, &death_signal, 0, 0, 0);
  if (pipe2(gate, O_CLOEXEC) < 0) return errno;
  long pid = syscall(SYS_clone, (unsigned long)(CLONE_PARENT | SIGCHLD | flags), 0, 0, 0, 0);
  if (pid != 0) {
    int err = pid < 0 ? errno : tell_parent(run, CHILD_FORKED, (uint32_t)pid, -1);
    if (pid > 0 && err == 0) _exit(0);
    if (pid > 0) kill((pid_t)pid, SIGKILL);
    close(gate[0]);
    return close_with(gate[1], err);
  }
  close(gate[1]);
  while (read(gate[0], &unused, 1) < 0 && errno == EINTR) continue;
  close(gate[0]);
  if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0) return errno;
  return death_signal == 0 ? 0 : result(prctl(PR_SET_PDEATHSIG, death_signal, 0, 0, 0));
}

int run_fork(struct run *run, const struct step_fork *step, struct failure *failure UNUSED) {
  if (run->control < 0) return EPERM;
  if ((step->flags & ~NAMESPACE_FLAGS) != 0) return EINVAL;
  int shed = shed_slots(run, true);
  return shed != 0 ? shed : continue_in_new_process(run, step->flags);
}

/* SAFETY: the slots stay, so only a PID namespace that is new, and therefore empty, is entered. */
int run_fork_inside(struct run *run, const struct step_fork_inside *step, struct failure *failure UNUSED) {
  if (run->control < 0) return EPERM;
  bool good = (step->flags & ~NAMESPACE_FLAGS) == 0 && (step->flags & CLONE_NEWPID) != 0;
  return good ? continue_in_new_process(run, step->flags) : EINVAL;
}

const char *path_of(const struct texts *env) {
  for (uint32_t i = 0; i < env->count; i++) {
    if (strncmp(env->items[i], "PATH=", 5) == 0) return env->items[i] + 5;
  }
  return "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
}

/* execvpe's search: a directory without the file or without permission is passed over, EACCES remembered. */
static int execute_in_path(const char *file, char *const argv[], const struct texts *env) {
  char candidate[4096];
  int err = ENOENT;
  for (const char *at = path_of(env), *end;; at = end + 1) {
    end = at + strcspn(at, ":");
    const char *separator = end == at ? "" : "/";
    int size = snprintf(candidate, sizeof candidate, "%.*s%s%s", (int)(end - at), at, separator, file);
    if (size > 0 && (size_t)size < sizeof candidate) {
      execve(candidate, argv, env->items);
      if (errno == EACCES) err = EACCES;
      else if (errno != ENOENT && errno != ENOTDIR) return errno;
    }
    if (*end == 0) return err;
  }
}

int tell_executing(const struct run *run) { return tell_parent(run, CHILD_EXECUTING, 0, -1); }

int run_execute(struct run *run, const struct step_execute *step, struct failure *failure UNUSED) {
  char *only_file[] = {(char *)(uintptr_t)step->file, NULL};
  char *const *argv = step->argv.count == 0 ? only_file : step->argv.items;
  /* SAFETY: every descriptor but the three streams is close-on-exec from here on, whoever opened it (CVE-2024-21626). */
  int err = prepare_streams(run);
  if (err == 0 && step->file[0] == 0) err = ENOENT;
  if (err == 0) err = tell_executing(run);
  if (err != 0) return err;
  if (strchr(step->file, '/') == NULL) return execute_in_path(step->file, argv, &step->env);
  execve(step->file, argv, step->env.items);
  return errno;
}

int run_execute_pause(struct run *run, const struct step_execute_pause *step UNUSED, struct failure *failure UNUSED) {
  char *argv[] = {(char[]){"berth-shim"}, (char[]){"pause"}, NULL}, *env[] = {NULL};
  int err = prepare_streams(run);
  /* SAFETY: with an empty bounding and inheritable set, execve gives no capability even to user 0, so the new image is
   * powerless before its first instruction; it executes from the sealed memfd, never from a path. */
  if (err == 0) err = limit_bounding(0);
  if (err == 0) err = result(sys_capset(0, 0, 0));
  if (err == 0) err = result(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
  if (err == 0) err = tell_executing(run);
  if (err != 0) return err;
  sys_execveat(run->executable, "", argv, env, AT_EMPTY_PATH);
#ifdef __SANITIZE_ADDRESS__
  /* This build wants a loader, which an empty root does not have. */
  if (errno == ENOENT) pause_main();
#endif
  return errno;
}
