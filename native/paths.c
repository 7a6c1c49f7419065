/*
 * Paths below a slot, which all steps share. In: a slot and a path that may lie in a container's root and be changed while
 * we look. Out: descriptors. The kernel resolves a path with the slot as its root, and what was opened is used, never the
 * path again (CVE-2021-30465, CVE-2024-45310).
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include "steps.h"

#define OPEN_RETRIES 32
#define LINKS_MAX 40

int open_resolved(int dir, const char *path, int flags, unsigned mode, uint64_t resolve) {
  struct kernel_open_how how = {.flags = (uint64_t)(unsigned)flags | O_CLOEXEC, .mode = mode, .resolve = resolve};
  int fd;
  for (int attempt = 0; (fd = sys_openat2(dir, path, &how)) < 0 && (errno == EAGAIN || errno == EINTR) && attempt < OPEN_RETRIES;) attempt++;
  return fd < 0 ? -errno : fd;
}

/* The directory that paths of this slot start from, and how they are confined to it. */
static int base_of(const struct run *run, uint16_t slot, uint64_t *resolve) {
  if (slot == NO_SLOT) return AT_FDCWD;
  *resolve |= RESOLVE_IN_ROOT;
  return slot_fd(run, slot);
}

int open_below(const struct run *run, uint16_t slot, const char *path, int flags, uint64_t resolve) {
  resolve |= RESOLVE_NO_MAGICLINKS;
  int base = base_of(run, slot, &resolve);
  if (base == -1) return -EBADF;
  if (path[0] != 0 || slot == NO_SLOT) return open_resolved(base, path, flags, 0, resolve);
  if (flags != O_PATH) return open_resolved(base, ".", flags, 0, resolve);
  int fd = fcntl(base, F_DUPFD_CLOEXEC, 3);
  return fd < 0 ? -errno : fd;
}

bool is_on(int fd, long magic) {
  struct statfs info;
  return fstatfs(fd, &info) == 0 && (unsigned long)info.f_type == (unsigned long)magic;
}

bool is_device(int fd, unsigned major_number, unsigned minor_number) {
  struct stat info;
  return fstat(fd, &info) == 0 && S_ISCHR(info.st_mode) && major(info.st_rdev) == major_number && minor(info.st_rdev) == minor_number;
}

bool is_slot_itself(const struct run *run, uint16_t slot, int fd) {
  struct stat base, info;
  int base_fd = slot == NO_SLOT ? -1 : slot_fd(run, slot);
  return base_fd >= 0 && fstat(base_fd, &base) == 0 && fstat(fd, &info) == 0 && base.st_dev == info.st_dev && base.st_ino == info.st_ino;
}

int write_all(int fd, const void *data, size_t size) {
  for (size_t at = 0; at < size;) {
    ssize_t written = write(fd, (const char *)data + at, size - at);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return written < 0 ? errno : EIO;
    at += (size_t)written;
  }
  return 0;
}

/* Splits at the last component; parent gets what is before it ("" when nothing is), trailing slashes are passed over. */
static int split_path(const char *path, char parent[static 4096], char name[static 256]) {
  size_t end = strlen(path);
  while (end > 0 && path[end - 1] == '/') end--;
  size_t start = end;
  while (start > 0 && path[start - 1] != '/') start--;
  if (end - start > 255 || start > 4095) return ENAMETOOLONG;
  memcpy(name, path + start, end - start);
  name[end - start] = 0;
  memcpy(parent, path, start);
  parent[start] = 0;
  return name[0] == 0 || strcmp(name, ".") == 0 || strcmp(name, "..") == 0 ? EINVAL : 0;
}

/* One creation walk: where it starts, and how many dangling links it may still follow. */
struct walk { int base; uint64_t resolve; int links_left; };

static int walk_to(struct walk *walk, const char *path, enum target_kind kind);

/* Makes name in the directory `in` unless it has appeared meanwhile. The umask is set aside, so the mode is exact. */
static int make_target(int in, const char *name, enum target_kind kind) {
  mode_t mask = umask(0);
  int fd = -1, err = 0;
  if (kind == TARGET_DIRECTORY) err = result(mkdirat(in, name, 0755));
  else if ((fd = openat(in, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644)) < 0) err = errno;
  umask(mask);
  return close_with(fd, err);
}

/* A dangling link stands where a component is missing: walk to what it names, as the kernel would have done inside the root. */
static int walk_link(struct walk *walk, int in, const char *parent, const char *name, enum target_kind kind) {
  char target[4096], joined[8192];
  ssize_t size = readlinkat(in, name, target, sizeof target - 1);
  if (size < 0) return errno == EINVAL ? -EAGAIN : -errno;
  if ((walk->resolve & RESOLVE_NO_SYMLINKS) != 0 || walk->links_left-- == 0) return -ELOOP;
  target[size] = 0;
  snprintf(joined, sizeof joined, "%s%s", target[0] == '/' ? "" : parent, target);
  return strlen(joined) >= 4096 ? -ENAMETOOLONG : walk_to(walk, joined, kind);
}

/*
 * SAFETY: each prefix is resolved inside the root; a missing component is made below the descriptor of its parent and
 * opened without following it, so a name that is swapped in between leads to an error or to a place inside the root.
 */
static int walk_to(struct walk *walk, const char *path, enum target_kind kind) {
  char parent[4096], name[256];
  int fd = open_resolved(walk->base, path[0] == 0 ? "." : path, O_PATH, 0, walk->resolve);
  if (fd != -ENOENT) return fd;
  int err = split_path(path, parent, name);
  if (err != 0) return err == EINVAL ? -ENOENT : -err; /* ".." in a directory that is missing */
  int in = walk_to(walk, parent, TARGET_DIRECTORY);
  if (in < 0) return in;
  err = make_target(in, name, kind);
  if (err == EEXIST) fd = walk_link(walk, in, parent, name, kind);
  else fd = err != 0 ? -err : open_resolved(in, name, O_PATH | O_NOFOLLOW, 0, RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH);
  close(in);
  return fd;
}

int open_or_create(const struct run *run, uint16_t slot, const char *path, enum target_kind kind, uint64_t resolve) {
  if (kind == TARGET_NONE || path[0] == 0) return open_below(run, slot, path, O_PATH, resolve);
  if (strlen(path) >= 4096) return -ENAMETOOLONG;
  /* On the host nothing is made where a dangling link leads: whoever may write beside a volume could choose any place. */
  struct walk walk = {.resolve = resolve | RESOLVE_NO_MAGICLINKS, .links_left = slot == NO_SLOT ? 0 : LINKS_MAX};
  walk.base = base_of(run, slot, &walk.resolve);
  return walk.base == -1 ? -EBADF : walk_to(&walk, path, kind);
}

int open_parent(const struct run *run, uint16_t slot, const char *path, bool create, char name[static 256]) {
  char parent[4096];
  int err = split_path(path, parent, name);
  if (err != 0) return -err;
  const char *directory = parent[0] == 0 ? "." : parent;
  int fd = open_or_create(run, slot, directory, create ? TARGET_DIRECTORY : TARGET_NONE, 0);
  struct stat info;
  if (fd < 0) return fd;
  return fstat(fd, &info) == 0 && S_ISDIR(info.st_mode) ? fd : -close_with(fd, ENOTDIR);
}
