/* Generated from src/plan/vocabulary.ts by scripts/generate-native.ts. Do not edit. */
#pragma once
#include "reader.h"

#define PLAN_MAGIC 0x4e4c5042u
#define PLAN_VERSION 1
#define PLAN_BYTES_MAX 8388608u
#define PLAN_SECTIONS_MAX 16
#define PLAN_STEPS_MAX 8192
#define SLOT_COUNT 256
#define POD_SLOT_COUNT 64
#define NO_SLOT 65535
#define FRAME_BYTES_MAX 16777216u
#define FAILURE_DETAIL_MAX 1024
#define LOG_LINE_MAX 16384

enum actor { ACTOR_HOST = 0, ACTOR_POD_NAMESPACES = 1, ACTOR_CONTAINER_SETUP = 2, ACTOR_PAYLOAD = 3 };
enum layer_op { LAYER_DIRECTORY = 1, LAYER_FILE = 2, LAYER_DATA = 3, LAYER_LINK = 4, LAYER_HARD_LINK = 5, LAYER_NODE = 6, LAYER_WHITEOUT = 7, LAYER_OPAQUE = 8, LAYER_FINISH = 9, LAYER_STYLE = 10, LAYER_INSPECT = 11, LAYER_ROOT = 12 };

enum step_op {
  STEP_SKIP = 1,
  STEP_BARRIER = 2,
  STEP_ASK = 3,
  STEP_OPEN_PATH = 10,
  STEP_CLOSE_SLOT = 11,
  STEP_MAKE_DIRECTORY = 12,
  STEP_MAKE_FILE = 13,
  STEP_WRITE_FILE = 14,
  STEP_MAKE_LINK = 15,
  STEP_MAKE_NODE = 16,
  STEP_CHANGE_OWNER = 17,
  STEP_REMOVE_FILE = 18,
  STEP_REMOVE_DIRECTORY = 19,
  STEP_REMOVE_TREE = 20,
  STEP_COPY_TREE = 21,
  STEP_FILL_DIRECTORY = 22,
  STEP_SYNC_FILE_SYSTEM = 23,
  STEP_SHIFT_TREE = 24,
  STEP_UNSHARE = 30,
  STEP_OPEN_NAMESPACE = 31,
  STEP_ENTER_NAMESPACE = 32,
  STEP_EXPORT_SLOT = 33,
  STEP_FORK = 34,
  STEP_SET_HOSTNAME = 35,
  STEP_SET_DOMAINNAME = 36,
  STEP_FORK_INSIDE = 37,
  STEP_NETLINK = 40,
  STEP_SET_PROPAGATION = 50,
  STEP_OPEN_TREE = 51,
  STEP_NEW_FILE_SYSTEM = 52,
  STEP_MOUNT = 53,
  STEP_SET_MOUNT_ATTRIBUTES = 54,
  STEP_MOVE_MOUNT = 55,
  STEP_PIVOT_ROOT = 56,
  STEP_UNMOUNT = 57,
  STEP_MASK_PATH = 58,
  STEP_READONLY_PATH = 59,
  STEP_PIN_NAMESPACE = 60,
  STEP_REQUIRE_PROPAGATION = 61,
  STEP_SET_RLIMIT = 70,
  STEP_SET_UMASK = 71,
  STEP_SET_GROUPS = 72,
  STEP_SET_USER = 73,
  STEP_LIMIT_CAPABILITIES = 74,
  STEP_SET_CAPABILITIES = 75,
  STEP_SET_NO_NEW_PRIVILEGES = 76,
  STEP_SET_SECCOMP = 77,
  STEP_SET_SECCOMP_LISTENER = 150,
  STEP_SEND_LISTENER = 151,
  STEP_CHANGE_DIRECTORY = 78,
  STEP_SET_DUMPABLE = 79,
  STEP_SET_PARENT_DEATH_SIGNAL = 80,
  STEP_NEW_SESSION = 81,
  STEP_OPEN_TERMINAL = 82,
  STEP_EXECUTE = 83,
  STEP_EXECUTE_PAUSE = 84,
  STEP_JOIN_KEYRING = 85,
  STEP_SET_PERSONALITY = 86,
  STEP_GIVE_STREAMS = 87,
  STEP_CONNECT = 90,
  STEP_RELAY = 91,
  STEP_LISTEN = 92,
  STEP_AWAIT_START = 93,
  STEP_KEEP_DESCRIPTORS = 94,
  STEP_FIND_EXECUTABLE = 96,
  STEP_ATTACH_DEVICE_FILTER = 100,
  STEP_KILL_CGROUP = 101,
  STEP_REMOVE_CGROUP = 102,
  STEP_FREEZE_CGROUP = 155,
  STEP_SIGNAL_PROCESS = 160,
  STEP_REOPEN_NULL = 161,
  STEP_SET_SCHEDULER = 130,
  STEP_SET_IO_PRIORITY = 131,
  STEP_SET_CPU_AFFINITY = 132,
  STEP_MOVE_NET_DEVICE = 133,
  STEP_SET_MEMORY_POLICY = 134,
  STEP_COPY_MODE = 135,
  STEP_MOVE_ROOT = 136,
  STEP_RUN_HOOK = 120,
  STEP_LINK_ROOT = 121,
  STEP_CHANGE_ROOT = 122,
  STEP_CLOSE_SLOTS = 123,
};

/* Continues after the next `count` steps. */
struct step_skip {
  uint32_t count;
};
static inline bool decode_step_skip(struct reader *in, struct step_skip *step) {
  step->count = read_u32(in);
  return reader_done(in);
}

/* In a child: reports the barrier and waits. The shim then runs the host sections tagged with this
 * barrier; barrier 1 (start) is released by a start request only, every other one as soon as those
 * sections are done. */
struct step_barrier {
  uint32_t barrier;
};
static inline bool decode_step_barrier(struct reader *in, struct step_barrier *step) {
  step->barrier = read_u32(in);
  return reader_done(in);
}

/* Reads each file below the root (openat2 with RESOLVE_IN_ROOT and no magic links; O_NONBLOCK; regular
 * files of at most bytesMax only) and sends them to the caller, each with errno or content; waits for
 * the sections that the caller sends back and runs those for this actor next. */
struct step_ask {
  uint16_t root;
  struct texts files;
  uint32_t bytes_max;
};
static inline bool decode_step_ask(struct reader *in, struct step_ask *step) {
  step->root = read_u16(in);
  step->files = read_texts(in);
  step->bytes_max = read_u32(in);
  return reader_done(in);
}

/* openat2(dir, path, flags|O_CLOEXEC, mode, resolve) into slot out. EAGAIN is retried 32 times. */
struct step_open_path {
  uint16_t dir;
  const char *path;
  uint32_t flags;
  uint32_t mode;
  uint32_t resolve;
  uint16_t out;
};
static inline bool decode_step_open_path(struct reader *in, struct step_open_path *step) {
  step->dir = read_u16(in);
  step->path = read_text(in);
  step->flags = read_u32(in);
  step->mode = read_u32(in);
  step->resolve = read_u32(in);
  step->out = read_u16(in);
  return reader_done(in);
}

/* Closes the slot; an empty slot is no error. */
struct step_close_slot {
  uint16_t slot;
};
static inline bool decode_step_close_slot(struct reader *in, struct step_close_slot *step) {
  step->slot = read_u16(in);
  return reader_done(in);
}

/* mkdir below dir with exactly this mode whatever the umask; parents=1 makes missing parents (mode
 * 0755) and accepts an existing directory. Below a slot every component is resolved with
 * RESOLVE_IN_ROOT. */
struct step_make_directory {
  uint16_t dir;
  const char *path;
  uint32_t mode;
  uint32_t parents;
};
static inline bool decode_step_make_directory(struct reader *in, struct step_make_directory *step) {
  step->dir = read_u16(in);
  step->path = read_text(in);
  step->mode = read_u32(in);
  step->parents = read_u32(in);
  return reader_done(in);
}

/* Creates or truncates a regular file below dir (never through a final link) with this mode and
 * content. */
struct step_make_file {
  uint16_t dir;
  const char *path;
  uint32_t mode;
  struct bytes data;
};
static inline bool decode_step_make_file(struct reader *in, struct step_make_file *step) {
  step->dir = read_u16(in);
  step->path = read_text(in);
  step->mode = read_u32(in);
  step->data = read_bytes(in);
  return reader_done(in);
}

/* Opens an existing file for writing (no links, no magic links, not across mounts when fileSystem is
 * proc; 0 any, 1 procfs, 2 sysfs, 3 cgroup or cgroup2), verifies the file system by fstatfs and writes
 * data in one write(2). */
struct step_write_file {
  uint16_t dir;
  const char *path;
  struct bytes data;
  uint32_t file_system;
};
static inline bool decode_step_write_file(struct reader *in, struct step_write_file *step) {
  step->dir = read_u16(in);
  step->path = read_text(in);
  step->data = read_bytes(in);
  step->file_system = read_u32(in);
  return reader_done(in);
}

/* symlinkat(target, dir, path), the parent resolved with RESOLVE_IN_ROOT below a slot. */
struct step_make_link {
  uint16_t dir;
  const char *path;
  const char *target;
};
static inline bool decode_step_make_link(struct reader *in, struct step_make_link *step) {
  step->dir = read_u16(in);
  step->path = read_text(in);
  step->target = read_text(in);
  return reader_done(in);
}

/* Makes the missing parents (0755), then mknodat below dir with RESOLVE_IN_ROOT; mode holds the type
 * bits; sets mode and owner exactly. */
struct step_make_node {
  uint16_t dir;
  const char *path;
  uint32_t mode;
  uint32_t major;
  uint32_t minor;
  uint32_t uid;
  uint32_t gid;
};
static inline bool decode_step_make_node(struct reader *in, struct step_make_node *step) {
  step->dir = read_u16(in);
  step->path = read_text(in);
  step->mode = read_u32(in);
  step->major = read_u32(in);
  step->minor = read_u32(in);
  step->uid = read_u32(in);
  step->gid = read_u32(in);
  return reader_done(in);
}

/* fchownat by descriptor after opening with O_PATH|O_NOFOLLOW (RESOLVE_IN_ROOT below a slot). */
struct step_change_owner {
  uint16_t dir;
  const char *path;
  uint32_t uid;
  uint32_t gid;
};
static inline bool decode_step_change_owner(struct reader *in, struct step_change_owner *step) {
  step->dir = read_u16(in);
  step->path = read_text(in);
  step->uid = read_u32(in);
  step->gid = read_u32(in);
  return reader_done(in);
}

/* unlinkat. */
struct step_remove_file {
  uint16_t dir;
  const char *path;
};
static inline bool decode_step_remove_file(struct reader *in, struct step_remove_file *step) {
  step->dir = read_u16(in);
  step->path = read_text(in);
  return reader_done(in);
}

/* unlinkat with AT_REMOVEDIR. */
struct step_remove_directory {
  uint16_t dir;
  const char *path;
};
static inline bool decode_step_remove_directory(struct reader *in, struct step_remove_directory *step) {
  step->dir = read_u16(in);
  step->path = read_text(in);
  return reader_done(in);
}

/* Removes a tree without following links and without crossing into another file system; a missing tree
 * is no error. */
struct step_remove_tree {
  uint16_t dir;
  const char *path;
};
static inline bool decode_step_remove_tree(struct reader *in, struct step_remove_tree *step) {
  step->dir = read_u16(in);
  step->path = read_text(in);
  return reader_done(in);
}

/* Copies the entries of a directory (regular files, directories, links; mode, owner, times, xattrs
 * kept) into an existing empty directory, both resolved with RESOLVE_IN_ROOT below slots; a missing or
 * non-empty source or target directory is no error and copies nothing when from is missing. */
struct step_copy_tree {
  uint16_t from_dir;
  const char *from;
  uint16_t dir;
  const char *path;
};
static inline bool decode_step_copy_tree(struct reader *in, struct step_copy_tree *step) {
  step->from_dir = read_u16(in);
  step->from = read_text(in);
  step->dir = read_u16(in);
  step->path = read_text(in);
  return reader_done(in);
}

/* Makes an existing empty directory a copy of another: the entries as copyTree does, then the owner,
 * mode, times and xattrs of the directory itself; both resolved with RESOLVE_IN_ROOT below slots. A
 * missing from is no error and changes nothing, one that is no directory is ENOTDIR, the root of
 * fromDir itself is EINVAL; more bytes or entries than the bounds are EDQUOT. */
struct step_fill_directory {
  uint16_t from_dir;
  const char *from;
  uint16_t dir;
  const char *path;
  uint64_t bytes_max;
  uint32_t entries_max;
};
static inline bool decode_step_fill_directory(struct reader *in, struct step_fill_directory *step) {
  step->from_dir = read_u16(in);
  step->from = read_text(in);
  step->dir = read_u16(in);
  step->path = read_text(in);
  step->bytes_max = read_u64(in);
  step->entries_max = read_u32(in);
  return reader_done(in);
}

/* Opens the directory (links followed: it is the engine's own) and calls syncfs: everything written to
 * its file system before is on the disk afterwards. */
struct step_sync_file_system {
  uint16_t dir;
  const char *path;
};
static inline bool decode_step_sync_file_system(struct reader *in, struct step_sync_file_system *step) {
  step->dir = read_u16(in);
  step->path = read_text(in);
  return reader_done(in);
}

/* Copies a layer into an existing empty directory with mapped owners: every kind of entry, holes, hard
 * links, modes, times and xattrs; ids of access control lists and of file capabilities are mapped too.
 * uids and gids are triples: first id inside, first id outside, count. What has no mapping gets 65534
 * and loses its set-id bits. No link is followed, the end is synced, a failure names the entry. */
struct step_shift_tree {
  uint16_t from_dir;
  const char *from;
  uint16_t dir;
  const char *path;
  struct u32s uids;
  struct u32s gids;
};
static inline bool decode_step_shift_tree(struct reader *in, struct step_shift_tree *step) {
  step->from_dir = read_u16(in);
  step->from = read_text(in);
  step->dir = read_u16(in);
  step->path = read_text(in);
  step->uids = read_u32s(in);
  step->gids = read_u32s(in);
  return reader_done(in);
}

/* unshare(flags). Forbidden to the host actor. */
struct step_unshare {
  uint32_t flags;
};
static inline bool decode_step_unshare(struct reader *in, struct step_unshare *step) {
  step->flags = read_u32(in);
  return reader_done(in);
}

/* Opens /proc/thread-self/ns/<type> of the executing process into slot out (for pid: pid_for_children). */
struct step_open_namespace {
  uint32_t type;
  uint16_t out;
};
static inline bool decode_step_open_namespace(struct reader *in, struct step_open_namespace *step) {
  step->type = read_u32(in);
  step->out = read_u16(in);
  return reader_done(in);
}

/* setns(slot, type); ESRCH for a mount or PID namespace that the actor is in already. Forbidden to the
 * host actor. */
struct step_enter_namespace {
  uint16_t slot;
  uint32_t type;
};
static inline bool decode_step_enter_namespace(struct reader *in, struct step_enter_namespace *step) {
  step->slot = read_u16(in);
  step->type = read_u32(in);
  return reader_done(in);
}

/* In a child: hands the descriptor to the shim, which keeps it in the pod slot or, from 64 on, in that
 * slot for the children of this plan that come later. */
struct step_export_slot {
  uint16_t slot;
  uint16_t pod_slot;
};
static inline bool decode_step_export_slot(struct reader *in, struct step_export_slot *step) {
  step->slot = read_u16(in);
  step->pod_slot = read_u16(in);
  return reader_done(in);
}

/* In a child: continues in a new process made with CLONE_PARENT and these namespace flags, so that the
 * shim is its parent; reports the new pid and ends the old process. Used last before execute, so that
 * what is seen inside a joined PID namespace holds nothing. */
struct step_fork {
  uint32_t flags;
};
static inline bool decode_step_fork(struct reader *in, struct step_fork *step) {
  step->flags = read_u32(in);
  return reader_done(in);
}

/* sethostname. */
struct step_set_hostname {
  const char *name;
};
static inline bool decode_step_set_hostname(struct reader *in, struct step_set_hostname *step) {
  step->name = read_text(in);
  return reader_done(in);
}

/* setdomainname. */
struct step_set_domainname {
  const char *name;
};
static inline bool decode_step_set_domainname(struct reader *in, struct step_set_domainname *step) {
  step->name = read_text(in);
  return reader_done(in);
}

/* As fork, with CLONE_NEWPID among the flags and the slots kept: continues as the init of a new PID
 * namespace, which nobody else lives in. For a process that had to enter a user namespace first. */
struct step_fork_inside {
  uint32_t flags;
};
static inline bool decode_step_fork_inside(struct reader *in, struct step_fork_inside *step) {
  step->flags = read_u32(in);
  return reader_done(in);
}

/* Opens a netlink socket of this protocol in the current network namespace, writes the descriptor
 * numbers of slots into the messages (pairs: byte offset, slot), sends all messages in one datagram and
 * reads one acknowledgement per message that asks for it; extended acks are on, and the message of the
 * first error becomes the detail. With NETLINK_NETFILTER the batch is acknowledged per message too. */
struct step_netlink {
  uint32_t protocol;
  struct bytes messages;
  struct u32s slot_patches;
};
static inline bool decode_step_netlink(struct reader *in, struct step_netlink *step) {
  step->protocol = read_u32(in);
  step->messages = read_bytes(in);
  step->slot_patches = read_u32s(in);
  return reader_done(in);
}

/* mount(NULL, path, NULL, flags, NULL) with propagation flags (MS_REC allowed). */
struct step_set_propagation {
  const char *path;
  uint32_t flags;
};
static inline bool decode_step_set_propagation(struct reader *in, struct step_set_propagation *step) {
  step->path = read_text(in);
  step->flags = read_u32(in);
  return reader_done(in);
}

/* Opens the path with O_PATH through openat2, then open_tree(fd, "",
 * AT_EMPTY_PATH|OPEN_TREE_CLONE|OPEN_TREE_CLOEXEC, AT_RECURSIVE when recursive=1) into slot out. */
struct step_open_tree {
  uint16_t dir;
  const char *path;
  uint32_t resolve;
  uint32_t recursive;
  uint16_t out;
};
static inline bool decode_step_open_tree(struct reader *in, struct step_open_tree *step) {
  step->dir = read_u16(in);
  step->path = read_text(in);
  step->resolve = read_u32(in);
  step->recursive = read_u32(in);
  step->out = read_u16(in);
  return reader_done(in);
}

/* fsopen, one fsconfig per option (`key=value` or a flag; `source=` sets the source),
 * FSCONFIG_CMD_CREATE, fsmount with these MOUNT_ATTR flags into slot out. The log of the fs context
 * becomes the detail of a failure. */
struct step_new_file_system {
  const char *type;
  struct texts options;
  uint32_t attributes;
  uint16_t out;
};
static inline bool decode_step_new_file_system(struct reader *in, struct step_new_file_system *step) {
  step->type = read_text(in);
  step->options = read_texts(in);
  step->attributes = read_u32(in);
  step->out = read_u16(in);
  return reader_done(in);
}

/* mount(2) after changing to cwd (when not empty), so that many layers fit one page of options; the
 * working directory is restored afterwards. */
struct step_mount {
  const char *cwd;
  const char *source;
  const char *target;
  const char *type;
  uint32_t flags;
  const char *data;
};
static inline bool decode_step_mount(struct reader *in, struct step_mount *step) {
  step->cwd = read_text(in);
  step->source = read_text(in);
  step->target = read_text(in);
  step->type = read_text(in);
  step->flags = read_u32(in);
  step->data = read_text(in);
  return reader_done(in);
}

/* mount_setattr on the mount of the slot (empty path: the slot itself; otherwise below it with
 * RESOLVE_IN_ROOT). userNamespace is for MOUNT_ATTR_IDMAP. */
struct step_set_mount_attributes {
  uint16_t slot;
  const char *path;
  uint32_t recursive;
  uint64_t set;
  uint64_t clear;
  uint64_t propagation;
  uint16_t user_namespace;
};
static inline bool decode_step_set_mount_attributes(struct reader *in, struct step_set_mount_attributes *step) {
  step->slot = read_u16(in);
  step->path = read_text(in);
  step->recursive = read_u32(in);
  step->set = read_u64(in);
  step->clear = read_u64(in);
  step->propagation = read_u64(in);
  step->user_namespace = read_u16(in);
  return reader_done(in);
}

/* Resolves target below root with RESOLVE_IN_ROOT (noLinks=1 adds RESOLVE_NO_SYMLINKS and wants a plain
 * directory; noLinks=2 adds RESOLVE_NO_SYMLINKS and allows a target on procfs), creating it and its
 * parents when missing (0 no, 1 directory 0755, 2 empty file 0644, 3 the one of these that is
 * attached); create=1 on an existing file and create=2 on an existing directory fail with ENOTDIR or
 * EISDIR; refuses any other target on procfs and a path that leads to the root itself (EINVAL; an empty
 * target means it); move_mount by descriptors, so a swapped path has no effect. */
struct step_move_mount {
  uint16_t from;
  uint16_t root;
  const char *target;
  uint32_t create;
  uint32_t no_links;
};
static inline bool decode_step_move_mount(struct reader *in, struct step_move_mount *step) {
  step->from = read_u16(in);
  step->root = read_u16(in);
  step->target = read_text(in);
  step->create = read_u32(in);
  step->no_links = read_u32(in);
  return reader_done(in);
}

/* fchdir(root), pivot_root(".", "."), umount2(".", MNT_DETACH), chdir("/"). */
struct step_pivot_root {
  uint16_t root;
};
static inline bool decode_step_pivot_root(struct reader *in, struct step_pivot_root *step) {
  step->root = read_u16(in);
  return reader_done(in);
}

/* umount2(path, flags|UMOUNT_NOFOLLOW). */
struct step_unmount {
  const char *path;
  uint32_t flags;
};
static inline bool decode_step_unmount(struct reader *in, struct step_unmount *step) {
  step->path = read_text(in);
  step->flags = read_u32(in);
  return reader_done(in);
}

/* Opens the path below root with O_PATH; missing is no error. Covers a directory with an empty
 * read-only tmpfs, anything else with the /dev/null of root, which is opened first and verified to be
 * character device 1:3. */
struct step_mask_path {
  uint16_t root;
  const char *path;
};
static inline bool decode_step_mask_path(struct reader *in, struct step_mask_path *step) {
  step->root = read_u16(in);
  step->path = read_text(in);
  return reader_done(in);
}

/* Opens the path below root with O_PATH; missing is no error. Clones the tree, sets it read-only and
 * attaches it over itself by descriptor. */
struct step_readonly_path {
  uint16_t root;
  const char *path;
};
static inline bool decode_step_readonly_path(struct reader *in, struct step_readonly_path *step) {
  step->root = read_u16(in);
  step->path = read_text(in);
  return reader_done(in);
}

/* Bind-mounts the namespace descriptor of the slot on an existing file (mount(2) from /proc/self/fd). */
struct step_pin_namespace {
  uint16_t slot;
  const char *path;
};
static inline bool decode_step_pin_namespace(struct reader *in, struct step_pin_namespace *step) {
  step->slot = read_u16(in);
  step->path = read_text(in);
  return reader_done(in);
}

/* Opens the path with O_PATH (links followed) and looks its mount up in /proc/self/mountinfo: EINVAL,
 * with the mount point as detail, unless that is shared or, where wanted is MS_SLAVE, shared or a
 * slave. */
struct step_require_propagation {
  uint16_t dir;
  const char *path;
  uint32_t wanted;
};
static inline bool decode_step_require_propagation(struct reader *in, struct step_require_propagation *step) {
  step->dir = read_u16(in);
  step->path = read_text(in);
  step->wanted = read_u32(in);
  return reader_done(in);
}

/* prlimit on the executing process; 2^64-1 is infinity. */
struct step_set_rlimit {
  uint32_t resource;
  uint64_t soft;
  uint64_t hard;
};
static inline bool decode_step_set_rlimit(struct reader *in, struct step_set_rlimit *step) {
  step->resource = read_u32(in);
  step->soft = read_u64(in);
  step->hard = read_u64(in);
  return reader_done(in);
}

/* umask. */
struct step_set_umask {
  uint32_t mask;
};
static inline bool decode_step_set_umask(struct reader *in, struct step_set_umask *step) {
  step->mask = read_u32(in);
  return reader_done(in);
}

/* setgroups. */
struct step_set_groups {
  struct u32s gids;
};
static inline bool decode_step_set_groups(struct reader *in, struct step_set_groups *step) {
  step->gids = read_u32s(in);
  return reader_done(in);
}

/* PR_SET_KEEPCAPS, setresgid, setresuid. Pipes and terminals among the standard streams are given to
 * the user, as /dev/stdout must be reopenable; a failure of that is passed over. */
struct step_set_user {
  uint32_t uid;
  uint32_t gid;
};
static inline bool decode_step_set_user(struct reader *in, struct step_set_user *step) {
  step->uid = read_u32(in);
  step->gid = read_u32(in);
  return reader_done(in);
}

/* Drops every capability outside this set from the bounding set; a capability unknown to the kernel is
 * passed over. */
struct step_limit_capabilities {
  uint64_t bounding;
};
static inline bool decode_step_limit_capabilities(struct reader *in, struct step_limit_capabilities *step) {
  step->bounding = read_u64(in);
  return reader_done(in);
}

/* capset, then clears the ambient set and raises the given ones. */
struct step_set_capabilities {
  uint64_t effective;
  uint64_t permitted;
  uint64_t inheritable;
  uint64_t ambient;
};
static inline bool decode_step_set_capabilities(struct reader *in, struct step_set_capabilities *step) {
  step->effective = read_u64(in);
  step->permitted = read_u64(in);
  step->inheritable = read_u64(in);
  step->ambient = read_u64(in);
  return reader_done(in);
}

/* PR_SET_NO_NEW_PRIVS. */
struct step_set_no_new_privileges {
  char unused;
};
static inline bool decode_step_set_no_new_privileges(struct reader *in, struct step_set_no_new_privileges *step) {
  step->unused = 0;
  return reader_done(in);
}

/* seccomp(SECCOMP_SET_MODE_FILTER, flags, program); program is an array of struct sock_filter. */
struct step_set_seccomp {
  uint32_t flags;
  struct bytes program;
};
static inline bool decode_step_set_seccomp(struct reader *in, struct step_set_seccomp *step) {
  step->flags = read_u32(in);
  step->program = read_bytes(in);
  return reader_done(in);
}

/* In a child: as setSeccomp with SECCOMP_FILTER_FLAG_NEW_LISTENER; the parent takes the listener into
 * its slot out (64 to 254) before the child goes on. */
struct step_set_seccomp_listener {
  uint32_t flags;
  struct bytes program;
  uint16_t out;
};
static inline bool decode_step_set_seccomp_listener(struct reader *in, struct step_set_seccomp_listener *step) {
  step->flags = read_u32(in);
  step->program = read_bytes(in);
  step->out = read_u16(in);
  return reader_done(in);
}

/* In a child: connects to the Unix stream socket at path (at most 107 bytes) and sends state, with the
 * number of the process whose /proc directory is in slot process put in at each byte of pidAt
 * (ascending, at most 4), and with the first byte the descriptor of slot listener. */
struct step_send_listener {
  uint16_t listener;
  const char *path;
  struct bytes state;
  struct u32s pid_at;
  uint16_t process;
};
static inline bool decode_step_send_listener(struct reader *in, struct step_send_listener *step) {
  step->listener = read_u16(in);
  step->path = read_text(in);
  step->state = read_bytes(in);
  step->pid_at = read_u32s(in);
  step->process = read_u16(in);
  return reader_done(in);
}

/* Makes the directory when missing and create=1 (mode 0755, owner of the process), chdir, then verifies
 * by getcwd that it is inside the root (an unreachable directory fails with EPERM). */
struct step_change_directory {
  const char *path;
  uint32_t create;
};
static inline bool decode_step_change_directory(struct reader *in, struct step_change_directory *step) {
  step->path = read_text(in);
  step->create = read_u32(in);
  return reader_done(in);
}

/* PR_SET_DUMPABLE. */
struct step_set_dumpable {
  uint32_t dumpable;
};
static inline bool decode_step_set_dumpable(struct reader *in, struct step_set_dumpable *step) {
  step->dumpable = read_u32(in);
  return reader_done(in);
}

/* PR_SET_PDEATHSIG, then fails with ESRCH when the parent has gone already. */
struct step_set_parent_death_signal {
  uint32_t signal;
};
static inline bool decode_step_set_parent_death_signal(struct reader *in, struct step_set_parent_death_signal *step) {
  step->signal = read_u32(in);
  return reader_done(in);
}

/* setsid; controllingTerminal=1 makes the standard input the controlling terminal. */
struct step_new_session {
  uint32_t controlling_terminal;
};
static inline bool decode_step_new_session(struct reader *in, struct step_new_session *step) {
  step->controlling_terminal = read_u32(in);
  return reader_done(in);
}

/* Opens path (the container's own /dev/ptmx) below root, verifies character device 5:2 on devpts,
 * unlocks it, gets the other side with TIOCGPTPEER as standard input, output and error, hands the
 * master to the shim; a non-empty consoleTarget is covered with a bind of the terminal by descriptor. */
struct step_open_terminal {
  uint16_t root;
  const char *path;
  uint32_t columns;
  uint32_t rows;
  const char *console_target;
};
static inline bool decode_step_open_terminal(struct reader *in, struct step_open_terminal *step) {
  step->root = read_u16(in);
  step->path = read_text(in);
  step->columns = read_u32(in);
  step->rows = read_u32(in);
  step->console_target = read_text(in);
  return reader_done(in);
}

/* Every descriptor but 0, 1 and 2 is closed at exec. execve(file) when it has a slash, else through
 * PATH of env (default /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin); the standard
 * streams are those of the process request. Signal dispositions and mask are reset first. */
struct step_execute {
  const char *file;
  struct texts argv;
  struct texts env;
};
static inline bool decode_step_execute(struct reader *in, struct step_execute *step) {
  step->file = read_text(in);
  step->argv = read_texts(in);
  step->env = read_texts(in);
  return reader_done(in);
}

/* Executes the shared binary in its pause role: no descriptors, no capabilities, not dumpable, waits
 * for children for ever. */
struct step_execute_pause {
  char unused;
};
static inline bool decode_step_execute_pause(struct reader *in, struct step_execute_pause *step) {
  step->unused = 0;
  return reader_done(in);
}

/* KEYCTL_JOIN_SESSION_KEYRING. */
struct step_join_keyring {
  const char *name;
};
static inline bool decode_step_join_keyring(struct reader *in, struct step_join_keyring *step) {
  step->name = read_text(in);
  return reader_done(in);
}

/* personality(2). */
struct step_set_personality {
  uint32_t persona;
};
static inline bool decode_step_set_personality(struct reader *in, struct step_set_personality *step) {
  step->persona = read_u32(in);
  return reader_done(in);
}

/* Gives pipes and terminals among the standard streams to this user and group, as setUser does, for one
 * whose ids are mapped in a user namespace that is entered next; a failure is passed over. */
struct step_give_streams {
  uint32_t uid;
  uint32_t gid;
};
static inline bool decode_step_give_streams(struct reader *in, struct step_give_streams *step) {
  step->uid = read_u32(in);
  step->gid = read_u32(in);
  return reader_done(in);
}

/* Connects a TCP socket to an IPv4 (4 bytes) or IPv6 (16 bytes) address; ETIMEDOUT after timeoutMs. A
 * socket that is connected to itself, since nobody listens, is ECONNREFUSED. */
struct step_connect {
  struct bytes address;
  uint32_t port;
  uint32_t timeout_ms;
  uint16_t out;
};
static inline bool decode_step_connect(struct reader *in, struct step_connect *step) {
  step->address = read_bytes(in);
  step->port = read_u32(in);
  step->timeout_ms = read_u32(in);
  step->out = read_u16(in);
  return reader_done(in);
}

/* Closes everything but the streams and the socket of the slot, and copies between them until the other
 * side of the socket has ended; the end of the input is passed on alone. Takes the place of execute. */
struct step_relay {
  uint16_t slot;
};
static inline bool decode_step_relay(struct reader *in, struct step_relay *step) {
  step->slot = read_u16(in);
  return reader_done(in);
}

/* Opens the directory of path (no final link), binds an AF_UNIX socket of type SOCK_SEQPACKET there
 * through that descriptor, so that a path of any length will do, with mode 0600, and listens. An
 * existing file is EADDRINUSE. */
struct step_listen {
  const char *path;
  uint16_t out;
};
static inline bool decode_step_listen(struct reader *in, struct step_listen *step) {
  step->path = read_text(in);
  step->out = read_u16(in);
  return reader_done(in);
}

/* In a child: closes every other slot, clears the parent death signal, reports barrier 1 and lets the
 * parent go; then accepts connections on the socket of the slot until one says go. That one takes the
 * place of the control socket: a failure, the execution and, by its end, the success of execve are told
 * there. */
struct step_await_start {
  uint16_t slot;
};
static inline bool decode_step_await_start(struct reader *in, struct step_await_start *step) {
  step->slot = read_u16(in);
  return reader_done(in);
}

/* Descriptors 3 to 2+count, which the caller handed over and the front kept in place, survive execute;
 * EBADF where one of them is not open. Goes before setSeccomp and execute. */
struct step_keep_descriptors {
  uint32_t count;
};
static inline bool decode_step_keep_descriptors(struct reader *in, struct step_keep_descriptors *step) {
  step->count = read_u32(in);
  return reader_done(in);
}

/* Looks for the program as execute would, without executing it: a path with a slash must be a file that
 * may be executed (its errno, EISDIR, EACCES), another one must be one in a directory of PATH (ENOENT). */
struct step_find_executable {
  const char *file;
  struct texts env;
};
static inline bool decode_step_find_executable(struct reader *in, struct step_find_executable *step) {
  step->file = read_text(in);
  step->env = read_texts(in);
  return reader_done(in);
}

/* Loads the eBPF program (array of struct bpf_insn) as BPF_PROG_TYPE_CGROUP_DEVICE and attaches it to
 * the cgroup2 directory, replacing what this step attached there before. */
struct step_attach_device_filter {
  const char *cgroup;
  struct bytes program;
};
static inline bool decode_step_attach_device_filter(struct reader *in, struct step_attach_device_filter *step) {
  step->cgroup = read_text(in);
  step->program = read_bytes(in);
  return reader_done(in);
}

/* Kills every process below the cgroup directory: cgroup.kill where it exists, else every pid of every
 * cgroup.procs below, repeated until empty; ETIMEDOUT after timeoutMs. A missing cgroup is no error. */
struct step_kill_cgroup {
  const char *cgroup;
  uint32_t timeout_ms;
};
static inline bool decode_step_kill_cgroup(struct reader *in, struct step_kill_cgroup *step) {
  step->cgroup = read_text(in);
  step->timeout_ms = read_u32(in);
  return reader_done(in);
}

/* Removes the cgroup directory and those below it, deepest first, retrying EBUSY until timeoutMs. A
 * missing cgroup is no error. */
struct step_remove_cgroup {
  const char *cgroup;
  uint32_t timeout_ms;
};
static inline bool decode_step_remove_cgroup(struct reader *in, struct step_remove_cgroup *step) {
  step->cgroup = read_text(in);
  step->timeout_ms = read_u32(in);
  return reader_done(in);
}

/* Writes the state to cgroup.freeze (cgroup2) or freezer.state (v1) of the directory; frozen=1 waits
 * until every process below has stopped. After timeoutMs, and where waiting fails, everything is thawed
 * again: ETIMEDOUT. */
struct step_freeze_cgroup {
  const char *cgroup;
  uint32_t frozen;
  uint32_t timeout_ms;
};
static inline bool decode_step_freeze_cgroup(struct reader *in, struct step_freeze_cgroup *step) {
  step->cgroup = read_text(in);
  step->frozen = read_u32(in);
  step->timeout_ms = read_u32(in);
  return reader_done(in);
}

/* pidfd_open(pid), compares field 22 of its /proc/<pid>/stat with startTime (ESRCH where it is another
 * process), pidfd_send_signal. */
struct step_signal_process {
  uint32_t pid;
  uint64_t start_time;
  uint32_t signal;
};
static inline bool decode_step_signal_process(struct reader *in, struct step_signal_process *step) {
  step->pid = read_u32(in);
  step->start_time = read_u64(in);
  step->signal = read_u32(in);
  return reader_done(in);
}

/* Those of the standard streams that are the null device, however they came, become /dev/null of the
 * own root, where that is character device 1:3 and no link leads there; else they stay, as they do when
 * it cannot be opened. */
struct step_reopen_null {
  char unused;
};
static inline bool decode_step_reopen_null(struct reader *in, struct step_reopen_null *step) {
  step->unused = 0;
  return reader_done(in);
}

/* sched_setattr on the executing process. */
struct step_set_scheduler {
  uint32_t policy;
  uint64_t flags;
  int32_t nice;
  uint32_t priority;
  uint64_t runtime;
  uint64_t deadline;
  uint64_t period;
};
static inline bool decode_step_set_scheduler(struct reader *in, struct step_set_scheduler *step) {
  step->policy = read_u32(in);
  step->flags = read_u64(in);
  step->nice = read_i32(in);
  step->priority = read_u32(in);
  step->runtime = read_u64(in);
  step->deadline = read_u64(in);
  step->period = read_u64(in);
  return reader_done(in);
}

/* ioprio_set(IOPRIO_WHO_PROCESS, 0, priority); the class is in bits 13 and up. */
struct step_set_io_priority {
  uint32_t priority;
};
static inline bool decode_step_set_io_priority(struct reader *in, struct step_set_io_priority *step) {
  step->priority = read_u32(in);
  return reader_done(in);
}

/* sched_setaffinity on the executing process; bit 0 of the first byte is CPU 0. */
struct step_set_cpu_affinity {
  struct bytes mask;
};
static inline bool decode_step_set_cpu_affinity(struct reader *in, struct step_set_cpu_affinity *step) {
  step->mask = read_bytes(in);
  return reader_done(in);
}

/* In a child: takes the link of this name down, moves it into the network namespace of the slot under
 * the new name, enters that namespace, gives the link the permanent addresses of scope global back that
 * it had, and takes it up. */
struct step_move_net_device {
  uint16_t network;
  const char *name;
  const char *new_name;
};
static inline bool decode_step_move_net_device(struct reader *in, struct step_move_net_device *step) {
  step->network = read_u16(in);
  step->name = read_text(in);
  step->new_name = read_text(in);
  return reader_done(in);
}

/* set_mempolicy on the executing process; bit 0 of the first byte is node 0, no byte at all means no
 * set. */
struct step_set_memory_policy {
  uint32_t mode;
  struct bytes nodes;
};
static inline bool decode_step_set_memory_policy(struct reader *in, struct step_set_memory_policy *step) {
  step->mode = read_u32(in);
  step->nodes = read_bytes(in);
  return reader_done(in);
}

/* Gives the root directory of the file system in the slot the mode of a directory, resolved with
 * RESOLVE_IN_ROOT below fromDir; where that is missing or no directory nothing happens. */
struct step_copy_mode {
  uint16_t from_dir;
  const char *from;
  uint16_t slot;
};
static inline bool decode_step_copy_mode(struct reader *in, struct step_copy_mode *step) {
  step->from_dir = read_u16(in);
  step->from = read_text(in);
  step->slot = read_u16(in);
  return reader_done(in);
}

/* fchdir(root), mount(".", "/", MS_MOVE), chroot("."), chdir("/"): what pivotRoot does where the root
 * is one that cannot be pivoted away from. */
struct step_move_root {
  uint16_t root;
};
static inline bool decode_step_move_root(struct reader *in, struct step_move_root *step) {
  step->root = read_u16(in);
  return reader_done(in);
}

/* In a child: runs a program in a process group of its own and waits for it. Its standard input is a
 * file that holds state, with a process number put in at byte pidAt (4294967295: none): that of the
 * /proc directory in slot process, or without a slot its own. ETIMEDOUT after timeoutMs, when the group
 * is killed; ECHILD when it ended by a signal or with another exit code than 0; else the errno of
 * execve. The detail has the end of its output. */
struct step_run_hook {
  const char *file;
  struct texts argv;
  struct texts env;
  const char *cwd;
  struct bytes state;
  uint32_t pid_at;
  uint16_t process;
  uint32_t timeout_ms;
};
static inline bool decode_step_run_hook(struct reader *in, struct step_run_hook *step) {
  step->file = read_text(in);
  step->argv = read_texts(in);
  step->env = read_texts(in);
  step->cwd = read_text(in);
  step->state = read_bytes(in);
  step->pid_at = read_u32(in);
  step->process = read_u16(in);
  step->timeout_ms = read_u32(in);
  return reader_done(in);
}

/* symlink(/proc/N/root<below>, path), where N is the process whose /proc directory is in the slot. */
struct step_link_root {
  uint16_t process;
  const char *below;
  const char *path;
};
static inline bool decode_step_link_root(struct reader *in, struct step_link_root *step) {
  step->process = read_u16(in);
  step->below = read_text(in);
  step->path = read_text(in);
  return reader_done(in);
}

/* fchdir(slot), chroot("."). For a child that has entered a mount namespace and goes on with the tree
 * that it had before. */
struct step_change_root {
  uint16_t slot;
};
static inline bool decode_step_change_root(struct reader *in, struct step_change_root *step) {
  step->slot = read_u16(in);
  return reader_done(in);
}

/* Closes every slot of this process. For one whose own program may look into it before it executes:
 * what a plan holds leads to the host. */
struct step_close_slots {
  char unused;
};
static inline bool decode_step_close_slots(struct reader *in, struct step_close_slots *step) {
  step->unused = 0;
  return reader_done(in);
}
