/*
 * Attributes of a layer's entries: owner, mode, extended attributes, times. In: what a record says, checked by layer.c, and the entry itself. Out: kernel calls
 * on it. The order matters: a change of owner clears set-user-id bits and file capabilities.
 */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>
#include "layer.h"

#define TIMES_BYTES_MAX ((size_t)256 << 20)

struct timespec time_of(int64_t ns) {
  int64_t seconds = ns / 1000000000, rest = ns % 1000000000;
  return (struct timespec){.tv_sec = rest < 0 ? seconds - 1 : seconds, .tv_nsec = rest < 0 ? rest + 1000000000 : rest};
}

/* fd, or where it is -1 the name in the entry's directory. A file system without this kind of attribute does not get it. */
static int set_xattrs(const struct unpack *u, int fd, const char *name, const struct attributes *entry) {
  struct reader pairs = entry->xattrs;
  if (fd < 0 && entry->xattr_count > 0 && fchdir(u->parent) < 0) return errno;
  for (uint32_t i = 0; i < entry->xattr_count; i++) {
    const char *key = read_text(&pairs);
    struct bytes value = read_bytes(&pairs);
    int set = fd >= 0 ? fsetxattr(fd, key, value.data, value.size, 0) : lsetxattr(name, key, value.data, value.size, 0);
    if (set < 0 && errno != ENOTSUP) return errno;
  }
  return 0;
}

/* What is as it should be already is left alone: a change costs more than a look, and most files are root's with the mode they were made with. */
int set_open_attributes(const struct unpack *u, int fd, const struct attributes *entry) {
  struct stat info;
  if (fstat(fd, &info) < 0) return errno;
  bool owned = info.st_uid == entry->uid && info.st_gid == entry->gid;
  if (!owned && fchown(fd, entry->uid, entry->gid) < 0) return errno;
  if ((!owned || (info.st_mode & 07777) != entry->mode) && fchmod(fd, entry->mode) < 0) return errno;
  return set_xattrs(u, fd, NULL, entry);
}

/* Of links and nodes, which cannot be opened. SAFETY: the last component is what we made; nobody else writes here. */
int set_named_attributes(const struct unpack *u, const char *name, const struct attributes *entry, bool link) {
  struct timespec times[2] = {time_of(entry->mtime_ns), time_of(entry->mtime_ns)};
  struct stat info;
  if (fstatat(u->parent, name, &info, AT_SYMLINK_NOFOLLOW) < 0) return errno;
  bool owned = info.st_uid == entry->uid && info.st_gid == entry->gid;
  if (!owned && fchownat(u->parent, name, entry->uid, entry->gid, AT_SYMLINK_NOFOLLOW) < 0) return errno;
  if (!link && syscall(SYS_fchmodat, u->parent, name, entry->mode) < 0) return errno;
  int err = set_xattrs(u, -1, name, entry);
  return err != 0 ? err : result(utimensat(u->parent, name, times, AT_SYMLINK_NOFOLLOW));
}

/* A directory named again gets the new record's attributes alone; its opaque mark is no attribute of the tar. */
int clear_xattrs(const struct unpack *u, int fd) {
  char names[65536];
  ssize_t size = flistxattr(fd, names, sizeof names);
  if (size < 0) return errno == ENOTSUP ? 0 : errno;
  for (ssize_t at = 0; at < size; at += (ssize_t)strlen(names + at) + 1) {
    if (strcmp(names + at, opaque_name(u)) != 0 && fremovexattr(fd, names + at) < 0 && errno != ENODATA && errno != ENOTSUP) return errno;
  }
  return 0;
}

int remember_time(struct unpack *u, const struct attributes *entry) {
  size_t size = strlen(entry->path) + 1, needed = u->times_size + sizeof entry->mtime_ns + size;
  if (needed > TIMES_BYTES_MAX) return E2BIG;
  if (needed > u->times_capacity) {
    size_t capacity = needed * 2;
    char *grown = realloc(u->times, capacity);
    if (grown == NULL) return ENOMEM;
    u->times = grown;
    u->times_capacity = capacity;
  }
  memcpy(u->times + u->times_size, &entry->mtime_ns, sizeof entry->mtime_ns);
  memcpy(u->times + u->times_size + sizeof entry->mtime_ns, entry->path, size);
  u->times_size = needed;
  return 0;
}

/* In the order of the records, so that of two records for one directory the later wins. What is no directory any more is passed over. */
int set_times(struct unpack *u) {
  for (size_t at = 0; at < u->times_size;) {
    int64_t mtime_ns;
    memcpy(&mtime_ns, u->times + at, sizeof mtime_ns);
    const char *path = u->times + at + sizeof mtime_ns;
    struct timespec times[2] = {time_of(mtime_ns), time_of(mtime_ns)};
    int fd = open_resolved(u->root, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0, CONFINED);
    at += sizeof mtime_ns + strlen(path) + 1;
    if (fd == -ENOENT || fd == -ENOTDIR || fd == -ELOOP) continue;
    int err = fd < 0 ? -fd : result(futimens(fd, times));
    close_with(fd, 0);
    if (err != 0) return err;
  }
  return 0;
}
