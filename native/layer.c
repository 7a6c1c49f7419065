/*
 * Layer records (src/plan/layer.ts) applied below one directory. In: record bodies, hostile. Out: entries. Paths are checked,
 * resolved beneath the directory without links, and their last component is never followed.
 */
#define _GNU_SOURCE
#include <string.h>
#include <sys/sysmacros.h>
#include "layer.h"

#define HOLE_BYTES 4096u
#define EARLY_WRITE_BYTES ((uint64_t)1 << 20)

/* Relative, no empty, "." or ".." component, nothing longer than the kernel takes. */
static bool is_plain_path(const char *path) {
  size_t size = strlen(path);
  if (size == 0 || size >= PATH_MAX) return false;
  for (const char *at = path, *end;; at = end + 1) {
    end = at + strcspn(at, "/");
    size_t part = (size_t)(end - at);
    if (part == 0 || part > NAME_MAX || (part == 1 && at[0] == '.') || (part == 2 && at[0] == '.' && at[1] == '.')) return false;
    if (*end == 0) return true;
  }
}

static int read_path(struct unpack *u, struct reader *in, const char **path) {
  *path = read_text(in);
  if (in->bad) return EPROTO;
  size_t size = strnlen(*path, sizeof u->path - 1);
  memcpy(u->path, *path, size);
  u->path[size] = 0;
  return is_plain_path(*path) ? 0 : EINVAL;
}

/* SAFETY: attributes that steer an overlay are ours alone; a layer that brings them could redirect to another one's files. */
static bool is_reserved(const char *name) { return strncmp(name, "trusted.overlay.", 16) == 0 || strncmp(name, "user.overlay.", 13) == 0; }

/* All but the path. */
static int read_fields(struct reader *in, struct attributes *entry) {
  int err = 0;
  entry->mode = read_u32(in);
  entry->uid = read_u32(in);
  entry->gid = read_u32(in);
  entry->mtime_ns = (int64_t)read_u64(in);
  entry->xattr_count = read_u32(in);
  entry->xattrs = *in;
  for (uint32_t i = 0; !in->bad && i < entry->xattr_count; i++) {
    if (is_reserved(read_text(in)) && err == 0) err = EPERM;
    read_bytes(in);
  }
  if (in->bad) return EPROTO;
  return err != 0 ? err : entry->mode > 07777 || entry->uid == UINT32_MAX || entry->gid == UINT32_MAX ? EINVAL : 0;
}

static int read_attributes(struct unpack *u, struct reader *in, struct attributes *entry) {
  int err = read_path(u, in, &entry->path), fields = read_fields(in, entry);
  return in->bad || err == 0 ? fields : err;
}

/* --- places */

static const char *name_of(const char *path) {
  const char *slash = strrchr(path, '/');
  return slash == NULL ? path : slash + 1;
}

static void forget_parent(struct unpack *u) {
  close_with(u->parent, 0);
  u->parent = -1;
}

/* Makes the missing directories of a plain path one by one, each below the descriptor of the one before. */
static int make_directories(const struct unpack *u, const char *path) {
  char name[NAME_MAX + 1];
  int at = open_resolved(u->root, ".", O_PATH | O_DIRECTORY, 0, CONFINED);
  while (at >= 0 && *path != 0) {
    size_t size = strcspn(path, "/");
    memcpy(name, path, size);
    name[size] = 0;
    int err = mkdirat(at, name, 0755) < 0 && errno != EEXIST ? errno : 0;
    int next = err != 0 ? -err : open_resolved(at, name, O_PATH | O_DIRECTORY, 0, CONFINED);
    close(at);
    at = next;
    path += size + (path[size] == '/');
  }
  return at;
}

/*
 * The directory that an entry goes into, kept for the next entry. SAFETY: resolved beneath the layer without any link, so
 * a link that the layer itself made as a parent is an error (CVE-2021-32760, CVE-2025-47290).
 */
static int parent_of(struct unpack *u, const char *path) {
  char directory[PATH_MAX];
  size_t size = (size_t)(name_of(path) - path);
  if (size > 0) size--;
  memcpy(directory, path, size);
  directory[size] = 0;
  if (u->parent >= 0 && strcmp(directory, u->parent_path) == 0) return 0;
  forget_parent(u);
  int fd = open_resolved(u->root, size == 0 ? "." : directory, O_PATH | O_DIRECTORY, 0, CONFINED);
  if (fd == -ENOENT) fd = make_directories(u, directory);
  if (fd < 0) return -fd;
  u->parent = fd;
  memcpy(u->parent_path, directory, size + 1);
  return 0;
}

enum found { FOUND_NOTHING, FOUND_DIRECTORY, FOUND_WHITEOUT, FOUND_OTHER };
static enum found look(const struct unpack *u, const char *name) {
  struct stat info;
  if (fstatat(u->parent, name, &info, AT_SYMLINK_NOFOLLOW) < 0) return FOUND_NOTHING;
  if (S_ISDIR(info.st_mode)) return FOUND_DIRECTORY;
  if (u->style == OVERLAY_USER_FILES && S_ISREG(info.st_mode) && info.st_size == 0)
    return is_whiteout_file(u, name) ? FOUND_WHITEOUT : FOUND_OTHER;
  return S_ISCHR(info.st_mode) && info.st_rdev == 0 ? FOUND_WHITEOUT : FOUND_OTHER;
}

static int remove_existing(struct unpack *u, const char *name) {
  int err = remove_tree_at(u->parent, name);
  return err == ENOENT ? 0 : err;
}

/* Goes to the entry's directory and clears its place. */
static int make_place(struct unpack *u, const char *path) {
  int err = parent_of(u, path);
  return err != 0 ? err : remove_existing(u, name_of(path));
}

/* --- records */

static int open_directory(const struct unpack *u, const char *name) {
  return open_resolved(u->parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0, CONFINED);
}

/* Makes the directory where there is none; `replaces` says that it covers a whiteout, so that it must hide what is below. */
static int make_directory(struct unpack *u, const char *path, bool *replaces) {
  int err = parent_of(u, path);
  if (err != 0) return err;
  enum found found = look(u, name_of(path));
  *replaces = found == FOUND_WHITEOUT;
  if (found == FOUND_DIRECTORY) return 0;
  if (found != FOUND_NOTHING) err = remove_existing(u, name_of(path));
  return err != 0 ? err : result(mkdirat(u->parent, name_of(path), 0755));
}

static int unpack_directory(struct unpack *u, struct reader *in) {
  struct attributes entry;
  bool opaque = false;
  int err = read_attributes(u, in, &entry);
  if (err != 0 || !reader_done(in)) return err != 0 ? err : EPROTO;
  err = make_directory(u, entry.path, &opaque);
  if (err != 0) return err;
  int fd = open_directory(u, name_of(entry.path));
  if (fd < 0) return -fd;
  err = clear_xattrs(u, fd);
  if (err == 0) err = set_open_attributes(u, fd, &entry);
  if (err == 0 && opaque) err = mark_opaque(u, fd);
  if (err == 0) err = remember_time(u, &entry);
  return close_with(fd, err);
}

/* No name is resolved: the root has been open since the child was confined to it. */
static int unpack_root(struct unpack *u, struct reader *in) {
  struct attributes entry = {.path = "."};
  u->path[0] = 0;
  int err = read_fields(in, &entry);
  if (err != 0 || !reader_done(in)) return err != 0 ? err : EPROTO;
  err = clear_xattrs(u, u->root);
  if (err == 0) err = set_open_attributes(u, u->root, &entry);
  return err != 0 ? err : remember_time(u, &entry);
}

static int unpack_opaque(struct unpack *u, struct reader *in) {
  const char *path;
  bool replaces;
  int err = read_path(u, in, &path);
  if (err != 0 || !reader_done(in)) return err != 0 ? err : EPROTO;
  err = parent_of(u, path);
  if (err == 0 && look(u, name_of(path)) == FOUND_OTHER) err = ENOTDIR;
  if (err == 0) err = make_directory(u, path, &replaces);
  int fd = err != 0 ? -err : open_directory(u, name_of(path));
  return fd < 0 ? -fd : close_with(fd, mark_opaque(u, fd));
}

/*
 * A whiteout speaks of the layers below only (image-spec, layer.md), so an entry of this layer stays; a directory
 * of the same name hides by being opaque.
 */
static int unpack_whiteout(struct unpack *u, struct reader *in) {
  const char *path;
  int err = read_path(u, in, &path);
  if (err != 0 || !reader_done(in)) return err != 0 ? err : EPROTO;
  err = parent_of(u, path);
  if (err != 0) return err;
  enum found found = look(u, name_of(path));
  if (found == FOUND_NOTHING) return make_whiteout(u, name_of(path));
  if (found != FOUND_DIRECTORY) return 0;
  int fd = open_directory(u, name_of(path));
  return fd < 0 ? -fd : close_with(fd, mark_opaque(u, fd));
}

static int unpack_link(struct unpack *u, struct reader *in) {
  struct attributes entry;
  int err = read_attributes(u, in, &entry);
  const char *target = read_text(in);
  if (err != 0 || !reader_done(in)) return err != 0 ? err : EPROTO;
  err = parent_of(u, entry.path);
  if (err == 0) err = result(symlinkat(target, u->parent, name_of(entry.path)));
  if (err == EEXIST) {
    err = remove_existing(u, name_of(entry.path));
    if (err == 0) err = result(symlinkat(target, u->parent, name_of(entry.path)));
  }
  return err != 0 ? err : set_named_attributes(u, name_of(entry.path), &entry, true);
}

/* SAFETY: the target is a plain path whose directory is resolved as any entry's; linkat follows no last component. */
static int unpack_hard_link(struct unpack *u, struct reader *in) {
  const char *path;
  char directory[PATH_MAX];
  int err = read_path(u, in, &path);
  const char *target = read_text(in);
  if (err != 0 || !reader_done(in)) return err != 0 ? err : EPROTO;
  if (!is_plain_path(target) || strcmp(path, target) == 0) return EINVAL;
  size_t size = (size_t)(name_of(target) - target);
  memcpy(directory, target, size);
  memcpy(directory + size, ".", 2);
  struct stat info;
  int from = open_resolved(u->root, directory, O_PATH | O_DIRECTORY, 0, CONFINED);
  if (from < 0) return -from;
  /* Looked at before the place is cleared: a target that is missing must not cost the entry that is there. */
  if (fstatat(from, name_of(target), &info, AT_SYMLINK_NOFOLLOW) < 0) err = errno;
  else if (S_ISDIR(info.st_mode)) err = EPERM;
  if (err == 0) err = make_place(u, path);
  if (err == 0) err = result(linkat(from, name_of(target), u->parent, name_of(path), 0));
  return close_with(from, err);
}

static int unpack_node(struct unpack *u, struct reader *in) {
  struct attributes entry;
  int err = read_attributes(u, in, &entry);
  uint32_t type = read_u32(in), major_number = read_u32(in), minor_number = read_u32(in);
  if (err != 0 || !reader_done(in)) return err != 0 ? err : EPROTO;
  if (type != S_IFCHR && type != S_IFBLK && type != S_IFIFO) return EINVAL;
  err = make_place(u, entry.path);
  if (err == 0) err = result(mknodat(u->parent, name_of(entry.path), type | entry.mode, makedev(major_number, minor_number)));
  return err != 0 ? err : set_named_attributes(u, name_of(entry.path), &entry, false);
}

/* The last byte has come: length, attributes, time. */
int finish_file(struct unpack *u) {
  int err = 0;
  if (u->file < 0) return 0;
  struct timespec times[2] = {time_of(u->file_attributes.mtime_ns), time_of(u->file_attributes.mtime_ns)};
  if (u->file_at != u->file_size) err = EPROTO;
  if (err == 0 && u->file_end != u->file_size) err = result(ftruncate(u->file, (off_t)u->file_size));
  if (err == 0) err = set_open_attributes(u, u->file, &u->file_attributes);
  if (err == 0) err = result(futimens(u->file, times));
  /* The disk begins with large files now, so that the sync at the end of the image finds little left; whether it could is seen there. */
  if (err == 0 && u->file_size >= EARLY_WRITE_BYTES) sync_file_range(u->file, 0, 0, SYNC_FILE_RANGE_WRITE);
  err = close_with(u->file, err);
  u->file = -1;
  return err;
}

/* With the mode that it keeps, most often; nobody but us reaches it before it is whole. */
static int make_file(const struct unpack *u, const char *name) {
  return open_resolved(u->parent, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, u->file_attributes.mode, CONFINED);
}

static int unpack_file(struct unpack *u, struct reader *in) {
  int err = read_attributes(u, in, &u->file_attributes);
  u->file_size = read_u64(in);
  u->file_at = u->file_end = 0;
  if (err != 0 || !reader_done(in)) return err != 0 ? err : EPROTO;
  if (u->file_size > INT64_MAX) return EFBIG;
  const char *name = name_of(u->file_attributes.path);
  err = parent_of(u, u->file_attributes.path);
  if (err != 0) return err;
  u->file = make_file(u, name);
  if (u->file == -EEXIST) {
    if ((err = remove_existing(u, name)) == 0) u->file = make_file(u, name);
    else u->file = -err;
  }
  if (u->file >= 0) return 0;
  err = -u->file;
  u->file = -1;
  return err;
}

static bool is_zero(const uint8_t *data, size_t size) { return data[0] == 0 && memcmp(data, data + 1, size - 1) == 0; }

/* Writes the content at the file's position; blocks of zeros become holes. */
int unpack_data(struct unpack *u, size_t size) {
  if (u->file < 0 || size > u->file_size - u->file_at) return EPROTO;
  for (size_t at = 0; at < size;) {
    size_t end = at;
    while (end < size && !(size - end >= HOLE_BYTES && is_zero(u->data + end, HOLE_BYTES))) end += size - end < HOLE_BYTES ? size - end : HOLE_BYTES;
    if (end == at) {
      at += HOLE_BYTES;
      continue;
    }
    ssize_t written = pwrite(u->file, u->data + at, end - at, (off_t)(u->file_at + at));
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return written < 0 ? errno : EIO;
    at += (size_t)written;
    u->file_end = u->file_at + at;
  }
  u->file_at += size;
  return 0;
}

static int apply_record(struct unpack *u, uint8_t op, struct reader *in) {
  switch ((enum layer_op)op) {
    case LAYER_DIRECTORY: return unpack_directory(u, in);
    case LAYER_FILE: return unpack_file(u, in);
    case LAYER_LINK: return unpack_link(u, in);
    case LAYER_HARD_LINK: return unpack_hard_link(u, in);
    case LAYER_NODE: return unpack_node(u, in);
    case LAYER_WHITEOUT: return unpack_whiteout(u, in);
    case LAYER_OPAQUE: return unpack_opaque(u, in);
    case LAYER_STYLE: return set_style(u, in);
    case LAYER_ROOT: return unpack_root(u, in);
    case LAYER_DATA: case LAYER_FINISH: case LAYER_INSPECT: break;
  }
  return EPROTO;
}

int unpack_record(struct unpack *u, uint8_t op, size_t size) {
  struct reader in;
  struct stat info;
  reader_init(&in, u->body, size);
  u->entries++;
  int err = apply_record(u, op, &in);
  /* What the record replaced may have taken the kept parent along. */
  if (u->parent >= 0 && (fstat(u->parent, &info) < 0 || info.st_nlink == 0)) forget_parent(u);
  return err;
}
