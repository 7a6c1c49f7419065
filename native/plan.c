/*
 * Plans: decode, check, dispatch, and the steps that talk to the parent (barrier, ask, export, fork, execute). In: bytes
 * from the socket, which are checked whole before any step runs. Out: kernel calls and messages on the control socket.
 * It knows no step's meaning beyond control flow.
 */
#define _GNU_SOURCE
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include "steps.h"

#define NAMESPACE_FLAGS ((uint32_t)(CLONE_NEWTIME | CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET))

void slots_init(struct slots *slots) {
  for (unsigned i = 0; i < SLOT_COUNT; i++) slots->fd[i] = -1;
}

void slots_set(struct slots *slots, uint16_t slot, int fd) {
  if (slots->fd[slot] >= 0 && slots->fd[slot] != fd) close(slots->fd[slot]);
  slots->fd[slot] = fd;
}

void slots_close_local(struct slots *slots) {
  for (uint16_t i = POD_SLOT_COUNT; i < SLOT_COUNT; i++) slots_set(slots, i, -1);
}

int slot_fd(const struct run *run, uint16_t slot) { return slot < SLOT_COUNT ? run->slots->fd[slot] : -1; }

void set_detail(struct failure *failure, const char *text, size_t size) {
  if (size > FAILURE_DETAIL_MAX) size = FAILURE_DETAIL_MAX;
  memcpy(failure->detail, text, size);
  failure->detail[size] = 0;
}

/* --- decoding */

#define CHECK_CASE(constant, name) case STEP_##constant: { struct step_##name step; return decode_step_##name(in, &step); }
static bool check_fields(struct reader *in, uint16_t op, const struct step_header *header, uint32_t steps_after) {
  switch ((enum step_op)op) {
    case STEP_SKIP: {
      struct step_skip step;
      return decode_step_skip(in, &step) && step.count <= steps_after && header->ignore_count == 0;
    }
    STEPS(CHECK_CASE)
  }
  return false;
}

static bool decode_step(struct reader *in, struct step_header *step, uint32_t steps_after) {
  step->op = read_u16(in);
  step->skip_on_ignored = read_u16(in);
  step->ignore_count = read_u8(in);
  const uint8_t *zero = read_raw(in, 3);
  step->fields_size = read_u32(in);
  step->ignore = read_raw(in, (size_t)step->ignore_count * 4);
  step->fields = read_raw(in, step->fields_size);
  if (in->bad || zero[0] != 0 || zero[1] != 0 || zero[2] != 0 || step->skip_on_ignored > steps_after) return false;
  struct reader fields;
  reader_init(&fields, step->fields, step->fields_size);
  bool good = check_fields(&fields, step->op, step, steps_after);
  reader_free(&fields);
  return good;
}

static bool valid_slot(uint16_t slot) { return slot < SLOT_COUNT || slot == NO_SLOT; }

static int decode_section(struct reader *in, struct section *section, uint32_t *steps_left) {
  section->actor = read_u8(in);
  uint8_t zero = read_u8(in);
  section->barrier = read_u16(in);
  section->clone_flags = read_u32(in);
  section->pid_namespace = read_u16(in);
  section->cgroup = read_u16(in);
  uint32_t count = read_u32(in), size = read_u32(in);
  const uint8_t *data = read_raw(in, size);
  if (in->bad || zero != 0 || section->actor > ACTOR_PAYLOAD || (section->clone_flags & ~NAMESPACE_FLAGS) != 0) return EINVAL;
  if (!valid_slot(section->pid_namespace) || !valid_slot(section->cgroup)) return EINVAL;
  if (section->barrier != 0 && section->actor != ACTOR_HOST) return EINVAL;
  if (count > *steps_left) return E2BIG;
  if (count > size / 12) return EINVAL;
  *steps_left -= count;
  section->steps = calloc((size_t)count + 1, sizeof *section->steps);
  if (section->steps == NULL) return ENOMEM;
  section->step_count = count;
  struct reader steps;
  reader_init(&steps, data, size);
  for (uint32_t i = 0; i < count; i++) {
    if (!decode_step(&steps, &section->steps[i], count - i - 1)) return EINVAL;
  }
  return reader_done(&steps) ? 0 : EINVAL;
}

static int decode_sections(struct reader *in, struct plan *plan) {
  uint32_t magic = read_u32(in), steps_left = PLAN_STEPS_MAX;
  uint16_t version = read_u16(in), count = read_u16(in);
  if (in->bad || magic != PLAN_MAGIC || version != PLAN_VERSION) return EINVAL;
  if (count > PLAN_SECTIONS_MAX) return E2BIG;
  plan->sections = calloc((size_t)count + 1, sizeof *plan->sections);
  if (plan->sections == NULL) return ENOMEM;
  plan->section_count = count;
  for (uint16_t i = 0; i < count; i++) {
    int err = decode_section(in, &plan->sections[i], &steps_left);
    if (err != 0) return err;
  }
  return reader_done(in) ? 0 : EINVAL;
}

int plan_decode(const void *data, size_t size, struct plan *plan) {
  *plan = (struct plan){.data = NULL};
  if (size > PLAN_BYTES_MAX) return E2BIG;
  plan->data = malloc(size + 1);
  if (plan->data == NULL) return ENOMEM;
  if (size > 0) memcpy(plan->data, data, size);
  struct reader in;
  reader_init(&in, plan->data, size);
  int err = decode_sections(&in, plan);
  if (err != 0) plan_free(plan);
  return err;
}

void plan_free(struct plan *plan) {
  for (uint32_t i = 0; i < plan->section_count; i++) free(plan->sections[i].steps);
  free(plan->sections);
  free(plan->data);
  *plan = (struct plan){.data = NULL};
}

/* --- running */

/* The shim and the one-shot runner keep their own namespaces, credentials and streams; these belong to children. */
static bool forbidden_to_host(uint16_t op) {
  switch (op) {
    case STEP_BARRIER: case STEP_ASK: case STEP_UNSHARE: case STEP_ENTER_NAMESPACE: case STEP_EXPORT_SLOT: case STEP_FORK:
    case STEP_SET_HOSTNAME: case STEP_SET_DOMAINNAME: case STEP_PIVOT_ROOT: return true;
    default: return op >= STEP_SET_RLIMIT && op < STEP_ATTACH_DEVICE_FILTER;
  }
}

#define RUN_CASE(constant, name) \
  case STEP_##constant: { struct step_##name step; return decode_step_##name(in, &step) ? run_##name(run, &step, failure) : EINVAL; }
static int dispatch(struct reader *in, uint16_t op, struct run *run, uint32_t *skip, struct failure *failure) {
  if (run->host && forbidden_to_host(op)) return EPERM;
  switch ((enum step_op)op) {
    case STEP_SKIP: {
      struct step_skip step;
      if (!decode_step_skip(in, &step)) return EINVAL;
      *skip = step.count;
      return 0;
    }
    STEPS(RUN_CASE)
  }
  return EINVAL;
}

static bool is_ignored(const struct step_header *step, int err) {
  struct reader in;
  reader_init(&in, step->ignore, (size_t)step->ignore_count * 4);
  for (uint8_t i = 0; i < step->ignore_count; i++) {
    if (read_i32(&in) == err) return true;
  }
  return false;
}

/* A stream that the request left out is the host's /dev/null, opened before any root changes, so no image can forge it. */
static int open_missing_streams(struct run *run) {
  for (int i = 0; i < 3; i++) {
    if (run->stdio[i] >= 0) continue;
    int fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (fd < 0) return errno;
    for (int j = i; j < 3; j++) {
      if (run->stdio[j] < 0) run->stdio[j] = fd;
    }
  }
  return 0;
}

int plan_run_section(const struct section *section, struct run *run, struct failure *failure) {
  memset(failure, 0, sizeof *failure);
  if (section->actor >= ACTOR_CONTAINER_SETUP && run->control >= 0) {
    failure->err = open_missing_streams(run);
    if (failure->err != 0) return failure->err;
  }
  for (uint32_t at = 0; at < section->step_count;) {
    const struct step_header *step = &section->steps[at];
    struct reader in;
    uint32_t skip = 0;
    reader_init(&in, step->fields, step->fields_size);
    int err = dispatch(&in, step->op, run, &skip, failure);
    reader_free(&in);
    if (err != 0 && (failure->section & ANSWERED) == 0 && is_ignored(step, err)) {
      skip = step->skip_on_ignored;
      err = 0;
      failure->detail[0] = 0;
    }
    if (err != 0) {
      if ((failure->section & ANSWERED) == 0) failure->step = at;
      failure->err = err;
      return err;
    }
    at += 1 + skip; /* cannot wrap: skips were checked against the end when the plan was decoded */
  }
  return 0;
}

/* --- messages */

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

static int tell_parent(const struct run *run, uint32_t type, uint32_t value, int fd) {
  struct child_message message = {.type = type, .value = value};
  return run->control < 0 ? EPERM : -send_message(run->control, &message, fd);
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
  int unexpected = -1, err = tell_parent(run, CHILD_BARRIER, step->barrier, -1);
  if (err == 0) err = await_parent(run, PARENT_GO, &unexpected);
  return close_with(unexpected, err);
}

int run_export_slot(struct run *run, const struct step_export_slot *step, struct failure *failure UNUSED) {
  int fd = slot_fd(run, step->slot);
  if (fd < 0) return EBADF;
  return step->pod_slot < POD_SLOT_COUNT ? tell_parent(run, CHILD_EXPORT, step->pod_slot, fd) : EINVAL;
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
 * SAFETY: the new process waits until the old one has reported it and is gone, so messages stay in order and nothing that
 * was copied from the host is seen twice in a joined PID namespace. It is as little dumpable as the old one (CVE-2016-9962).
 */
int run_fork(struct run *run, const struct step_fork *step, struct failure *failure UNUSED) {
  int gate[2];
  char unused;
  int death_signal = 0;
  if (run->control < 0) return EPERM;
  prctl(PR_GET_PDEATHSIG, &death_signal, 0, 0, 0);
  if ((step->flags & ~NAMESPACE_FLAGS) != 0) return EINVAL;
  if (pipe2(gate, O_CLOEXEC) < 0) return errno;
  long pid = syscall(SYS_clone, (unsigned long)(CLONE_PARENT | SIGCHLD | step->flags), 0, 0, 0, 0);
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

static const char *path_of(const struct texts *env) {
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

/* Plain write: the filter of the payload may be in force already, and it is the one call that none forbids. */
static int tell_executing(const struct run *run) {
  struct child_message message = {.type = CHILD_EXECUTING};
  if (run->control < 0) return EPERM;
  return write(run->control, &message, sizeof message) == (ssize_t)sizeof message ? 0 : EPIPE;
}

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
  return errno;
}
