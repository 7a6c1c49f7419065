/*
 * What a layer's directory holds, told by the same confined child that writes one. In: the tree, written by us from a stranger's archive and perhaps
 * damaged since. Out: a frame per entry, in no order, and the content of each regular file after its entry, once per inode. Nothing is judged here.
 */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include "frame.h"
#include "layer.h"

#define DEPTH_MAX 1024
#define NAMES_BYTES_MAX (64u << 10)
#define ENTRIES_BYTES ((size_t)32 << 10)
#define CONFINED (RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV)

/* Inodes with several names whose content was sent; open addressing, 0 is free. */
struct inodes {
  uint64_t *slots;
  size_t count, capacity;
};

struct inspection {
  struct unpack *u;
  struct inodes seen;
  struct buffer out;
  char path[PATH_MAX];
};

struct kernel_entry {
  uint64_t inode;
  int64_t offset;
  uint16_t size;
  uint8_t type;
  char name[];
};

static int send_all(const struct unpack *u, const void *data, size_t size) {
  for (const uint8_t *at = data; size > 0;) {
    ssize_t sent = send(u->connection, at, size, MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent <= 0) return sent < 0 ? errno : EPIPE;
    at += sent;
    size -= (size_t)sent;
  }
  return 0;
}

static size_t slot_of(const struct inodes *set, uint64_t inode) {
  size_t at = (size_t)(inode * 0x9e3779b97f4a7c15u) & (set->capacity - 1);
  while (set->slots[at] != 0 && set->slots[at] != inode) at = (at + 1) & (set->capacity - 1);
  return at;
}

/* 1 where the inode is new, 0 where it is known, or -errno. */
static int remember(struct inodes *set, uint64_t inode) {
  if (set->count * 2 >= set->capacity) {
    struct inodes larger = {.capacity = set->capacity == 0 ? 1024 : set->capacity * 2};
    larger.slots = calloc(larger.capacity, sizeof *larger.slots);
    if (larger.slots == NULL) return -ENOMEM;
    for (size_t i = 0; i < set->capacity; i++)
      if (set->slots[i] != 0) larger.slots[slot_of(&larger, set->slots[i])] = set->slots[i];
    larger.count = set->count;
    free(set->slots);
    *set = larger;
  }
  size_t at = slot_of(set, inode);
  if (set->slots[at] != 0) return 0;
  set->slots[at] = inode;
  set->count++;
  return 1;
}

/* Names and values of all extended attributes; the working directory is the entry's. */
static int put_xattrs(struct inspection *x, const char *name) {
  static char names[NAMES_BYTES_MAX], value[NAMES_BYTES_MAX];
  uint32_t count = 0;
  ssize_t size = llistxattr(name, names, sizeof names);
  if (size < 0 && errno != ENOTSUP) return errno;
  for (ssize_t at = 0; at < size; at += (ssize_t)strlen(names + at) + 1) count++;
  put_u32(&x->out, count);
  for (ssize_t at = 0; at < size; at += (ssize_t)strlen(names + at) + 1) {
    ssize_t length = lgetxattr(name, names + at, value, sizeof value);
    if (length < 0) return errno;
    put_text(&x->out, names + at);
    put_bytes(&x->out, value, (size_t)length);
  }
  return 0;
}

static int send_entry(struct inspection *x, int parent, const char *name, const struct stat *info) {
  char target[PATH_MAX] = "";
  ssize_t length = S_ISLNK(info->st_mode) ? readlinkat(parent, name, target, sizeof target - 1) : 0;
  if (length < 0) return errno;
  target[length] = 0;
  size_t begin = frame_begin(&x->out, FRAME_LAYER_ENTRY, x->u->request_id);
  put_text(&x->out, x->path);
  put_u32(&x->out, info->st_mode);
  put_u32(&x->out, info->st_uid);
  put_u32(&x->out, info->st_gid);
  put_i64(&x->out, (int64_t)info->st_mtim.tv_sec * 1000000000 + info->st_mtim.tv_nsec);
  put_i64(&x->out, info->st_size);
  put_u32(&x->out, major(info->st_rdev));
  put_u32(&x->out, minor(info->st_rdev));
  put_i64(&x->out, (int64_t)info->st_ino);
  put_text(&x->out, target);
  int err = fchdir(parent) < 0 ? errno : put_xattrs(x, name);
  frame_end(&x->out, begin);
  if (err == 0 && x->out.failed) err = ENOMEM;
  if (err == 0) err = send_all(x->u, x->out.data + x->out.start, buffer_size(&x->out));
  buffer_consume(&x->out, buffer_size(&x->out));
  x->u->entries++;
  return err;
}

/* The file's content in frames; its last one is empty, and says that the file was read to its end. */
static int send_content(struct inspection *x, int file) {
  struct unpack *u = x->u;
  for (;;) {
    ssize_t got = read(file, u->data + FRAME_HEADER_SIZE, BODY_BYTES_MAX - FRAME_HEADER_SIZE);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return errno;
    const uint32_t words[3] = {(uint32_t)got, FRAME_LAYER_CONTENT, u->request_id};
    for (int i = 0; i < FRAME_HEADER_SIZE; i++) u->data[i] = (uint8_t)(words[i / 4] >> (8 * (i % 4)));
    int err = send_all(u, u->data, (size_t)got + FRAME_HEADER_SIZE);
    if (err != 0 || got == 0) return err;
  }
}

static int inspect_directory(struct inspection *x, int directory, size_t length, int depth);

static int inspect_entry(struct inspection *x, int parent, const char *name, size_t length, int depth) {
  struct stat info;
  size_t size = strlen(name), slash = length > 0;
  if (length + slash + size >= sizeof x->path) return ENAMETOOLONG;
  if (slash) x->path[length] = '/';
  memcpy(x->path + length + slash, name, size + 1);
  if (fstatat(parent, name, &info, AT_SYMLINK_NOFOLLOW) < 0) return errno;
  int err = send_entry(x, parent, name, &info);
  if (err != 0 || (!S_ISREG(info.st_mode) && !S_ISDIR(info.st_mode))) return err;
  if (S_ISREG(info.st_mode) && info.st_nlink > 1) {
    int fresh = remember(&x->seen, info.st_ino);
    if (fresh <= 0) return -fresh;
  }
  /* SAFETY: what is opened is what was looked at, a directory or a regular file: a FIFO would block, a device act. */
  int flags = (S_ISDIR(info.st_mode) ? O_DIRECTORY : 0) | O_RDONLY | O_NOATIME | O_NONBLOCK;
  int fd = open_resolved(parent, name, flags, 0, CONFINED);
  if (fd < 0) return -fd;
  struct stat opened;
  if (fstat(fd, &opened) < 0) err = errno;
  else if (opened.st_ino != info.st_ino || (opened.st_mode & S_IFMT) != (info.st_mode & S_IFMT)) err = ESTALE;
  if (err == 0) err = S_ISDIR(info.st_mode) ? inspect_directory(x, fd, length + slash + size, depth + 1) : send_content(x, fd);
  return close_with(fd, err);
}

static int inspect_directory(struct inspection *x, int directory, size_t length, int depth) {
  if (depth > DEPTH_MAX) return ELOOP;
  char *entries = malloc(ENTRIES_BYTES);
  if (entries == NULL) return ENOMEM;
  int err = 0;
  while (err == 0) {
    long got = syscall(SYS_getdents64, directory, entries, ENTRIES_BYTES);
    if (got <= 0) {
      err = got < 0 ? errno : 0;
      break;
    }
    for (long at = 0; err == 0 && at < got;) {
      const struct kernel_entry *entry = (const struct kernel_entry *)(entries + at);
      at += entry->size;
      if (strcmp(entry->name, ".") != 0 && strcmp(entry->name, "..") != 0) err = inspect_entry(x, directory, entry->name, length, depth);
    }
  }
  free(entries);
  /* On failure the path is that of the entry in work, for the answer. */
  if (err == 0) x->path[length] = 0;
  return err;
}

int inspect_layer(struct unpack *u) {
  static struct inspection x;
  x.u = u;
  int err = inspect_directory(&x, u->root, 0, 0);
  memcpy(u->path, x.path, sizeof u->path);
  return err;
}
