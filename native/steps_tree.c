/*
 * Steps on whole trees: remove and copy. In: a directory whose content a container may have made and may be changing.
 * Out: kernel calls below its descriptor. No link is followed and removal never leaves the mount, whatever the depth.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/xattr.h>
#include "steps.h"

#define COPY_DEPTH_MAX 512

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

int run_sync_file_system(struct run *run, const struct step_sync_file_system *step, struct failure *failure UNUSED) {
  int fd = open_below(run, step->dir, step->path, O_RDONLY | O_DIRECTORY, 0);
  return fd < 0 ? -fd : close_with(fd, result(syncfs(fd)));
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

/* What a copy may still take. */
struct budget { uint64_t bytes, entries; };

static int copy_entries(int from, int to, int depth, struct budget *budget);

static int spend(struct budget *budget, const struct stat *info) {
  uint64_t bytes = S_ISREG(info->st_mode) ? (uint64_t)info->st_size : 0;
  if (budget->entries == 0 || budget->bytes < bytes) return EDQUOT;
  budget->entries--;
  budget->bytes -= bytes;
  return 0;
}

/* SAFETY: opened without following and verified to be what was seen, so a swap gives an error and no other file. */
static int copy_entry(int from, int to, const char *name, int depth, struct budget *budget) {
  struct stat info, opened;
  if (fstatat(from, name, &info, AT_SYMLINK_NOFOLLOW) < 0) return errno;
  int over = spend(budget, &info);
  if (over != 0) return over;
  if (S_ISLNK(info.st_mode)) return copy_link(from, to, name, &info);
  bool directory = S_ISDIR(info.st_mode);
  if (!directory && !S_ISREG(info.st_mode)) return 0;
  int source = openat(from, name, (directory ? O_DIRECTORY : O_NONBLOCK | O_NOCTTY) | O_RDONLY | O_NOFOLLOW | O_CLOEXEC), target = -1;
  if (source < 0) return errno;
  int err = fstat(source, &opened) < 0 ? errno : opened.st_ino == info.st_ino && opened.st_dev == info.st_dev ? 0 : ESTALE;
  if (err == 0 && directory) err = result(mkdirat(to, name, 0700));
  if (err == 0) target = openat(to, name, directory ? OPEN_DIRECTORY | O_CLOEXEC : O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
  if (err == 0 && target < 0) err = errno;
  if (err == 0) err = directory ? copy_entries(source, target, depth + 1, budget) : copy_content(source, target);
  if (err == 0) err = copy_attributes(source, target, &info);
  close(source);
  return close_with(target, err);
}

static int copy_entries(int from, int to, int depth, struct budget *budget) {
  struct entries entries = {.size = 0};
  const char *name;
  if (depth > COPY_DEPTH_MAX) return ELOOP;
  while ((name = next_entry(from, &entries)) != NULL) {
    int err = copy_entry(from, to, name, depth, budget);
    if (err != 0) return err;
  }
  return errno;
}

int run_copy_tree(struct run *run, const struct step_copy_tree *step, struct failure *failure UNUSED) {
  struct entries entries = {.size = 0};
  struct budget unlimited = {UINT64_MAX, UINT64_MAX};
  int from = open_below(run, step->from_dir, step->from, O_RDONLY | O_DIRECTORY, 0);
  if (from == -ENOENT || from == -ENOTDIR) return 0;
  if (from < 0) return -from;
  int to = open_below(run, step->dir, step->path, O_RDONLY | O_DIRECTORY, 0);
  if (to < 0) return close_with(from, to == -ENOENT || to == -ENOTDIR ? 0 : -to);
  int err = 0;
  if (next_entry(to, &entries) == NULL) err = errno != 0 ? errno : copy_entries(from, to, 0, &unlimited);
  close(to);
  return close_with(from, err);
}

static void describe_overrun(struct failure *failure, const struct step_fill_directory *step) {
  char text[96];
  int size = snprintf(text, sizeof text, "it holds more than %llu bytes or %u entries", (unsigned long long)step->bytes_max, step->entries_max);
  set_detail(failure, text, (size_t)size);
}

int run_fill_directory(struct run *run, const struct step_fill_directory *step, struct failure *failure) {
  struct budget budget = {step->bytes_max, step->entries_max};
  struct entries entries = {.size = 0};
  struct stat info;
  int from = open_below(run, step->from_dir, step->from, O_RDONLY | O_DIRECTORY, 0), to = -1, err = 0;
  if (from == -ENOENT) return 0;
  if (from < 0) return -from;
  /* A link of the image may lead to its root: a copy of that would not be the directory that was meant. */
  if (is_slot_itself(run, step->from_dir, from)) err = EINVAL;
  if (err == 0 && (to = open_below(run, step->dir, step->path, O_RDONLY | O_DIRECTORY, 0)) < 0) err = -to;
  if (err == 0) err = next_entry(to, &entries) != NULL ? ENOTEMPTY : errno;
  if (err == 0) err = copy_entries(from, to, 0, &budget);
  if (err == EDQUOT) describe_overrun(failure, step);
  if (err == 0) err = fstat(from, &info) < 0 ? errno : copy_attributes(from, to, &info);
  close_with(to, 0);
  return close_with(from, err);
}
