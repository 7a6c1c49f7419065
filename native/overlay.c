/*
 * What a layer says to the overlay above it: opaque directories and whiteouts, in the style that the overlay reads. In: the unpack child's state and
 * names in the directory of its entry. Out: extended attributes, devices, marked files. No link is followed.
 */
#define _GNU_SOURCE
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include "layer.h"

#define WHITEOUT_NAME "user.overlay.whiteout"

const char *opaque_name(const struct unpack *u) { return u->style == OVERLAY_TRUSTED ? "trusted.overlay.opaque" : "user.overlay.opaque"; }

int mark_opaque(const struct unpack *u, int fd) { return result(fsetxattr(fd, opaque_name(u), "y", 1, 0)); }

bool is_whiteout_file(const struct unpack *u, const char *name) { return fchdir(u->parent) == 0 && lgetxattr(name, WHITEOUT_NAME, NULL, 0) >= 0; }

/*
 * As a file it is empty and marked, and so is its directory: an overlay looks for such files only where the directory says "x" (linux,
 * Documentation/filesystems/overlayfs.rst); "y" stays, it hides everything.
 */
int make_whiteout(const struct unpack *u, const char *name) {
  if (u->style != OVERLAY_USER_FILES) return result(mknodat(u->parent, name, S_IFCHR, makedev(0, 0)));
  int fd = open_resolved(u->parent, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0444, CONFINED);
  if (fd < 0) return -fd;
  int err = close_with(fd, result(fsetxattr(fd, WHITEOUT_NAME, "y", 1, 0)));
  int directory = err != 0 ? -err : open_resolved(u->parent, ".", O_RDONLY | O_DIRECTORY, 0, CONFINED);
  if (directory < 0) return -directory;
  err = result(fsetxattr(directory, opaque_name(u), "x", 1, XATTR_CREATE));
  return close_with(directory, err == EEXIST ? 0 : err);
}

/* Before any entry: what of the layer is written depends on it. */
int set_style(struct unpack *u, struct reader *in) {
  uint32_t style = read_u32(in);
  if (!reader_done(in) || u->entries != 1) return EPROTO;
  if (style > OVERLAY_USER_FILES) return EINVAL;
  u->style = (enum overlay_style)style;
  u->entries = 0; /* it makes none */
  return 0;
}
