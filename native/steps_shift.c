/*
 * A copy of a layer with other owners, for kernels and file systems that cannot map ids at the mount. In: a layer's directory,
 * which a stranger's archive filled and nobody changes, and how ids are mapped. Out: the same tree in an empty directory, owned
 * by the mapped ids. No link is followed.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/xattr.h>
#include "steps.h"

#define DEPTH_MAX 512
#define XATTR_BYTES_MAX 65536
#define LINKS_SIZE_MIN 1024u
#define OVERFLOW_ID 65534u
#define OPEN_DIRECTORY (O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)

/* A file with several names, and the first of them below the target. */
struct known { ino_t inode; char *path; };

struct shift {
  const struct u32s *uids, *gids; /* triples: first id inside, first id outside, count */
  int root;                       /* of the target */
  dev_t device;
  struct known *known; /* open addressing; capacity is a power of two, a free place has no path */
  size_t known_count, known_capacity, path_size;
  char path[PATH_MAX]; /* of the entry in work, for links to it */
  char names[XATTR_BYTES_MAX], value[XATTR_BYTES_MAX];
};

/* --- ids */

/* Ids without a mapping become the kernel's id for "none of yours"; *mapped says which. */
static uint32_t map_id(const struct u32s *triples, uint32_t id, bool *mapped) {
  for (uint32_t i = 0; i + 2 < triples->count; i += 3) {
    if (id >= triples->items[i] && id - triples->items[i] < triples->items[i + 2]) return triples->items[i + 1] + (id - triples->items[i]);
  }
  *mapped = false;
  return OVERFLOW_ID;
}

static bool check_triples(const struct u32s *triples) {
  if (triples->count == 0 || triples->count % 3 != 0) return false;
  for (uint32_t i = 0; i < triples->count; i += 3) {
    uint32_t count = triples->items[i + 2];
    if (count == 0 || count - 1 > UINT32_MAX - 1 - triples->items[i] || count - 1 > UINT32_MAX - 1 - triples->items[i + 1]) return false;
  }
  return true;
}

static uint32_t get_u32(const char *at) {
  uint32_t value;
  memcpy(&value, at, sizeof value);
  return value;
}

/* linux/posix_acl_xattr.h: u32 version 2, then per entry u16 tag, u16 permissions, u32 id; 2 names a user, 8 a group. */
static void map_acl(const struct shift *s, char *value, size_t size) {
  bool mapped;
  for (size_t at = 4; at + 8 <= size; at += 8) {
    uint32_t tag = get_u32(value + at) & 0xffff, id = get_u32(value + at + 4);
    if (tag != 2 && tag != 8) continue;
    id = map_id(tag == 2 ? s->uids : s->gids, id, &mapped);
    memcpy(value + at + 4, &id, sizeof id);
  }
}

/* linux/capability.h, struct vfs_ns_cap_data: revision 3 says in its last word whose root may gain the capabilities. */
static size_t map_capability(const struct shift *s, char *value, size_t size) {
  bool mapped = true;
  uint32_t magic = size < 4 ? 0 : get_u32(value), root;
  if (!(magic >> 24 == 2 && size == 20) && !(magic >> 24 == 3 && size == 24)) return size;
  root = map_id(s->uids, magic >> 24 == 3 ? get_u32(value + 20) : 0, &mapped);
  magic = (magic & 0xffffff) | 3u << 24;
  memcpy(value, &magic, sizeof magic);
  memcpy(value + 20, &root, sizeof root);
  return mapped ? 24 : 0; /* whose root nobody inside can be gives no capability to anyone */
}

/* --- attributes. The order matters: a change of owner clears set-user-id bits and file capabilities. */

/* One attribute, of two descriptors or of the name in two directories. */
static int copy_xattr(struct shift *s, const char *key, int from, int to, const char *name) {
  if (name != NULL && fchdir(from) < 0) return errno;
  ssize_t got = name == NULL ? fgetxattr(from, key, s->value, sizeof s->value) : lgetxattr(name, key, s->value, sizeof s->value);
  if (got < 0) return errno;
  size_t size = (size_t)got;
  if (strcmp(key, "system.posix_acl_access") == 0 || strcmp(key, "system.posix_acl_default") == 0) map_acl(s, s->value, size);
  if (strcmp(key, "security.capability") == 0 && (size = map_capability(s, s->value, size)) == 0) return 0;
  if (name != NULL && fchdir(to) < 0) return errno;
  return result(name == NULL ? fsetxattr(to, key, s->value, size, 0) : lsetxattr(name, key, s->value, size, 0));
}

static int copy_xattrs(struct shift *s, int from, int to, const char *name) {
  if (name != NULL && fchdir(from) < 0) return errno;
  ssize_t size = name == NULL ? flistxattr(from, s->names, sizeof s->names) : llistxattr(name, s->names, sizeof s->names);
  if (size < 0) return errno == ENOTSUP ? 0 : errno;
  for (ssize_t at = 0; at < size; at += (ssize_t)strlen(s->names + at) + 1) {
    int err = copy_xattr(s, s->names + at, from, to, name);
    if (err != 0) return err;
  }
  return 0;
}

/* The owner inside the mapping. What belongs to an id outside of it must not act with the rights of whoever has the overflow id. */
static mode_t map_owner(const struct shift *s, const struct stat *info, uint32_t *uid, uint32_t *gid) {
  bool mapped = true;
  *uid = map_id(s->uids, info->st_uid, &mapped);
  *gid = map_id(s->gids, info->st_gid, &mapped);
  return info->st_mode & (mapped ? 07777 : 01777);
}

static int copy_open_attributes(struct shift *s, int from, int to, const struct stat *info) {
  uint32_t uid, gid;
  mode_t mode = map_owner(s, info, &uid, &gid);
  struct timespec times[2] = {info->st_mtim, info->st_mtim};
  if (fchown(to, uid, gid) < 0 || fchmod(to, mode) < 0) return errno;
  int err = copy_xattrs(s, from, to, NULL);
  return err != 0 ? err : result(futimens(to, times));
}

/* Of links and nodes, which cannot be opened. SAFETY: the last component is what we made; nobody else writes here. */
static int copy_named_attributes(struct shift *s, int from, int to, const char *name, const struct stat *info) {
  uint32_t uid, gid;
  mode_t mode = map_owner(s, info, &uid, &gid);
  struct timespec times[2] = {info->st_mtim, info->st_mtim};
  if (fchownat(to, name, uid, gid, AT_SYMLINK_NOFOLLOW) < 0) return errno;
  if (!S_ISLNK(info->st_mode) && syscall(SYS_fchmodat, to, name, mode) < 0) return errno;
  int err = copy_xattrs(s, from, to, name);
  return err != 0 ? err : result(utimensat(to, name, times, AT_SYMLINK_NOFOLLOW));
}

/* --- hard links */

static struct known *place_of(struct known *known, size_t capacity, ino_t inode) {
  size_t at = (size_t)((uint64_t)inode * 0x9e3779b97f4a7c15u >> 20) & (capacity - 1);
  while (known[at].path != NULL && known[at].inode != inode) at = (at + 1) & (capacity - 1);
  return &known[at];
}

static int grow_known(struct shift *s) {
  size_t capacity = s->known_capacity == 0 ? LINKS_SIZE_MIN : s->known_capacity * 2;
  struct known *grown = calloc(capacity, sizeof *grown);
  if (grown == NULL) return ENOMEM;
  for (size_t i = 0; i < s->known_capacity; i++) {
    if (s->known[i].path != NULL) *place_of(grown, capacity, s->known[i].inode) = s->known[i];
  }
  free(s->known);
  s->known = grown;
  s->known_capacity = capacity;
  return 0;
}

/* True in *linked: another name of a file that is there already. */
static int link_known(struct shift *s, int to, const char *name, const struct stat *info, bool *linked) {
  *linked = false;
  if (info->st_nlink < 2 || S_ISDIR(info->st_mode)) return 0;
  int err = s->known_count * 2 >= s->known_capacity ? grow_known(s) : 0;
  if (err != 0) return err;
  struct known *place = place_of(s->known, s->known_capacity, info->st_ino);
  if (place->path != NULL) {
    *linked = true;
    return result(linkat(s->root, place->path, to, name, 0));
  }
  *place = (struct known){info->st_ino, strdup(s->path)};
  s->known_count++;
  return place->path == NULL ? ENOMEM : 0;
}

static void free_known(struct shift *s) {
  for (size_t i = 0; i < s->known_capacity; i++) free(s->known[i].path);
  free(s->known);
}

/* --- entries */

/* Within the file system where it can (shared blocks cost nothing), through memory otherwise. */
static int copy_range(int from, int to, off_t at, off_t end) {
  bool by_kernel = true;
  while (at < end) {
    off_t in = at, out = at;
    size_t size = (size_t)(end - at) < (size_t)1 << 30 ? (size_t)(end - at) : (size_t)1 << 30;
    ssize_t done = by_kernel ? syscall(SYS_copy_file_range, from, &in, to, &out, size, 0) : -1;
    if (done <= 0) {
      by_kernel = false;
      done = lseek(to, at, SEEK_SET) < 0 ? -1 : sendfile(to, from, &in, size);
    }
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) return done < 0 ? errno : EIO;
    at += done;
  }
  return 0;
}

/* Holes stay holes. A file system that knows none says that all is data. */
static int copy_content(int from, int to, off_t size) {
  for (off_t at = 0; at < size;) {
    off_t data = lseek(from, at, SEEK_DATA), hole;
    if (data < 0 && errno == ENXIO) break;
    if (data < 0) data = at;
    if ((hole = lseek(from, data, SEEK_HOLE)) < 0 || hole > size) hole = size;
    int err = copy_range(from, to, data, hole);
    if (err != 0) return err;
    at = hole;
  }
  return result(ftruncate(to, size));
}

static int copy_link(struct shift *s, int from, int to, const char *name, const struct stat *info) {
  char target[PATH_MAX];
  ssize_t size = readlinkat(from, name, target, sizeof target - 1);
  if (size < 0) return errno;
  target[size] = 0;
  return symlinkat(target, to, name) < 0 ? errno : copy_named_attributes(s, from, to, name, info);
}

static int copy_directory(struct shift *s, int from, int to, int depth);

/* SAFETY: opened without following and verified to be what was seen. */
static int copy_opened(struct shift *s, int from, int to, const char *name, const struct stat *info, int depth) {
  struct stat opened;
  bool directory = S_ISDIR(info->st_mode);
  int source = openat(from, name, directory ? OPEN_DIRECTORY : O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC), target = -1;
  if (source < 0) return errno;
  int err = fstat(source, &opened) < 0 ? errno : opened.st_ino == info->st_ino && opened.st_dev == s->device ? 0 : ESTALE;
  if (err == 0 && directory) err = result(mkdirat(to, name, 0700));
  if (err == 0) target = openat(to, name, directory ? OPEN_DIRECTORY : O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
  if (err == 0 && target < 0) err = errno;
  if (err == 0) err = directory ? copy_directory(s, source, target, depth + 1) : copy_content(source, target, info->st_size);
  if (err == 0) err = copy_open_attributes(s, source, target, info);
  close(source);
  return close_with(target, err);
}

static int copy_node(struct shift *s, int from, int to, const char *name, const struct stat *info) {
  if (S_ISSOCK(info->st_mode)) return 0; /* no archive brings one */
  if (mknodat(to, name, info->st_mode & ~07777u, info->st_rdev) < 0) return errno;
  return copy_named_attributes(s, from, to, name, info);
}

static int copy_entry(struct shift *s, int from, int to, const char *name, const struct stat *info, int depth) {
  if (S_ISLNK(info->st_mode)) return copy_link(s, from, to, name, info);
  if (S_ISDIR(info->st_mode) || S_ISREG(info->st_mode)) return copy_opened(s, from, to, name, info, depth);
  return copy_node(s, from, to, name, info);
}

/* With the entry's path in s->path; afterwards that of its directory again. */
static int copy_named(struct shift *s, int from, int to, const char *name, int depth) {
  size_t before = s->path_size, length = strlen(name);
  if (before + length + 2 > sizeof s->path) return ENAMETOOLONG;
  memcpy(s->path + before, name, length + 1);
  s->path_size += length;
  struct stat info;
  bool linked;
  if (fstatat(from, name, &info, AT_SYMLINK_NOFOLLOW) < 0) return errno;
  int err = link_known(s, to, name, &info, &linked);
  if (err == 0 && !linked) {
    if (S_ISDIR(info.st_mode)) memcpy(s->path + s->path_size++, "/", 2);
    err = copy_entry(s, from, to, name, &info, depth);
  }
  if (err == 0) s->path[s->path_size = before] = 0; /* else it says where */
  return err;
}

static int copy_directory(struct shift *s, int from, int to, int depth) {
  uint64_t buffer[1024];
  long size;
  if (depth > DEPTH_MAX) return ELOOP;
  while ((size = syscall(SYS_getdents64, from, buffer, sizeof buffer)) > 0) {
    for (long at = 0; at < size;) {
      const struct dirent *entry = (const void *)((const char *)buffer + at);
      at += entry->d_reclen;
      if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
      int err = copy_named(s, from, to, entry->d_name, depth);
      if (err != 0) return err;
    }
  }
  return result(size);
}

int run_shift_tree(struct run *run, const struct step_shift_tree *step, struct failure *failure) {
  struct stat info;
  if (!check_triples(&step->uids) || !check_triples(&step->gids)) return EINVAL;
  struct shift *s = calloc(1, sizeof *s);
  if (s == NULL) return ENOMEM;
  s->uids = &step->uids;
  s->gids = &step->gids;
  s->root = -1;
  int from = open_below(run, step->from_dir, step->from, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0), err = error_of(from);
  if (err == 0) err = error_of(s->root = open_below(run, step->dir, step->path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0));
  if (err == 0) err = result(fstat(from, &info));
  if (err == 0) s->device = info.st_dev;
  if (err == 0) err = copy_directory(s, from, s->root, 0);
  if (err == 0) err = copy_open_attributes(s, from, s->root, &info);
  if (err == 0) err = result(syncfs(s->root));
  if (err != 0) set_detail(failure, s->path, s->path_size);
  close_with(from, 0);
  close_with(s->root, 0);
  free_known(s);
  free(s);
  return err;
}
