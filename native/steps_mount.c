/*
 * Steps on mounts. In: slots and paths below them. Out: mounts, attached by descriptor. A target or a source inside a
 * container's root is opened first, verified, and then used by that descriptor only.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include "steps.h"

#define AS_SOURCE 3 /* moveMount: a target of the kind that is attached, a directory or a file */

int clone_tree(int fd, bool recursive) {
  int tree = sys_open_tree(fd, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH | (recursive ? AT_RECURSIVE : 0));
  return tree < 0 ? -errno : tree;
}

int attach(int mount_fd, int target_fd) { return result(sys_move_mount(mount_fd, target_fd)); }

static const char *or_null(const char *text) { return text[0] == 0 ? NULL : text; }

/* Puts a descriptor or -errno into a slot. */
static int keep(const struct run *run, uint16_t slot, int fd) {
  if (fd < 0) return -fd;
  if (slot >= SLOT_COUNT) return close_with(fd, EINVAL);
  slots_set(run->slots, slot, fd);
  return 0;
}

int run_set_propagation(struct run *run UNUSED, const struct step_set_propagation *step, struct failure *failure UNUSED) {
  const unsigned long allowed = MS_SHARED | MS_SLAVE | MS_PRIVATE | MS_UNBINDABLE | MS_REC;
  return (step->flags & ~allowed) != 0 ? EINVAL : result(mount(NULL, step->path, NULL, step->flags, NULL));
}

int run_open_tree(struct run *run, const struct step_open_tree *step, struct failure *failure UNUSED) {
  int base = step->dir == NO_SLOT ? AT_FDCWD : slot_fd(run, step->dir);
  if (base == -1) return EBADF;
  if (step->path[0] == 0 && step->dir != NO_SLOT) return keep(run, step->out, clone_tree(base, step->recursive != 0));
  int fd = open_resolved(base, step->path, O_PATH, 0, step->resolve);
  if (fd < 0) return -fd;
  int tree = clone_tree(fd, step->recursive != 0);
  close(fd);
  return keep(run, step->out, tree);
}

/* The log of a file-system context: one `e text` (or `w`, `i`) line a read, until ENODATA. */
static void keep_log(int context, struct failure *failure) {
  char text[FAILURE_DETAIL_MAX], line[512];
  size_t used = 0;
  ssize_t size;
  while ((size = read(context, line, sizeof line)) > 2 && used + (size_t)size < sizeof text) {
    if (used > 0 && text[used - 1] != '\n') text[used++] = '\n';
    memcpy(text + used, line + 2, (size_t)size - 2);
    used += (size_t)size - 2;
  }
  while (used > 0 && text[used - 1] == '\n') used--;
  set_detail(failure, text, used);
}

static int set_option(int context, char *option) {
  char *value = strchr(option, '=');
  if (value == NULL) return result(sys_fsconfig(context, FSCONFIG_SET_FLAG, option, NULL));
  *value = 0; /* the plan's bytes are our own copy; the separator comes back for a later run */
  int err = result(sys_fsconfig(context, FSCONFIG_SET_STRING, option, value + 1));
  *value = '=';
  return err;
}

static int make_file_system(const char *type, const struct texts *options, unsigned attributes, struct failure *failure) {
  int context = sys_fsopen(type), made = -1, err = 0;
  if (context < 0) return -errno;
  for (uint32_t i = 0; err == 0 && i < options->count; i++) err = set_option(context, options->items[i]);
  if (err == 0) err = result(sys_fsconfig(context, FSCONFIG_CMD_CREATE, NULL, NULL));
  if (err == 0 && (made = sys_fsmount(context, attributes)) < 0) err = errno;
  if (err != 0) keep_log(context, failure);
  close(context);
  return err != 0 ? -err : made;
}

int run_new_file_system(struct run *run, const struct step_new_file_system *step, struct failure *failure) {
  return keep(run, step->out, make_file_system(step->type, &step->options, step->attributes, failure));
}

int run_mount(struct run *run UNUSED, const struct step_mount *step, struct failure *failure UNUSED) {
  int before = -1, err = 0;
  if (step->cwd[0] != 0) {
    if ((before = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC)) < 0) return errno;
    err = result(chdir(step->cwd));
  }
  if (err == 0) err = result(mount(or_null(step->source), step->target, or_null(step->type), step->flags, or_null(step->data)));
  int back = before < 0 ? 0 : result(fchdir(before));
  return close_with(before, err != 0 ? err : back);
}

int run_set_mount_attributes(struct run *run, const struct step_set_mount_attributes *step, struct failure *failure UNUSED) {
  struct kernel_mount_attr attr = {.set = step->set, .clear = step->clear, .propagation = step->propagation};
  if ((step->set & MOUNT_ATTR_IDMAP) != 0) {
    int user_namespace = slot_fd(run, step->user_namespace);
    if (user_namespace < 0) return EBADF;
    attr.user_namespace = (uint64_t)user_namespace;
  }
  int fd = open_below(run, step->slot, step->path, O_PATH, 0);
  return fd < 0 ? -fd : close_with(fd, result(sys_mount_setattr(fd, step->recursive != 0 ? AT_RECURSIVE : 0, &attr)));
}

/*
 * SAFETY: the target was resolved inside the root, its type and file system are verified on the descriptor, and the mount
 * goes onto that descriptor, so a path swapped meanwhile has no effect (CVE-2021-30465, CVE-2023-27561, CVE-2025-52881).
 */
int run_move_mount(struct run *run, const struct step_move_mount *step, struct failure *failure UNUSED) {
  struct stat info;
  int from = slot_fd(run, step->from);
  if (from < 0) return EBADF;
  enum target_kind create = (enum target_kind)step->create;
  if (step->create == AS_SOURCE) create = fstat(from, &info) < 0 ? TARGET_NONE : S_ISDIR(info.st_mode) ? TARGET_DIRECTORY : TARGET_FILE;
  if (create > TARGET_FILE) return EINVAL;
  int target = open_or_create(run, step->root, step->target, create, step->no_links != 0 ? RESOLVE_NO_SYMLINKS : 0);
  if (target < 0) return -target;
  int err = result(fstat(target, &info));
  bool directory = err == 0 && S_ISDIR(info.st_mode);
  if (err == 0 && !directory && (create == TARGET_DIRECTORY || step->no_links == 1)) err = ENOTDIR;
  if (err == 0 && directory && create == TARGET_FILE) err = EISDIR;
  /* Nothing of procfs is a target: a link of the image may lead there, and what is hidden there is relied on later. */
  if (err == 0 && step->no_links != 2 && is_on(target, MAGIC_PROC)) err = EPERM;
  /* Nor the root itself, where a link or ".." of the image may lead: what is mounted there lies above the root to be. */
  if (err == 0 && step->target[0] != 0 && is_slot_itself(run, step->root, target)) err = EINVAL;
  return close_with(target, err != 0 ? err : attach(from, target));
}

/*
 * SAFETY: the old root is made a slave before it is detached, so that even where the plan left it shared nothing is
 * unmounted on the host; afterwards nothing of it is reachable but through descriptors, which are close-on-exec.
 */
int run_pivot_root(struct run *run, const struct step_pivot_root *step, struct failure *failure UNUSED) {
  int root = slot_fd(run, step->root), err = 0;
  if (root < 0) return EBADF;
  int old = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (old < 0) return errno;
  if (fchdir(root) < 0 || sys_pivot_root(".", ".") < 0 || fchdir(old) < 0) err = errno;
  else if (mount(NULL, ".", NULL, MS_SLAVE | MS_REC, NULL) < 0 || umount2(".", MNT_DETACH) < 0 || chdir("/") < 0) err = errno;
  return close_with(old, err);
}

/*
 * For a root file system that cannot be pivoted away from, the one of an initial ramdisk. SAFETY: what the host has mounted on its root stays in the mount
 * namespace, below the new root and out of reach of paths only; the plan takes procfs and sysfs away before.
 */
int run_move_root(struct run *run, const struct step_move_root *step, struct failure *failure UNUSED) {
  int root = slot_fd(run, step->root);
  if (root < 0) return EBADF;
  if (run->host) return EPERM;
  if (fchdir(root) < 0 || mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0) return errno;
  return result(chdir("/"));
}

int run_copy_mode(struct run *run, const struct step_copy_mode *step, struct failure *failure UNUSED) {
  struct stat info;
  int to = slot_fd(run, step->slot), from = open_below(run, step->from_dir, step->from, O_PATH, 0);
  if (from == -ENOENT) return 0;
  if (from < 0) return -from;
  int err = to < 0 ? EBADF : result(fstat(from, &info));
  close(from);
  if (err != 0 || !S_ISDIR(info.st_mode)) return err;
  int directory = openat(to, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  return directory < 0 ? errno : close_with(directory, result(fchmod(directory, info.st_mode & 07777)));
}

int run_unmount(struct run *run UNUSED, const struct step_unmount *step, struct failure *failure UNUSED) {
  return result(umount2(step->path, (int)step->flags | UMOUNT_NOFOLLOW));
}

/* What covers a masked path that is no directory. SAFETY: verified to be the null device, not a link to it (CVE-2025-31133). */
static int clone_null(const struct run *run, uint16_t root) {
  int null = open_below(run, root, "/dev/null", O_PATH | O_NOFOLLOW, 0);
  if (null < 0) return null;
  int tree = is_device(null, 1, 3) ? clone_tree(null, false) : -EPERM;
  close(null);
  return tree;
}

int run_mask_path(struct run *run, const struct step_mask_path *step, struct failure *failure) {
  struct stat info;
  char read_only[] = "ro", mode[] = "mode=0555", *items[] = {read_only, mode, NULL};
  struct texts options = {items, 2};
  int target = open_below(run, step->root, step->path, O_PATH, 0);
  if (target == -ENOENT || target == -ENOTDIR) return 0;
  if (target < 0) return -target;
  if (fstat(target, &info) < 0) return close_with(target, errno);
  int cover = S_ISDIR(info.st_mode)
    ? make_file_system("tmpfs", &options, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC, failure)
    : clone_null(run, step->root);
  int err = cover < 0 ? -cover : attach(cover, target);
  close_with(cover, 0);
  return close_with(target, err);
}

int run_readonly_path(struct run *run, const struct step_readonly_path *step, struct failure *failure UNUSED) {
  struct kernel_mount_attr attr = {.set = MOUNT_ATTR_RDONLY};
  int target = open_below(run, step->root, step->path, O_PATH, 0);
  if (target == -ENOENT || target == -ENOTDIR) return 0;
  if (target < 0) return -target;
  /* SAFETY: source and target are one descriptor, so what becomes read-only is what is covered. */
  int tree = clone_tree(target, true), err = error_of(tree);
  if (err == 0) err = result(sys_mount_setattr(tree, AT_RECURSIVE, &attr));
  if (err == 0) err = attach(tree, target);
  close_with(tree, 0);
  return close_with(target, err);
}

int run_pin_namespace(struct run *run, const struct step_pin_namespace *step, struct failure *failure UNUSED) {
  char source[32];
  int fd = slot_fd(run, step->slot);
  /* SAFETY: only a namespace file is pinned, whatever the slot came to hold. */
  if (fd < 0 || !is_on(fd, MAGIC_NSFS)) return EBADF;
  snprintf(source, sizeof source, "/proc/self/fd/%d", fd);
  return result(mount(source, step->path, NULL, MS_BIND, NULL));
}
