/*
 * Filters of system calls. In: programs that TypeScript compiled. Out: the filter in force and, where some calls are asked about outside of
 * the container, the listener for them: handed to the parent, and by it to the socket of whoever answers. From the filter's first moment on this
 * process makes only the calls that it cannot do without: `write` may not be asked about, and without `read` no payload gets far.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include "steps.h"

#define FILTER_INSTRUCTIONS_MAX 4096 /* BPF_MAXINSNS */
#define NUMBERS_MAX 4

/* Puts the filter in force; what the call returned goes to *returned. */
static int load_filter(struct run *run, uint32_t flags, struct bytes code, int *returned) {
  size_t count = code.size / sizeof(struct kernel_filter);
  if (count == 0 || count > FILTER_INSTRUCTIONS_MAX || code.size % sizeof(struct kernel_filter) != 0) return EINVAL;
  struct kernel_filter *filter = malloc(code.size);
  if (filter == NULL) return ENOMEM;
  memcpy(filter, code.data, code.size);
  struct kernel_filter_program program = {(uint16_t)count, filter};
  /* What execute prepares may be forbidden by the filter, so it is done before. */
  int err = prepare_streams(run);
  if (err == 0) err = result(*returned = sys_seccomp(SECCOMP_SET_FILTER, flags, &program));
  free(filter);
  return err;
}

int run_set_seccomp(struct run *run, const struct step_set_seccomp *step, struct failure *failure UNUSED) {
  int unused;
  if ((step->flags & SECCOMP_NEW_LISTENER) != 0) return EINVAL; /* nobody would hold the listener */
  return load_filter(run, step->flags, step->program, &unused);
}

/* The parent takes the listener out of this process: passing it on would need one more call that the filter may forbid. */
int run_set_seccomp_listener(struct run *run, const struct step_set_seccomp_listener *step, struct failure *failure UNUSED) {
  struct child_message message = {.type = CHILD_LISTENER, .failure.section = step->out};
  int listener = -1;
  if (run->control < 0) return EPERM;
  if (step->out < POD_SLOT_COUNT || step->out >= CHILD_SLOT) return EINVAL;
  int err = load_filter(run, step->flags | SECCOMP_NEW_LISTENER, step->program, &listener);
  if (err != 0) return err;
  message.value = (uint32_t)listener;
  if (write(run->control, &message, sizeof message) != (ssize_t)sizeof message) return EPIPE;
  err = await_go(run->control);
  return close_with(listener, err);
}

int descriptor_of(pid_t pid, int number) {
  int process = (int)syscall(SYS_pidfd_open, pid, 0);
  if (process < 0) return -errno;
  int fd = (int)syscall(SYS_pidfd_getfd, process, number, 0);
  return close_with(process, fd < 0 ? -errno : fd);
}

/* The state document with the process's number wherever it belongs; *size is its length, NULL stands for an errno in *err. */
static char *fill_state(const struct run *run, const struct step_send_listener *step, size_t *size, int *err) {
  char number[16];
  int pid = 0;
  *err = step->pid_at.count > NUMBERS_MAX ? E2BIG : number_of_process(run, step->process, &pid);
  if (*err != 0) return NULL;
  size_t digits = (size_t)snprintf(number, sizeof number, "%d", pid), from = 0;
  char *out = malloc(step->state.size + NUMBERS_MAX * sizeof number), *at = out;
  if (out == NULL) *err = ENOMEM;
  for (uint32_t i = 0; *err == 0 && i <= step->pid_at.count; i++) {
    bool last = i == step->pid_at.count;
    size_t to = last ? step->state.size : step->pid_at.items[i];
    if (to < from || to > step->state.size) *err = EINVAL;
    if (*err != 0) break;
    memcpy(at, step->state.data + from, to - from);
    at += to - from;
    if (!last) memcpy(at, number, digits), at += digits;
    from = to;
  }
  *size = (size_t)(at - out);
  if (*err == 0) return out;
  free(out);
  return NULL;
}

/* The first byte carries the descriptor. */
static int send_with_descriptor(int connection, const char *data, size_t size, int fd) {
  struct iovec iov = {.iov_base = (void *)(uintptr_t)data, .iov_len = size};
  union { struct cmsghdr header; char space[CMSG_SPACE(sizeof(int))]; } ancillary;
  struct msghdr header = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &ancillary, .msg_controllen = sizeof ancillary};
  memset(&ancillary, 0, sizeof ancillary);
  struct cmsghdr *rights = CMSG_FIRSTHDR(&header);
  *rights = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof fd)};
  memcpy(CMSG_DATA(rights), &fd, sizeof fd);
  while (iov.iov_len > 0) {
    ssize_t sent = sendmsg(connection, &header, MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent <= 0) return sent < 0 ? errno : EPIPE;
    iov.iov_base = (char *)iov.iov_base + sent;
    iov.iov_len -= (size_t)sent;
    header.msg_control = NULL;
    header.msg_controllen = 0;
  }
  return 0;
}

int run_send_listener(struct run *run, const struct step_send_listener *step, struct failure *failure) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  size_t size = 0, length = strlen(step->path);
  int listener = slot_fd(run, step->listener), err = 0;
  if (run->host) return EPERM; /* connecting waits for the other side, which this actor must not */
  if (listener < 0) return EBADF;
  if (length == 0 || length >= sizeof address.sun_path) return length == 0 ? EINVAL : ENAMETOOLONG;
  memcpy(address.sun_path, step->path, length);
  char *state = fill_state(run, step, &size, &err);
  if (state == NULL) return err;
  int connection = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  err = result(connection);
  if (err == 0) err = result(connect(connection, (struct sockaddr *)&address, sizeof address));
  if (err != 0) set_detail(failure, "connect to the agent", 20);
  if (err == 0) err = send_with_descriptor(connection, state, size, listener);
  free(state);
  return close_with(connection, err);
}
