/*
 * The unpack child: its confinement, its stream and its answer. In: layer records from a stream socket, compiled from a tar
 * that may be hostile. Out: one OK or FAILED frame. It sees nothing but the layer's directory: the kernel gives it a root of
 * its own, an empty network, few capabilities and a list of system calls.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/time.h>
#include "frame.h"
#include "layer.h"

#define DRAIN_SECONDS 10
#define CAPABILITY(number) ((uint64_t)1 << (number))

static int read_input(struct unpack *u, void *to, size_t size) {
  for (size_t at = 0; at < size;) {
    if (u->input_at < u->input_size) {
      size_t part = u->input_size - u->input_at < size - at ? u->input_size - u->input_at : size - at;
      memcpy((uint8_t *)to + at, u->input + u->input_at, part);
      u->input_at += part;
      at += part;
      continue;
    }
    /* What fills the input buffer anyway goes where it belongs. */
    bool direct = size - at >= sizeof u->input;
    ssize_t got = direct ? read(u->connection, (uint8_t *)to + at, size - at) : read(u->connection, u->input, sizeof u->input);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return got < 0 ? errno : ECONNRESET;
    if (direct) {
      at += (size_t)got;
      continue;
    }
    u->input_at = 0;
    u->input_size = (size_t)got;
  }
  return 0;
}

/* Reads and applies records until `finish`. */
static int unpack_stream(struct unpack *u) {
  uint8_t header[8];
  for (;;) {
    int err = read_input(u, header, sizeof header);
    if (err != 0) return err;
    uint32_t size = (uint32_t)header[4] | (uint32_t)header[5] << 8 | (uint32_t)header[6] << 16 | (uint32_t)header[7] << 24;
    if (size > BODY_BYTES_MAX || header[1] != 0 || header[2] != 0 || header[3] != 0) return EPROTO;
    bool data = header[0] == LAYER_DATA;
    if (!data && (err = finish_file(u)) != 0) return err;
    if ((err = read_input(u, data ? u->data : u->body, size)) != 0) return err;
    if (header[0] == LAYER_FINISH) break;
    if (header[0] == LAYER_INSPECT) return inspect_layer(u);
    if ((err = data ? unpack_data(u, size) : unpack_record(u, header[0], size)) != 0) return err;
  }
  u->path[0] = 0;
  return set_times(u);
}

/* --- confinement */

static const int allowed_calls[] = {
  SYS_read, SYS_sendto, SYS_close, SYS_openat2, SYS_fstat, SYS_newfstatat, SYS_mkdirat, SYS_mknodat, SYS_symlinkat, SYS_linkat,
  SYS_unlinkat, SYS_fchown, SYS_fchownat, SYS_fchmod, SYS_fchmodat, SYS_utimensat, SYS_fsetxattr, SYS_lsetxattr, SYS_lgetxattr, SYS_llistxattr, SYS_flistxattr, SYS_readlinkat,
  SYS_fremovexattr, SYS_lseek, SYS_pwrite64, SYS_ftruncate, SYS_getdents64, SYS_fchdir, SYS_sync_file_range, SYS_setsockopt, SYS_shutdown,
  SYS_brk, SYS_mmap, SYS_munmap, SYS_mremap, SYS_madvise, SYS_rt_sigreturn, SYS_exit_group,
};
#if defined __x86_64__
#define AUDIT_ARCH 0xc000003eu
#elif defined __aarch64__
#define AUDIT_ARCH 0xc00000b7u
#else
#error "the system-call filter of the unpack child is not written for this architecture"
#endif

/*
 * Any other call, and any other architecture's, kills the process. Numbers of x32 are none of ours, so they fall through.
 * The sanitizers' run time makes calls of its own at any moment, so their test builds go without the filter.
 */
static int allow_calls(void) {
#ifdef __SANITIZE_ADDRESS__
  return 0;
#endif
  enum { LOAD = 0x20, JUMP_EQUAL = 0x15, RETURN = 0x06, COUNT = sizeof allowed_calls / sizeof *allowed_calls };
  const uint32_t kill_process = 0x80000000u, allow = 0x7fff0000u;
  struct kernel_filter filter[COUNT + 6] = {{LOAD, 0, 0, 4}, {JUMP_EQUAL, 1, 0, AUDIT_ARCH}, {RETURN, 0, 0, kill_process}, {LOAD, 0, 0, 0}};
  for (int i = 0; i < COUNT; i++) filter[4 + i] = (struct kernel_filter){JUMP_EQUAL, (uint8_t)(COUNT - i), 0, (uint32_t)allowed_calls[i]};
  filter[4 + COUNT] = (struct kernel_filter){RETURN, 0, 0, kill_process};
  filter[5 + COUNT] = (struct kernel_filter){RETURN, 0, 0, allow};
  struct kernel_filter_program program = {COUNT + 6, filter};
  return result(sys_seccomp(SECCOMP_SET_FILTER, 0, &program));
}

/* CHOWN, DAC_OVERRIDE, FOWNER, FSETID, SYS_ADMIN (trusted.* attributes; the filter has no mount call), MKNOD, SETFCAP. */
static int limit_powers(void) {
  uint64_t keep = CAPABILITY(0) | CAPABILITY(1) | CAPABILITY(3) | CAPABILITY(4) | CAPABILITY(21) | CAPABILITY(27) | CAPABILITY(31);
  struct rlimit no_core = {0, 0};
  struct kernel_capability_header header = {.version = 0x20080522};
  struct kernel_capability_data data[2];
  if (syscall(SYS_capget, &header, data) < 0) return errno;
  keep &= (uint64_t)data[0].permitted | (uint64_t)data[1].permitted << 32;
  if (setrlimit(RLIMIT_CORE, &no_core) < 0) return errno;
  int err = limit_bounding(keep);
  if (err == 0) err = result(sys_capset(keep, keep, 0));
  if (err == 0) err = result(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
  if (err == 0) err = result(prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0));
  return err;
}

/*
 * SAFETY: after this the process has one mount, the layer's, without devices, set-user-id, execution or links that are
 * followed; whiteouts and nodes can still be made there, which is all that a layer needs. root_dir is where it is mounted
 * in the private namespace, the layer itself where it is empty.
 */
static int enter_layer(struct unpack *u, const char *layer_dir, const char *root_dir) {
  struct kernel_mount_attr attr = {.set = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC | MOUNT_ATTR_NOSYMFOLLOW};
  if (unshare(CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS) < 0) return errno;
  if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0) return errno;
  int layer = open(layer_dir, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  int at = open(root_dir[0] == 0 ? layer_dir : root_dir, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (layer < 0 || at < 0) {
    int err = errno;
    if (layer >= 0) strncpy(u->path, root_dir, sizeof u->path - 1);
    return err;
  }
  int tree = clone_tree(layer, false), err = error_of(tree);
  if (err == 0) err = result(sys_mount_setattr(tree, 0, &attr));
  if (err == 0) err = attach(tree, at);
  if (err == 0 && (fchdir(tree) < 0 || sys_pivot_root(".", ".") < 0 || umount2(".", MNT_DETACH) < 0 || chdir("/") < 0)) err = errno;
  if (err == 0 && (u->root = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0) err = errno;
  close(layer);
  close(at);
  return close_with(tree, err);
}

/* Only the connection stays open, blocking; everything else of the starter goes. */
static int shed_descriptors(struct unpack *u) {
  if (u->connection != 3 && dup3(u->connection, 3, O_CLOEXEC) < 0) return errno;
  u->connection = 3;
  if (fcntl(3, F_SETFL, 0) < 0) return errno;
  return result(sys_close_range(4, ~0u, 0));
}

static int confine(struct unpack *u, const char *layer_dir, const char *root_dir) {
  prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
  umask(0);
  u->body = malloc(BODY_BYTES_MAX);
  u->data = malloc(BODY_BYTES_MAX);
  if (u->body == NULL || u->data == NULL) return ENOMEM;
  int err = shed_descriptors(u);
  if (err == 0) err = enter_layer(u, layer_dir, root_dir);
  if (err == 0) err = limit_powers();
  return err != 0 ? err : allow_calls();
}

/* --- answer */

static void answer(const struct unpack *u, int err) {
  struct buffer out = {.data = NULL};
  struct failure failure = {.err = err};
  set_detail(&failure, u->path, strlen(u->path));
  if (err == 0) put_ok(&out, u->request_id, u->entries);
  else put_failed(&out, u->request_id, &failure);
  while (!out.failed && buffer_size(&out) > 0) {
    ssize_t sent = send(u->connection, out.data + out.start, buffer_size(&out), MSG_NOSIGNAL);
    if (sent <= 0) return;
    buffer_consume(&out, (size_t)sent);
  }
}

_Noreturn void unpack_main(int connection, uint32_t request_id, const char *layer_dir, const char *root_dir) {
  static struct unpack u; /* large: without an initial value it takes no room in the executable */
  u.root = u.parent = u.file = -1;
  u.connection = connection;
  u.request_id = request_id;
  strncpy(u.path, layer_dir, sizeof u.path - 1);
  int err = confine(&u, layer_dir, root_dir);
  if (err == 0) {
    u.path[0] = 0;
    err = unpack_stream(&u);
  }
  answer(&u, err);
  /* A socket that is closed with unread input resets, and the answer would be lost: take what is still coming. */
  struct timeval wait = {.tv_sec = DRAIN_SECONDS};
  setsockopt(u.connection, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait);
  shutdown(u.connection, SHUT_WR);
  while (err != 0 && read(u.connection, u.input, sizeof u.input) > 0) continue;
  _exit(err != 0);
}
