/*
 * Steps on single files. In: a slot, a path below it, and what is to be there. Out: kernel calls on descriptors that
 * paths.c opened; the last component is never followed where it is made, replaced or removed.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
#include <sys/sysmacros.h>
#include "steps.h"

int run_open_path(struct run *run, const struct step_open_path *step, struct failure *failure UNUSED) {
  int base = step->dir == NO_SLOT ? AT_FDCWD : slot_fd(run, step->dir);
  if (base == -1) return EBADF;
  if (step->out >= SLOT_COUNT) return EINVAL;
  const char *path = step->path[0] == 0 && step->dir != NO_SLOT ? "." : step->path;
  int fd = open_resolved(base, path, (int)step->flags, step->mode, step->resolve);
  if (fd < 0) return -fd;
  slots_set(run->slots, step->out, fd);
  return 0;
}

int run_close_slot(struct run *run, const struct step_close_slot *step, struct failure *failure UNUSED) {
  if (step->slot >= SLOT_COUNT) return EINVAL;
  slots_set(run->slots, step->slot, -1);
  return 0;
}

int run_make_directory(struct run *run, const struct step_make_directory *step, struct failure *failure UNUSED) {
  char name[256];
  struct stat info;
  if (step->parents != 0) {
    int fd = open_below(run, step->dir, step->path, O_PATH | O_DIRECTORY, 0);
    if (fd >= 0) return close_with(fd, 0);
  }
  int parent = open_parent(run, step->dir, step->path, step->parents != 0, name);
  if (parent < 0) return -parent;
  int err = result(mkdirat(parent, name, 0700)), fd = -1;
  /* SAFETY: opened without following, so the mode lands on a directory below the same parent or nowhere. */
  if (err == 0 && (fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)) < 0) err = errno;
  if (err == 0) err = result(fchmod(fd, step->mode & 07777));
  close_with(fd, 0);
  if (err == EEXIST && step->parents != 0 && fstatat(parent, name, &info, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(info.st_mode)) err = 0;
  return close_with(parent, err);
}

int run_make_file(struct run *run, const struct step_make_file *step, struct failure *failure UNUSED) {
  char name[256];
  struct stat info;
  int parent = open_parent(run, step->dir, step->path, false, name);
  if (parent < 0) return -parent;
  /* SAFETY: looked at before opening, so no device is touched; O_NONBLOCK keeps a FIFO swapped in from hanging us; the
   * opened file is verified before it is truncated. */
  int err = 0, fd = -1;
  if (fstatat(parent, name, &info, AT_SYMLINK_NOFOLLOW) == 0 && !S_ISREG(info.st_mode)) err = S_ISLNK(info.st_mode) ? ELOOP : EEXIST;
  if (err == 0 && (fd = openat(parent, name, O_WRONLY | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, 0600)) < 0) err = errno;
  if (err == 0) err = fstat(fd, &info) < 0 ? errno : S_ISREG(info.st_mode) ? 0 : EEXIST;
  if (err == 0) err = result(ftruncate(fd, 0));
  if (err == 0) err = write_all(fd, step->data.data, step->data.size);
  if (err == 0) err = result(fchmod(fd, step->mode & 07777));
  close_with(fd, 0);
  return close_with(parent, err);
}

/*
 * SAFETY: a path on procfs starts from a directory that is verified to be procfs (without a slot: its root, inode 1), and
 * neither links nor other mounts are crossed, so a fake /proc or a bind over a file is refused (CVE-2019-16884,
 * CVE-2025-52881). The link /proc/self is replaced by what this same procfs says it names.
 */
static int open_on_proc(const struct run *run, uint16_t dir, const char *path) {
  char self[32], joined[4096];
  struct stat info;
  uint64_t resolve = RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV | RESOLVE_IN_ROOT;
  if (dir == NO_SLOT && strncmp(path, "/proc/", 6) != 0) return -EINVAL;
  int base = dir == NO_SLOT ? open_resolved(AT_FDCWD, "/proc", O_PATH | O_DIRECTORY | O_NOFOLLOW, 0, 0) : open_below(run, dir, "", O_PATH, 0);
  if (base < 0) return base;
  int err = is_on(base, MAGIC_PROC) && fstat(base, &info) == 0 && (dir != NO_SLOT || info.st_ino == PROC_ROOT_INODE) ? 0 : EPERM;
  if (dir == NO_SLOT) path += 6;
  if (err == 0 && strncmp(path, "self/", 5) == 0) {
    ssize_t size = readlinkat(base, "self", self, sizeof self);
    if (size <= 0 || size == sizeof self) err = size < 0 ? errno : EPERM;
    else if (snprintf(joined, sizeof joined, "%.*s/%s", (int)size, self, path + 5) >= (int)sizeof joined) err = ENAMETOOLONG;
    else path = joined;
  }
  int fd = err != 0 ? -err : open_resolved(base, path, O_WRONLY, 0, resolve);
  close(base);
  return fd;
}

static bool is_expected(int fd, uint32_t file_system) {
  switch (file_system) {
    case 0: return true;
    case 1: return is_on(fd, MAGIC_PROC);
    case 2: return is_on(fd, MAGIC_SYSFS);
    case 3: return is_on(fd, MAGIC_CGROUP) || is_on(fd, MAGIC_CGROUP2);
    default: return false;
  }
}

int run_write_file(struct run *run, const struct step_write_file *step, struct failure *failure UNUSED) {
  int fd = step->file_system == 1
    ? open_on_proc(run, step->dir, step->path)
    : open_below(run, step->dir, step->path, O_WRONLY | O_NONBLOCK | O_NOCTTY, RESOLVE_NO_SYMLINKS);
  if (fd < 0) return -fd;
  if (!is_expected(fd, step->file_system)) return close_with(fd, EPERM);
  /* O_NONBLOCK was for a FIFO in the file's place; some control files give it a meaning of its own. */
  fcntl(fd, F_SETFL, 0);
  ssize_t written = write(fd, step->data.data, step->data.size);
  return close_with(fd, written < 0 ? errno : written == (ssize_t)step->data.size ? 0 : EIO);
}

int run_make_link(struct run *run, const struct step_make_link *step, struct failure *failure UNUSED) {
  char name[256];
  int parent = open_parent(run, step->dir, step->path, false, name);
  return parent < 0 ? -parent : close_with(parent, result(symlinkat(step->target, parent, name)));
}

int run_make_node(struct run *run, const struct step_make_node *step, struct failure *failure UNUSED) {
  char name[256];
  int parent = open_parent(run, step->dir, step->path, true, name);
  if (parent < 0) return -parent;
  /* SAFETY: mknod never follows or replaces a last component; with the umask set aside the mode is exact at once. */
  mode_t mask = umask(0);
  int err = result(mknodat(parent, name, step->mode, makedev(step->major, step->minor)));
  umask(mask);
  if (err == 0) err = result(fchownat(parent, name, step->uid, step->gid, AT_SYMLINK_NOFOLLOW));
  return close_with(parent, err);
}

int run_change_owner(struct run *run, const struct step_change_owner *step, struct failure *failure UNUSED) {
  int fd = step->path[0] == 0 ? open_below(run, step->dir, "", O_PATH, 0) : open_below(run, step->dir, step->path, O_PATH | O_NOFOLLOW, 0);
  return fd < 0 ? -fd : close_with(fd, result(fchownat(fd, "", step->uid, step->gid, AT_EMPTY_PATH)));
}

static int remove_at(const struct run *run, uint16_t dir, const char *path, int flags) {
  char name[256];
  int parent = open_parent(run, dir, path, false, name);
  return parent < 0 ? -parent : close_with(parent, result(unlinkat(parent, name, flags)));
}

int run_remove_file(struct run *run, const struct step_remove_file *step, struct failure *failure UNUSED) {
  return remove_at(run, step->dir, step->path, 0);
}

int run_remove_directory(struct run *run, const struct step_remove_directory *step, struct failure *failure UNUSED) {
  return remove_at(run, step->dir, step->path, AT_REMOVEDIR);
}
