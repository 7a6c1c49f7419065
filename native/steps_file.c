/*
 * Steps on files, and the helpers for paths below a slot that the other steps share. In: a slot and a path that may lie
 * in a container's root and be changed while we look. Out: descriptors. A path is resolved by the kernel with the slot as
 * its root, and what was opened is used, never the path again (CVE-2021-30465, CVE-2024-45310).
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include "steps.h"

#define OPEN_RETRIES 32
#define LINKS_MAX 40
#define COPY_DEPTH_MAX 512

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
  struct walk walk = {.resolve = resolve | RESOLVE_NO_MAGICLINKS, .links_left = LINKS_MAX};
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

/* --- trees */

struct entries { uint64_t buffer[1024]; long size, at; };

/* The next name of the directory, NULL at its end or on an error (errno is 0 at the end). "." and ".." are passed over. */
static const char *next_entry(int fd, struct entries *entries) {
  for (;;) {
    if (entries->at >= entries->size) {
      errno = 0;
      entries->at = 0;
      entries->size = syscall(SYS_getdents64, fd, entries->buffer, sizeof entries->buffer);
      if (entries->size <= 0) return NULL;
    }
    const struct dirent *entry = (const void *)((const char *)entries->buffer + entries->at);
    entries->at += entry->d_reclen;
    if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0) return entry->d_name;
  }
}

/* Directories open above the one being emptied: identities alone, so that no depth costs descriptors or stack. */
struct ancestors { struct { dev_t device; ino_t inode; } *items; size_t count, capacity; };

static int push_ancestor(struct ancestors *stack, int fd) {
  struct stat info;
  if (fstat(fd, &info) < 0) return errno;
  if (stack->count == stack->capacity) {
    size_t capacity = stack->capacity == 0 ? 64 : stack->capacity * 2;
    void *grown = realloc(stack->items, capacity * sizeof *stack->items);
    if (grown == NULL) return ENOMEM;
    stack->items = grown;
    stack->capacity = capacity;
  }
  stack->items[stack->count].device = info.st_dev;
  stack->items[stack->count++].inode = info.st_ino;
  return 0;
}

#define OPEN_DIRECTORY (O_RDONLY | O_DIRECTORY | O_NOFOLLOW)

/* Deletes what can be deleted in *fd; a directory that is not empty becomes the new *fd and *entered is set. */
static int empty_or_enter(int *fd, struct ancestors *stack, bool *entered) {
  struct entries entries = {.size = 0};
  const char *name;
  *entered = false;
  if (lseek(*fd, 0, SEEK_SET) < 0) return errno;
  while ((name = next_entry(*fd, &entries)) != NULL) {
    if (unlinkat(*fd, name, 0) == 0 || errno == ENOENT) continue;
    if (errno != EISDIR && errno != EPERM) return errno;
    if (unlinkat(*fd, name, AT_REMOVEDIR) == 0) continue;
    if (errno != ENOTEMPTY && errno != EEXIST) return errno;
    int inner = open_resolved(*fd, name, OPEN_DIRECTORY, 0, RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV);
    int err = inner < 0 ? -inner : push_ancestor(stack, *fd);
    if (err != 0) return close_with(inner, err);
    close(*fd);
    *fd = inner;
    *entered = true;
    return 0;
  }
  return errno;
}

/*
 * SAFETY: goes down without following links or leaving the mount, and up by ".." only into the very directory it came
 * from, so a directory moved away meanwhile ends the walk with ESTALE instead of leading it elsewhere.
 */
static int empty_directory(int fd) {
  struct ancestors stack = {.items = NULL};
  struct stat info;
  bool entered;
  int err;
  while ((err = empty_or_enter(&fd, &stack, &entered)) == 0) {
    if (entered) continue;
    if (stack.count == 0) break;
    int up = open_resolved(fd, "..", OPEN_DIRECTORY, 0, RESOLVE_NO_XDEV);
    close(fd);
    fd = up;
    if (up < 0) err = -up;
    else if (fstat(up, &info) < 0) err = errno;
    else if (stack.count--, info.st_dev != stack.items[stack.count].device || info.st_ino != stack.items[stack.count].inode) err = ESTALE;
    if (err != 0) break;
  }
  free(stack.items);
  return close_with(fd, err);
}

int remove_tree_at(int parent, const char *name) {
  if (unlinkat(parent, name, 0) == 0) return 0;
  if (errno != EISDIR && errno != EPERM) return errno;
  int fd = open_resolved(parent, name, OPEN_DIRECTORY, 0, RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV);
  int err = fd < 0 ? -fd : empty_directory(fd);
  return err != 0 ? err : result(unlinkat(parent, name, AT_REMOVEDIR));
}

int run_remove_tree(struct run *run, const struct step_remove_tree *step, struct failure *failure UNUSED) {
  char name[256];
  int parent = open_parent(run, step->dir, step->path, false, name);
  if (parent == -ENOENT) return 0;
  if (parent < 0) return -parent;
  int err = remove_tree_at(parent, name);
  return close_with(parent, err == ENOENT ? 0 : err);
}

/* Extended attributes that the target's file system refuses are left out, as cp does. */
static int copy_attributes(int from, int to, const struct stat *info) {
  char names[4096], value[65536];
  ssize_t size = flistxattr(from, names, sizeof names);
  if (fchown(to, info->st_uid, info->st_gid) < 0) return errno;
  for (ssize_t at = 0; at < size; at += (ssize_t)strlen(names + at) + 1) {
    ssize_t value_size = fgetxattr(from, names + at, value, sizeof value);
    if (value_size >= 0 && fsetxattr(to, names + at, value, (size_t)value_size, 0) < 0 && errno != ENOTSUP && errno != EPERM) return errno;
  }
  struct timespec times[2] = {info->st_atim, info->st_mtim};
  return fchmod(to, info->st_mode & 07777) < 0 || futimens(to, times) < 0 ? errno : 0;
}

static int copy_link(int from, int to, const char *name, const struct stat *info) {
  char target[4096];
  ssize_t size = readlinkat(from, name, target, sizeof target - 1);
  if (size < 0) return errno;
  target[size] = 0;
  struct timespec times[2] = {info->st_atim, info->st_mtim};
  if (symlinkat(target, to, name) < 0 || fchownat(to, name, info->st_uid, info->st_gid, AT_SYMLINK_NOFOLLOW) < 0) return errno;
  return result(utimensat(to, name, times, AT_SYMLINK_NOFOLLOW));
}

static int copy_content(int from, int to) {
  for (;;) {
    ssize_t sent = sendfile(to, from, NULL, 1 << 20);
    if (sent < 0 && errno == EINTR) continue;
    if (sent <= 0) return sent < 0 ? errno : 0;
  }
}

static int copy_entries(int from, int to, int depth);

/* SAFETY: opened without following and verified to be what was seen, so a swap gives an error and no other file. */
static int copy_entry(int from, int to, const char *name, int depth) {
  struct stat info, opened;
  if (fstatat(from, name, &info, AT_SYMLINK_NOFOLLOW) < 0) return errno;
  if (S_ISLNK(info.st_mode)) return copy_link(from, to, name, &info);
  bool directory = S_ISDIR(info.st_mode);
  if (!directory && !S_ISREG(info.st_mode)) return 0;
  int source = openat(from, name, (directory ? O_DIRECTORY : O_NONBLOCK | O_NOCTTY) | O_RDONLY | O_NOFOLLOW | O_CLOEXEC), target = -1;
  if (source < 0) return errno;
  int err = fstat(source, &opened) < 0 ? errno : opened.st_ino == info.st_ino && opened.st_dev == info.st_dev ? 0 : ESTALE;
  if (err == 0 && directory) err = result(mkdirat(to, name, 0700));
  if (err == 0) target = openat(to, name, directory ? OPEN_DIRECTORY | O_CLOEXEC : O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
  if (err == 0 && target < 0) err = errno;
  if (err == 0) err = directory ? copy_entries(source, target, depth + 1) : copy_content(source, target);
  if (err == 0) err = copy_attributes(source, target, &info);
  close(source);
  return close_with(target, err);
}

static int copy_entries(int from, int to, int depth) {
  struct entries entries = {.size = 0};
  const char *name;
  if (depth > COPY_DEPTH_MAX) return ELOOP;
  while ((name = next_entry(from, &entries)) != NULL) {
    int err = copy_entry(from, to, name, depth);
    if (err != 0) return err;
  }
  return errno;
}

int run_copy_tree(struct run *run, const struct step_copy_tree *step, struct failure *failure UNUSED) {
  struct entries entries = {.size = 0};
  int from = open_below(run, step->from_dir, step->from, O_RDONLY | O_DIRECTORY, 0);
  if (from == -ENOENT || from == -ENOTDIR) return 0;
  if (from < 0) return -from;
  int to = open_below(run, step->dir, step->path, O_RDONLY | O_DIRECTORY, 0);
  if (to < 0) return close_with(from, to == -ENOENT || to == -ENOTDIR ? 0 : -to);
  int err = 0;
  if (next_entry(to, &entries) == NULL) err = errno != 0 ? errno : copy_entries(from, to, 0);
  close(to);
  return close_with(from, err);
}
