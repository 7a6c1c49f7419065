/*
 * System calls that musl does not wrap, and the numbers and structures of the kernel's interface that its headers lack
 * (linux/openat2.h, linux/mount.h, linux/magic.h, linux/bpf.h …). Every wrapper returns what the call returns, errno set.
 */
#pragma once
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

/* linux/openat2.h */
#define RESOLVE_NO_XDEV 0x01u
#define RESOLVE_NO_MAGICLINKS 0x02u
#define RESOLVE_NO_SYMLINKS 0x04u
#define RESOLVE_BENEATH 0x08u
#define RESOLVE_IN_ROOT 0x10u
struct kernel_open_how { uint64_t flags, mode, resolve; };

/* linux/mount.h; glibc, which the sanitizer builds use, has these in sys/mount.h. */
#ifdef __GLIBC__
#include <sys/mount.h>
#else
#define OPEN_TREE_CLONE 1u
#define OPEN_TREE_CLOEXEC ((unsigned)O_CLOEXEC)
#define MOVE_MOUNT_F_EMPTY_PATH 0x04u
#define MOVE_MOUNT_T_EMPTY_PATH 0x40u
#define FSOPEN_CLOEXEC 1u
#define FSMOUNT_CLOEXEC 1u
#define FSCONFIG_SET_FLAG 0u
#define FSCONFIG_SET_STRING 1u
#define FSCONFIG_CMD_CREATE 6u
#define MOUNT_ATTR_RDONLY 0x01u
#define MOUNT_ATTR_NOSUID 0x02u
#define MOUNT_ATTR_NODEV 0x04u
#define MOUNT_ATTR_NOEXEC 0x08u
#define MOUNT_ATTR_NOSYMFOLLOW 0x200000u
#define MOUNT_ATTR_IDMAP 0x100000u
#define CLOSE_RANGE_CLOEXEC 4u
#endif
#ifndef AT_RECURSIVE
#define AT_RECURSIVE 0x8000
#endif
struct kernel_mount_attr { uint64_t set, clear, propagation, user_namespace; };

/* linux/magic.h */
#define MAGIC_PROC 0x9fa0
#define MAGIC_SYSFS 0x62656572
#define MAGIC_CGROUP 0x27e0eb
#define MAGIC_CGROUP2 0x63677270
#define MAGIC_DEVPTS 0x1cd1
#define MAGIC_NSFS 0x6e736673
#define PROC_ROOT_INODE 1

#define IOCTL_NAMESPACE_TYPE 0xb703 /* NS_GET_NSTYPE, linux/nsfs.h */
#define IOCTL_TERMINAL_PEER 0x5441  /* TIOCGPTPEER */

static inline int sys_openat2(int dir, const char *path, const struct kernel_open_how *how) {
  return (int)syscall(SYS_openat2, dir, path, how, sizeof *how);
}
static inline int sys_open_tree(int dir, const char *path, unsigned flags) {
  return (int)syscall(SYS_open_tree, dir, path, flags);
}
/* Both ends by descriptor. */
static inline int sys_move_mount(int from, int to) {
  return (int)syscall(SYS_move_mount, from, "", to, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
}
static inline int sys_mount_setattr(int fd, unsigned flags, const struct kernel_mount_attr *attr) {
  return (int)syscall(SYS_mount_setattr, fd, "", flags | AT_EMPTY_PATH, attr, sizeof *attr);
}
static inline int sys_fsopen(const char *type) { return (int)syscall(SYS_fsopen, type, FSOPEN_CLOEXEC); }
static inline int sys_fsconfig(int fd, unsigned command, const char *key, const char *value) {
  return (int)syscall(SYS_fsconfig, fd, command, key, value, 0);
}
static inline int sys_fsmount(int fd, unsigned attributes) { return (int)syscall(SYS_fsmount, fd, FSMOUNT_CLOEXEC, attributes); }
static inline int sys_pivot_root(const char *new_root, const char *put_old) {
  return (int)syscall(SYS_pivot_root, new_root, put_old);
}
static inline int sys_close_range(unsigned first, unsigned last, unsigned flags) {
  return (int)syscall(SYS_close_range, first, last, flags);
}
static inline int sys_execveat(int fd, const char *path, char *const argv[], char *const env[], int flags) {
  return (int)syscall(SYS_execveat, fd, path, argv, env, flags);
}
static inline int sys_seccomp(unsigned operation, unsigned flags, void *argument) {
  return (int)syscall(SYS_seccomp, operation, flags, argument);
}
static inline int sys_bpf(int command, void *attr, unsigned size) { return (int)syscall(SYS_bpf, command, attr, size); }

/* linux/capability.h, version 3: two words of 32 capabilities each. */
struct kernel_capability_header { uint32_t version; int32_t pid; };
struct kernel_capability_data { uint32_t effective, permitted, inheritable; };
static inline int sys_capset(uint64_t effective, uint64_t permitted, uint64_t inheritable) {
  struct kernel_capability_header header = {.version = 0x20080522};
  struct kernel_capability_data data[2] = {
    {(uint32_t)effective, (uint32_t)permitted, (uint32_t)inheritable},
    {(uint32_t)(effective >> 32), (uint32_t)(permitted >> 32), (uint32_t)(inheritable >> 32)},
  };
  return (int)syscall(SYS_capset, &header, data);
}

/* linux/filter.h and linux/seccomp.h */
#define SECCOMP_SET_FILTER 1u
#define SECCOMP_NEW_LISTENER 8u
struct kernel_filter { uint16_t code; uint8_t if_true, if_false; uint32_t k; };
struct kernel_filter_program { uint16_t length; struct kernel_filter *filter; };
