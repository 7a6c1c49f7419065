/*
 * What the files of the interpreter share: the list of steps, the helpers for paths below a slot, and errors. A step's
 * function takes its decoded fields and returns 0 or a positive errno; it may leave the kernel's own words in the failure.
 */
#pragma once
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include "plan.h"
#include "syscalls.h"

#define NAMESPACE_FLAGS ((uint32_t)(CLONE_NEWTIME | CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET))

/* The steps with a function of their own: X(CONSTANT, name). The dispatcher's switch fails to compile when one is missing. */
#define STEPS(X) \
  X(BARRIER, barrier) X(ASK, ask) X(EXPORT_SLOT, export_slot) X(FORK, fork) X(FORK_INSIDE, fork_inside) X(EXECUTE, execute) X(EXECUTE_PAUSE, execute_pause) \
  X(OPEN_PATH, open_path) X(CLOSE_SLOT, close_slot) X(MAKE_DIRECTORY, make_directory) X(MAKE_FILE, make_file) \
  X(WRITE_FILE, write_file) X(MAKE_LINK, make_link) X(MAKE_NODE, make_node) X(CHANGE_OWNER, change_owner) \
  X(REMOVE_FILE, remove_file) X(REMOVE_DIRECTORY, remove_directory) X(REMOVE_TREE, remove_tree) X(COPY_TREE, copy_tree) X(FILL_DIRECTORY, fill_directory) \
  X(SYNC_FILE_SYSTEM, sync_file_system) X(SHIFT_TREE, shift_tree) X(GIVE_STREAMS, give_streams) \
  X(UNSHARE, unshare) X(OPEN_NAMESPACE, open_namespace) X(ENTER_NAMESPACE, enter_namespace) X(SET_HOSTNAME, set_hostname) \
  X(SET_DOMAINNAME, set_domainname) X(NETLINK, netlink) X(SET_PROPAGATION, set_propagation) X(OPEN_TREE, open_tree) \
  X(NEW_FILE_SYSTEM, new_file_system) X(MOUNT, mount) X(SET_MOUNT_ATTRIBUTES, set_mount_attributes) X(MOVE_MOUNT, move_mount) \
  X(PIVOT_ROOT, pivot_root) X(UNMOUNT, unmount) X(MASK_PATH, mask_path) X(READONLY_PATH, readonly_path) \
  X(PIN_NAMESPACE, pin_namespace) X(REQUIRE_PROPAGATION, require_propagation) X(SET_RLIMIT, set_rlimit) X(SET_UMASK, set_umask) X(SET_GROUPS, set_groups) \
  X(SET_USER, set_user) X(LIMIT_CAPABILITIES, limit_capabilities) X(SET_CAPABILITIES, set_capabilities) \
  X(SET_NO_NEW_PRIVILEGES, set_no_new_privileges) X(SET_SECCOMP, set_seccomp) X(SET_SECCOMP_LISTENER, set_seccomp_listener) X(SEND_LISTENER, send_listener) X(CHANGE_DIRECTORY, change_directory) \
  X(SET_DUMPABLE, set_dumpable) X(SET_PARENT_DEATH_SIGNAL, set_parent_death_signal) X(NEW_SESSION, new_session) \
  X(OPEN_TERMINAL, open_terminal) X(JOIN_KEYRING, join_keyring) X(SET_PERSONALITY, set_personality) \
  X(CONNECT, connect) X(RELAY, relay) X(LISTEN, listen) X(AWAIT_START, await_start) X(KEEP_DESCRIPTORS, keep_descriptors) \
  X(FIND_EXECUTABLE, find_executable) \
  X(REOPEN_NULL, reopen_null) \
  X(ATTACH_DEVICE_FILTER, attach_device_filter) X(KILL_CGROUP, kill_cgroup) X(REMOVE_CGROUP, remove_cgroup) X(FREEZE_CGROUP, freeze_cgroup) X(SIGNAL_PROCESS, signal_process) \
  X(SET_SCHEDULER, set_scheduler) X(SET_IO_PRIORITY, set_io_priority) X(SET_CPU_AFFINITY, set_cpu_affinity) X(SET_MEMORY_POLICY, set_memory_policy) \
  X(MOVE_NET_DEVICE, move_net_device) X(COPY_MODE, copy_mode) X(MOVE_ROOT, move_root) \
  X(RUN_HOOK, run_hook) X(LINK_ROOT, link_root) X(CHANGE_ROOT, change_root) X(CLOSE_SLOTS, close_slots)

#define DECLARE_STEP(constant, name) int run_##name(struct run *run, const struct step_##name *step, struct failure *failure);
STEPS(DECLARE_STEP)
#undef DECLARE_STEP

/* Says in a step function's signature which of its parameters it does not need. */
#define UNUSED __attribute__((unused))

/* 0, or errno where a call returned a negative number. */
static inline int result(long returned) { return returned < 0 ? errno : 0; }
/* The same for calls that return a descriptor or -errno. */
static inline int error_of(int fd) { return fd < 0 ? -fd : 0; }
static inline int close_with(int fd, int err) {
  if (fd >= 0) close(fd);
  return err;
}

/* The kernel's words, cut at the detail's bound. */
void set_detail(struct failure *failure, const char *text, size_t size);

/* The slot's descriptor, -1 where it is empty or no slot at all. */
int slot_fd(const struct run *run, uint16_t slot);

/* --- paths (paths.c; trees in steps_tree.c). Descriptors come back as they are or as -errno; all are close-on-exec. */

/* openat2; EAGAIN (a rename raced with the resolution) is retried 32 times. */
int open_resolved(int dir, const char *path, int flags, unsigned mode, uint64_t resolve);
/* A path below a slot: the slot is its root, `""` the slot itself. Without a slot: the process's own root. No magic links. */
int open_below(const struct run *run, uint16_t slot, const char *path, int flags, uint64_t resolve);
/* The directory that holds the last component, which is copied to name; "." and ".." and "" have none (EINVAL). */
int open_parent(const struct run *run, uint16_t slot, const char *path, bool create, char name[static 256]);
enum target_kind { TARGET_NONE = 0, TARGET_DIRECTORY = 1, TARGET_FILE = 2 };
/* O_PATH descriptor of path below the slot; what is missing is made component by component, dangling links resolved inside. */
int open_or_create(const struct run *run, uint16_t slot, const char *path, enum target_kind kind, uint64_t resolve);
/* True when fd is on a file system with this magic number. */
bool is_on(int fd, long magic);
bool is_device(int fd, unsigned major_number, unsigned minor_number);
/* True when fd is the very directory that paths below the slot start from; never without a slot. */
bool is_slot_itself(const struct run *run, uint16_t slot, int fd);
int write_all(int fd, const void *data, size_t size);
/* Removes name below parent with everything in it; stays on one mount. Returns 0 or errno (ENOENT when missing). */
int remove_tree_at(int parent, const char *name);

/* --- mounts (steps_mount.c) */

/* Detached copy of the mount that fd is on, rooted at fd. */
int clone_tree(int fd, bool recursive);
int attach(int mount_fd, int target_fd);

/* --- netlink (steps_namespace.c) */

/* A socket of this protocol in the network namespace of the process, with deadlines and the kernel's own words; or -errno. */
int open_netlink(uint32_t protocol);
/* Waits for this many acknowledgements; the first error ends that. */
int await_acks(int fd, int wanted, struct failure *failure);

/* --- processes (steps_process.c) */

/* Standard streams in place, everything else close-on-exec, signals at their defaults. May be called twice. */
int prepare_streams(struct run *run);
int tell_parent(const struct run *run, uint32_t type, uint32_t value, int fd);
/* Waits for PARENT_GO by plain reads, which a filter in force hardly forbids. */
int await_go(int control);
/* PATH of the environment, or the default one. */
const char *path_of(const struct texts *env);
/* The last message before the payload, which `relay` is too. Afterwards a failure cannot be told any more. */
int tell_executing(const struct run *run);
/* Drops all that is not in keep from the bounding set. */
int limit_bounding(uint64_t keep);
/* The number of the process whose /proc directory the slot holds, as that procfs shows it. */
int number_of_process(const struct run *run, uint16_t slot, int *pid);
void sleep_ms(unsigned ms);
uint64_t now_ms(void);
