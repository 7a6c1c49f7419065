/* A container's state directory: the front's file in it, its lock, and what state the container is in. In: paths of the caller's own. Out: values. */
#include "front.h"
#include "syscalls.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>

#define FRONT_MAGIC 0x46545242u /* "BRTF" */
#define FRONT_VERSION 1
#define LOCK_STEP_MS_MAX 20
#define LOCKS_MAX 8 /* a command is about one container */

/* SAFETY: what is in there is executed with every right that the caller has, so nobody else may have written it. */
static int check_owner(int fd) {
  struct stat info;
  if (fstat(fd, &info) < 0) return errno;
  return info.st_uid == geteuid() && (info.st_mode & (S_IWGRP | S_IWOTH)) == 0 ? 0 : EPERM;
}

int open_state_directory(const char *root, const char *id) {
  int above = open(root, O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (above < 0) return -errno;
  int fd = openat(above, id, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC), err = fd < 0 ? errno : check_owner(fd);
  close(above);
  if (err && fd >= 0) close(fd);
  return err ? -err : fd;
}

int lock_state_directory(int directory, int64_t wait_ns) {
  int64_t deadline = now_monotonic() + wait_ns;
  for (unsigned ms = 1; flock(directory, LOCK_EX | LOCK_NB) < 0; ms = ms * 2 > LOCK_STEP_MS_MAX ? LOCK_STEP_MS_MAX : ms * 2) {
    if (errno != EWOULDBLOCK && errno != EINTR) return errno;
    if (now_monotonic() > deadline) return EWOULDBLOCK;
    nanosleep(&(struct timespec){.tv_nsec = ms * 1000000L}, NULL);
  }
  return 0;
}

int keep_lock(int directory, int64_t wait_ns) {
  static int kept[LOCKS_MAX];
  static unsigned count;
  struct stat one, other;
  int err = fstat(directory, &one) < 0 ? errno : 0;
  for (unsigned i = 0; !err && i < count; i++)
    if (fstat(kept[i], &other) == 0 && one.st_dev == other.st_dev && one.st_ino == other.st_ino) {
      close(directory);
      return 0;
    }
  if (!err) err = count == LOCKS_MAX ? EMFILE : lock_state_directory(directory, wait_ns);
  if (err) close(directory);
  else kept[count++] = directory;
  return err;
}

/* A regular file of at most limit bytes and a NUL; NULL where it is none. */
static uint8_t *read_own_file(int directory, const char *name, size_t limit, size_t *size) {
  struct stat info;
  int fd = openat(directory, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
  if (fd < 0) return NULL;
  bool good = fstat(fd, &info) == 0 && S_ISREG(info.st_mode) && info.st_size <= (off_t)limit && check_owner(fd) == 0;
  uint8_t *data = good ? malloc((size_t)info.st_size + 1) : NULL;
  ssize_t got = data ? read(fd, data, (size_t)info.st_size) : -1;
  close(fd);
  if (data && got == info.st_size) {
    data[got] = 0;
    *size = (size_t)got;
    return data;
  }
  free(data);
  return NULL;
}

int read_front_file(int directory, struct container *c) {
  struct reader in;
  size_t size = 0;
  *c = (struct container){.data = read_own_file(directory, FRONT_FILE, FRONT_FILE_MAX, &size)};
  if (!c->data) return ENOENT;
  reader_init(&in, c->data, size);
  uint32_t magic = read_u32(&in), version = read_u32(&in);
  c->pid = read_u32(&in);
  c->start_time = read_u64(&in);
  c->flags = read_u32(&in);
  c->freeze_file = read_text(&in);
  c->state_prefix = read_text(&in);
  c->state_middle = read_text(&in);
  c->state_suffix = read_text(&in);
  c->kill_plan = read_bytes(&in);
  c->pause_plan = read_bytes(&in);
  c->resume_plan = read_bytes(&in);
  c->delete_plan = read_bytes(&in);
  return reader_done(&in) && magic == FRONT_MAGIC && version == FRONT_VERSION && c->pid <= INT32_MAX ? 0 : EINVAL;
}

uint64_t read_start_time(pid_t pid) {
  char path[32], text[1024];
  snprintf(path, sizeof path, "/proc/%d/stat", pid);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  ssize_t got = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
  if (fd >= 0) close(fd);
  if (got <= 0) return 0;
  text[got] = 0;
  /* `pid (name) state ppid …`: the name may hold anything, but no field after it has a parenthesis. */
  char *at = strrchr(text, ')');
  if (!at || at[1] != ' ' || at[2] == 'Z' || at[2] == 'X' || at[2] == 'x') return 0;
  for (int field = 2; at && field < 22; field++) at = strchr(at + 1, ' ');
  return at ? strtoull(at, NULL, 10) : 0;
}

/* cgroup.events has a line `frozen 1`, cgroup.freeze is `1`, freezer.state (cgroup v1) FROZEN, or FREEZING until it is. */
static bool is_frozen(const char *file) {
  char text[512] = "\n";
  int fd = file[0] ? open(file, O_RDONLY | O_CLOEXEC) : -1;
  ssize_t got = fd < 0 ? -1 : read(fd, text + 1, sizeof text - 2);
  if (fd >= 0) close(fd);
  if (got <= 0) return false;
  text[got + 1] = 0;
  return strncmp(text, "\n1\n", 3) == 0 || strncmp(text, "\nFR", 3) == 0 || strstr(text, "\nfrozen 1\n") != NULL;
}

enum status read_status(int directory, const struct container *c) {
  struct stat info;
  if (c->pid == 0 || read_start_time((pid_t)c->pid) != c->start_time) return STATUS_STOPPED;
  /* Also one that was never started: it could not be started now. */
  if (is_frozen(c->freeze_file)) return STATUS_PAUSED;
  return fstatat(directory, START_SOCKET, &info, AT_SYMLINK_NOFOLLOW) == 0 ? STATUS_CREATED : STATUS_RUNNING;
}
