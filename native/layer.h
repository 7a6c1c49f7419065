/* The unpack child's state, and what its two halves know of each other: unpack.c the process, layer.c the records. */
#pragma once
#include <limits.h>
#include "steps.h"

#define BODY_BYTES_MAX (1u << 20)

/* What every entry carries; it points into the record's body. */
struct attributes {
  const char *path;
  uint32_t mode, uid, gid, xattr_count;
  int64_t mtime_ns;
  struct reader xattrs; /* stands at the first pair */
};

/* How the layer speaks to an overlay: by trusted.overlay.*, or by user.overlay.*, with whiteouts as devices or as files. */
enum overlay_style { OVERLAY_TRUSTED = 0, OVERLAY_USER = 1, OVERLAY_USER_FILES = 2 };

struct unpack {
  enum overlay_style style;
  int connection, root;
  uint32_t request_id, entries;
  uint8_t *body, *data; /* of the entry in work, of a data record; BODY_BYTES_MAX each */
  uint8_t input[65536];
  size_t input_at, input_size;
  char path[PATH_MAX]; /* of the entry in work, for the answer */
  int parent;          /* directory of the last entry, -1 none */
  char parent_path[PATH_MAX];
  int file; /* being written, -1 none */
  uint64_t file_size, file_at, file_end;
  struct attributes file_attributes;
  char *times; /* i64 mtime and path with its NUL, per directory, to be set at the end */
  size_t times_size, times_capacity;
};

/* Applies one record other than `data` and `finish`, whose body is in u->body. All four return 0 or errno. */
int unpack_record(struct unpack *u, uint8_t op, size_t size);
/* Content of the file being written, in u->data. */
int unpack_data(struct unpack *u, size_t size);
/* Ends the file being written, where there is one. */
int finish_file(struct unpack *u);
/* The times of all directories. */
int set_times(struct unpack *u);
/* Tells what the directory holds, instead of writing to it: see inspect.c. */
int inspect_layer(struct unpack *u);

/* --- marks for the overlay (overlay.c) */

#define CONFINED (RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV)

/* The record that says how; it is the first. */
int set_style(struct unpack *u, struct reader *in);
const char *opaque_name(const struct unpack *u);
int mark_opaque(const struct unpack *u, int fd);
/* A whiteout for the layers below, under a free name in the entry's directory. */
int make_whiteout(const struct unpack *u, const char *name);
/* Of an empty regular file in the entry's directory, in the style that has such whiteouts. */
bool is_whiteout_file(const struct unpack *u, const char *name);

/* --- attributes of an entry (attributes.c); all return 0 or errno */

struct timespec time_of(int64_t ns);
int set_open_attributes(const struct unpack *u, int fd, const struct attributes *entry);
/* Of a link or node with this name in the entry's directory. */
int set_named_attributes(const struct unpack *u, const char *name, const struct attributes *entry, bool link);
/* Takes away what an earlier record of the same directory set, but for its mark for the overlay. */
int clear_xattrs(const struct unpack *u, int fd);
/* Of a directory, "." is the layer's root; `set_times` sets it when nothing more is written there. */
int remember_time(struct unpack *u, const struct attributes *entry);
