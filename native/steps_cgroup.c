/*
 * Steps on cgroups: device filter, kill, remove. In: the path of a directory of ours in a cgroup file system. Out: kernel
 * calls below its descriptor. Nothing outside cgroup and cgroup2 is ever touched.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include "steps.h"

#define CGROUP_DEPTH_MAX 128
#define PAUSE_MS_MAX 16

/* SAFETY: verified to be a cgroup, so that a wrong path cannot kill or remove anything else. */
static int open_cgroup(const char *path) {
  int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return -errno;
  return is_on(fd, MAGIC_CGROUP) || is_on(fd, MAGIC_CGROUP2) ? fd : -close_with(fd, EINVAL);
}

/* Calls visit for the cgroup and everything below it, children first; the first error ends the walk. Takes over fd. */
static int walk_cgroup(int fd, int depth, int (*visit)(int fd, void *context), int (*leave)(int parent, const char *name), void *context) {
  DIR *directory = fdopendir(fd);
  if (directory == NULL) return close_with(fd, errno);
  int err = depth > CGROUP_DEPTH_MAX ? ELOOP : 0;
  for (struct dirent *entry; err == 0 && (entry = readdir(directory)) != NULL;) {
    if (entry->d_type != DT_DIR || strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
    int child = openat(fd, entry->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (child < 0) err = errno == ENOENT ? 0 : errno;
    else err = walk_cgroup(child, depth + 1, visit, leave, context);
    if (err == 0 && child >= 0 && leave != NULL) err = leave(fd, entry->d_name);
  }
  if (err == 0 && visit != NULL) err = visit(fd, context);
  closedir(directory);
  return err;
}

/* --- kill */

struct kill_round { bool by_kernel; uint32_t processes; };

/* Kills what cgroup.procs lists, and counts it. A pid of 0 is a process outside our PID namespace. */
static int kill_listed(int fd, void *context) {
  struct kill_round *round = context;
  char buffer[4096];
  ssize_t size = 0;
  int pid = 0, file = openat(fd, "cgroup.procs", O_RDONLY | O_CLOEXEC);
  if (file < 0) return errno == ENOENT ? 0 : errno;
  while ((size = read(file, buffer, sizeof buffer)) > 0) {
    for (ssize_t i = 0; i < size; i++) {
      if (buffer[i] != '\n') {
        pid = pid * 10 + (buffer[i] - '0');
        continue;
      }
      round->processes++;
      if (!round->by_kernel && pid > 1 && pid != getpid()) kill(pid, SIGKILL);
      pid = 0;
    }
  }
  int err = size < 0 ? errno : 0;
  close(file);
  /* A frozen v1 cgroup dies only when thawed. */
  int freezer = openat(fd, "freezer.state", O_WRONLY | O_CLOEXEC);
  ssize_t thawed = freezer < 0 ? 0 : write(freezer, "THAWED", 6);
  if (err == 0 && thawed < 0) err = errno;
  return close_with(freezer, err);
}

static bool kill_by_kernel(int fd) {
  int file = openat(fd, "cgroup.kill", O_WRONLY | O_CLOEXEC);
  bool done = file >= 0 && write(file, "1", 1) == 1;
  close_with(file, 0);
  return done;
}

int run_kill_cgroup(struct run *run UNUSED, const struct step_kill_cgroup *step, struct failure *failure UNUSED) {
  uint64_t deadline = now_ms() + step->timeout_ms;
  for (unsigned pause = 1;; pause = pause < PAUSE_MS_MAX ? pause * 2 : pause) {
    int fd = open_cgroup(step->cgroup);
    if (fd < 0) return fd == -ENOENT || fd == -ENODEV ? 0 : -fd;
    struct kill_round round = {.by_kernel = kill_by_kernel(fd)};
    int err = walk_cgroup(fd, 0, kill_listed, NULL, &round);
    /* ENODEV: the cgroup went away while it was read; the next round sees that. */
    if (err != 0 && err != ENODEV) return err;
    if (err == 0 && round.processes == 0) return 0;
    if (now_ms() >= deadline) return ETIMEDOUT;
    sleep_ms(pause);
  }
}

/* --- remove */

static int remove_child(int parent, const char *name) {
  return unlinkat(parent, name, AT_REMOVEDIR) == 0 || errno == ENOENT ? 0 : errno;
}

int run_remove_cgroup(struct run *run UNUSED, const struct step_remove_cgroup *step, struct failure *failure UNUSED) {
  uint64_t deadline = now_ms() + step->timeout_ms;
  for (unsigned pause = 1;; pause = pause < PAUSE_MS_MAX ? pause * 2 : pause) {
    int fd = open_cgroup(step->cgroup);
    if (fd < 0) return fd == -ENOENT ? 0 : -fd;
    int err = walk_cgroup(fd, 0, NULL, remove_child, NULL);
    if (err == 0) err = rmdir(step->cgroup) == 0 || errno == ENOENT ? 0 : errno;
    if (err != EBUSY) return err;
    if (now_ms() >= deadline) return EBUSY;
    sleep_ms(pause);
  }
}

/* --- freeze */

struct freezer { int directory; bool unified; };

static int write_control(int directory, const char *name, const char *value) {
  int file = openat(directory, name, O_WRONLY | O_NOFOLLOW | O_CLOEXEC);
  if (file < 0) return errno;
  size_t size = strlen(value);
  return close_with(file, write(file, value, size) == (ssize_t)size ? 0 : errno);
}

/* True where a line of the file is exactly this one. The files are short. */
static int has_line(int directory, const char *name, const char *line, bool *found) {
  char text[512];
  int file = openat(directory, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
  if (file < 0) return errno;
  ssize_t size = read(file, text, sizeof text - 1);
  int err = size < 0 ? errno : 0;
  close(file);
  if (err != 0) return err;
  text[size] = 0;
  *found = false;
  for (char *rest = text, *at; (at = strsep(&rest, "\n")) != NULL;) *found = *found || strcmp(at, line) == 0;
  return 0;
}

static int set_frozen(const struct freezer *freezer, bool frozen) {
  if (freezer->unified) return write_control(freezer->directory, "cgroup.freeze", frozen ? "1" : "0");
  return write_control(freezer->directory, "freezer.state", frozen ? "FROZEN" : "THAWED");
}

/* A v1 group with a process that is just being made stays in FREEZING until its state is written again. */
static int await_frozen(const struct freezer *freezer, uint64_t deadline) {
  for (unsigned pause = 1;; pause = pause < PAUSE_MS_MAX ? pause * 2 : pause) {
    bool frozen = false;
    int err = freezer->unified ? has_line(freezer->directory, "cgroup.events", "frozen 1", &frozen) : has_line(freezer->directory, "freezer.state", "FROZEN", &frozen);
    if (err != 0 || frozen) return err;
    if (now_ms() >= deadline) return ETIMEDOUT;
    sleep_ms(pause);
    if (!freezer->unified && (err = set_frozen(freezer, true)) != 0) return err;
  }
}

int run_freeze_cgroup(struct run *run UNUSED, const struct step_freeze_cgroup *step, struct failure *failure UNUSED) {
  int fd = open_cgroup(step->cgroup);
  if (fd < 0) return -fd;
  struct freezer freezer = {fd, is_on(fd, MAGIC_CGROUP2)};
  int err = set_frozen(&freezer, step->frozen != 0);
  if (err == 0 && step->frozen != 0) err = await_frozen(&freezer, now_ms() + step->timeout_ms);
  if (err != 0 && step->frozen != 0) set_frozen(&freezer, false);
  return close_with(fd, err);
}

/* --- device filter (linux/bpf.h) */

enum {
  BPF_LOAD = 5, BPF_ATTACH = 8, BPF_DETACH = 9, BPF_FD_BY_ID = 13, BPF_INFO_BY_FD = 15, BPF_QUERY = 16,
  BPF_TYPE_CGROUP_DEVICE = 15, BPF_ATTACH_CGROUP_DEVICE = 6, BPF_ALLOW_MULTI = 2,
  PROGRAMS_MAX = 64, INSTRUCTION_BYTES = 8, LOG_BYTES = 65536,
};
static const char program_name[16] = "berth_devices";

struct bpf_load {
  uint32_t type, count;
  uint64_t instructions, license;
  uint32_t log_level, log_size;
  uint64_t log;
  uint32_t kernel_version, flags;
  char name[16];
};
struct bpf_attach { uint32_t target_fd, program_fd, type, flags, replace_fd; };
struct bpf_query { uint32_t target_fd, type, flags, attach_flags; uint64_t ids; uint32_t count, padding; };
struct bpf_id { uint32_t id, next, flags; };
struct bpf_info_request { uint32_t fd, size; uint64_t info; };
/* The beginning of struct bpf_prog_info, up to the name. */
struct bpf_program_info {
  uint32_t type, id;
  uint8_t tag[8];
  uint32_t jited_size, translated_size;
  uint64_t jited, translated, load_time;
  uint32_t uid, map_count;
  uint64_t maps;
  char name[16];
};

static uint64_t address(const void *pointer) { return (uint64_t)(uintptr_t)pointer; }

/* The verifier's log is asked for only where loading failed; its end says why. */
static int load_filter(const struct bytes *program, struct failure *failure) {
  static const char license[] = "Apache-2.0";
  struct bpf_load load = {.type = BPF_TYPE_CGROUP_DEVICE, .count = program->size / INSTRUCTION_BYTES, .license = address(license)};
  if (program->size == 0 || program->size % INSTRUCTION_BYTES != 0) return -EINVAL;
  uint8_t *instructions = malloc(program->size);
  if (instructions == NULL) return -ENOMEM;
  memcpy(instructions, program->data, program->size);
  load.instructions = address(instructions);
  memcpy(load.name, program_name, sizeof load.name);
  int fd = sys_bpf(BPF_LOAD, &load, sizeof load), err = result(fd);
  char *log = fd < 0 ? calloc(1, LOG_BYTES) : NULL;
  if (log != NULL) {
    load.log = address(log);
    load.log_size = LOG_BYTES;
    load.log_level = 1;
    fd = sys_bpf(BPF_LOAD, &load, sizeof load);
    size_t size = strnlen(log, LOG_BYTES), start = size > FAILURE_DETAIL_MAX ? size - FAILURE_DETAIL_MAX : 0;
    if (fd < 0) set_detail(failure, log + start, size - start);
    free(log);
  }
  free(instructions);
  return fd < 0 ? -err : fd;
}

/* Detaches the program with this id when it bears our name. */
static int detach_own(int cgroup, uint32_t id) {
  struct bpf_id by_id = {.id = id};
  struct bpf_program_info info = {.type = 0};
  int program = sys_bpf(BPF_FD_BY_ID, &by_id, sizeof by_id);
  if (program < 0) return errno == ENOENT ? 0 : errno;
  struct bpf_info_request request = {(uint32_t)program, sizeof info, address(&info)};
  struct bpf_attach detach = {.target_fd = (uint32_t)cgroup, .program_fd = (uint32_t)program, .type = BPF_ATTACH_CGROUP_DEVICE};
  int err = result(sys_bpf(BPF_INFO_BY_FD, &request, sizeof request));
  if (err == 0 && memcmp(info.name, program_name, sizeof info.name) == 0) err = result(sys_bpf(BPF_DETACH, &detach, sizeof detach));
  return close_with(program, err);
}

/*
 * SAFETY: the new filter is attached before the old one goes, and every attached filter must agree, so at no instant is
 * more allowed than by one of the two.
 */
int run_attach_device_filter(struct run *run UNUSED, const struct step_attach_device_filter *step, struct failure *failure) {
  uint32_t before[PROGRAMS_MAX];
  int cgroup = open_cgroup(step->cgroup);
  if (cgroup < 0) return -cgroup;
  struct bpf_query query = {.target_fd = (uint32_t)cgroup, .type = BPF_ATTACH_CGROUP_DEVICE, .ids = address(before), .count = PROGRAMS_MAX};
  int err = result(sys_bpf(BPF_QUERY, &query, sizeof query));
  if (err != 0) return close_with(cgroup, err);
  int program = load_filter(&step->program, failure);
  if (program < 0) return close_with(cgroup, -program);
  struct bpf_attach attach_new = {.target_fd = (uint32_t)cgroup, .program_fd = (uint32_t)program, .type = BPF_ATTACH_CGROUP_DEVICE, .flags = BPF_ALLOW_MULTI};
  err = result(sys_bpf(BPF_ATTACH, &attach_new, sizeof attach_new));
  for (uint32_t i = 0; err == 0 && i < query.count; i++) err = detach_own(cgroup, before[i]);
  close(program);
  return close_with(cgroup, err);
}
