/*
 * Steps on the process itself: limits, identity, capabilities, working directory, terminal. In: numbers and a
 * compiled filter. Out: kernel calls on the executing process. None is open to the host actor.
 */
#define _GNU_SOURCE
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/sysmacros.h>
#include <time.h>
#include "steps.h"

#define CAPABILITY_COUNT 64
#define KEYCTL_JOIN_SESSION 1
#define DEVPTS_MAJOR_FIRST 136
#define DEVPTS_MAJOR_LAST 143

void sleep_ms(unsigned ms) {
  struct timespec time = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};
  nanosleep(&time, NULL);
}

uint64_t now_ms(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (uint64_t)time.tv_sec * 1000 + (uint64_t)time.tv_nsec / 1000000;
}

/* Moves a descriptor that sits at 0, 1 or 2 out of the way of the streams. */
static int move_up(int *fd) {
  if (*fd < 0 || *fd > 2) return 0;
  int moved = fcntl(*fd, F_DUPFD_CLOEXEC, 3);
  if (moved < 0) return errno;
  *fd = moved;
  return 0;
}

/* Raw, because the C library refuses its own signals; ignored ones survive execve, so all are reset. */
static int reset_signals(void) {
  struct { void *handler; unsigned long flags; void *restorer; uint64_t mask; } standard = {.handler = NULL};
  for (int signal = 1; signal <= 64; signal++) {
    if (signal != SIGKILL && signal != SIGSTOP && syscall(SYS_rt_sigaction, signal, &standard, NULL, 8) < 0) return errno;
  }
  uint64_t none = 0;
  return result(syscall(SYS_rt_sigprocmask, SIG_SETMASK, &none, NULL, 8));
}

int prepare_streams(struct run *run) {
  if (run->stdio[0] == 0 && run->stdio[1] == 1 && run->stdio[2] == 2) return 0;
  int err = move_up(&run->control);
  if (err == 0) err = move_up(&run->executable);
  for (int i = 0; err == 0 && i < SLOT_COUNT; i++) err = move_up(&run->slots->fd[i]);
  for (int i = 0; err == 0 && i < 3; i++) err = move_up(&run->stdio[i]);
  for (int i = 0; err == 0 && i < 3; i++) {
    if (run->stdio[i] < 0) fcntl(i, F_SETFD, FD_CLOEXEC);
    else if (dup2(run->stdio[i], i) < 0) err = errno;
    run->stdio[i] = i;
  }
  /* SAFETY: covers descriptors of whatever origin, also those that a library or a parent left inheritable. */
  if (err == 0) err = result(sys_close_range(3 + run->kept, ~0u, CLOSE_RANGE_CLOEXEC));
  return err != 0 ? err : reset_signals();
}

int run_set_rlimit(struct run *run UNUSED, const struct step_set_rlimit *step, struct failure *failure UNUSED) {
  uint64_t limits[2] = {step->soft, step->hard};
  return result(syscall(SYS_prlimit64, 0, step->resource, limits, NULL));
}

int run_set_umask(struct run *run UNUSED, const struct step_set_umask *step, struct failure *failure UNUSED) {
  umask(step->mask & 0777);
  return 0;
}

int run_set_groups(struct run *run UNUSED, const struct step_set_groups *step, struct failure *failure UNUSED) {
  return result(syscall(SYS_setgroups, (size_t)step->gids.count, step->gids.items));
}

/* A change of credentials clears the parent death signal and resets the dumpable flag; both are put back as they were. */
struct kept { int dumpable, signal; };
static struct kept keep_guards(void) {
  struct kept kept = {.dumpable = prctl(PR_GET_DUMPABLE, 0, 0, 0, 0)};
  prctl(PR_GET_PDEATHSIG, &kept.signal, 0, 0, 0);
  return kept;
}

static int restore_guards(struct kept kept, int err) {
  if (err == 0 && kept.dumpable == 0) err = result(prctl(PR_SET_DUMPABLE, 0, 0, 0, 0));
  if (err == 0 && kept.signal != 0) err = result(prctl(PR_SET_PDEATHSIG, kept.signal, 0, 0, 0));
  return err;
}

/* A pipe or terminal given to the process belongs to its user, so that it can open /dev/stdout or /dev/stderr again. */
static void give_streams(const struct run *run, uint32_t uid, uint32_t gid) {
  struct stat info;
  for (int i = 0; i < 3; i++) {
    if (run->stdio[i] < 0 || fstat(run->stdio[i], &info) < 0 || (info.st_uid == uid && (gid == UINT32_MAX || info.st_gid == gid))) continue;
    bool terminal = S_ISCHR(info.st_mode) && major(info.st_rdev) >= DEVPTS_MAJOR_FIRST && major(info.st_rdev) <= DEVPTS_MAJOR_LAST;
    /* Best effort: on a read-only or foreign file system the streams still work as they are. */
    if ((terminal || S_ISFIFO(info.st_mode)) && fchown(run->stdio[i], uid, gid) < 0) continue;
  }
}

int run_give_streams(struct run *run, const struct step_give_streams *step, struct failure *failure UNUSED) {
  if (step->uid == UINT32_MAX || step->gid == UINT32_MAX) return EINVAL;
  give_streams(run, step->uid, step->gid);
  return 0;
}

int run_set_user(struct run *run, const struct step_set_user *step, struct failure *failure UNUSED) {
  struct kept kept = keep_guards();
  if (step->uid == UINT32_MAX || step->gid == UINT32_MAX) return EINVAL; /* "no change" to the kernel */
  give_streams(run, step->uid, UINT32_MAX);
  int err = result(prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0));
  if (err == 0) err = result(syscall(SYS_setresgid, step->gid, step->gid, step->gid));
  if (err == 0) err = result(syscall(SYS_setresuid, step->uid, step->uid, step->uid));
  return restore_guards(kept, err);
}

int limit_bounding(uint64_t keep) {
  for (unsigned capability = 0; capability < CAPABILITY_COUNT; capability++) {
    if ((keep >> capability & 1) != 0) continue;
    int held = prctl(PR_CAPBSET_READ, capability, 0, 0, 0);
    if (held > 0 && prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) < 0) return errno;
  }
  return 0;
}

int run_limit_capabilities(struct run *run UNUSED, const struct step_limit_capabilities *step, struct failure *failure UNUSED) {
  return limit_bounding(step->bounding);
}

int run_set_capabilities(struct run *run UNUSED, const struct step_set_capabilities *step, struct failure *failure UNUSED) {
  struct kept kept = keep_guards();
  int err = result(sys_capset(step->effective, step->permitted, step->inheritable));
  if (err == 0) err = result(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0));
  for (unsigned capability = 0; err == 0 && capability < CAPABILITY_COUNT; capability++) {
    if ((step->ambient >> capability & 1) != 0) err = result(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0));
  }
  return restore_guards(kept, err);
}

int run_set_no_new_privileges(struct run *run UNUSED, const struct step_set_no_new_privileges *step UNUSED, struct failure *failure UNUSED) {
  return result(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
}

/* Whether the way up from the working directory ends at the root: for a filter that refuses getcwd. */
static bool is_below_root(void) {
  struct stat root, at, above;
  int fd = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);
  bool below = false;
  if (fd >= 0 && stat("/", &root) == 0 && fstat(fd, &at) == 0) {
    for (unsigned depth = 0; depth < PATH_MAX; depth++) {
      int up = openat(fd, "..", O_PATH | O_DIRECTORY | O_CLOEXEC);
      if (up < 0) break;
      close(fd);
      fd = up;
      if (fstat(fd, &above) < 0) break;
      if (above.st_dev == at.st_dev && above.st_ino == at.st_ino) { /* the top of whatever tree this is */
        below = at.st_dev == root.st_dev && at.st_ino == root.st_ino;
        break;
      }
      at = above;
    }
  }
  if (fd >= 0) close(fd);
  return below;
}

int run_change_directory(struct run *run, const struct step_change_directory *step, struct failure *failure UNUSED) {
  char path[PATH_MAX];
  if (step->create != 0) {
    int fd = open_or_create(run, NO_SLOT, step->path, TARGET_DIRECTORY, 0);
    if (fd < 0) return -fd;
    close(fd);
  }
  if (chdir(step->path) < 0) return errno;
  /* SAFETY: a directory outside the root has no path that starts with a slash (CVE-2024-21626). */
  if (syscall(SYS_getcwd, path, sizeof path) > 0) return path[0] == '/' ? 0 : EPERM;
  return errno != ENOENT && is_below_root() ? 0 : EPERM;
}

int run_set_dumpable(struct run *run UNUSED, const struct step_set_dumpable *step, struct failure *failure UNUSED) {
  return result(prctl(PR_SET_DUMPABLE, step->dumpable != 0, 0, 0, 0));
}

int run_set_parent_death_signal(struct run *run, const struct step_set_parent_death_signal *step, struct failure *failure UNUSED) {
  struct pollfd parent = {.fd = run->control};
  if (prctl(PR_SET_PDEATHSIG, step->signal, 0, 0, 0) < 0) return errno;
  /* getppid says nothing across PID namespaces; the other end of the control socket dies with the parent. */
  return poll(&parent, 1, 0) > 0 && (parent.revents & (POLLHUP | POLLERR)) != 0 ? ESRCH : 0;
}

int run_new_session(struct run *run, const struct step_new_session *step, struct failure *failure UNUSED) {
  if (setsid() < 0) return errno;
  return step->controlling_terminal == 0 ? 0 : result(ioctl(run->stdio[0], TIOCSCTTY, 0));
}

/*
 * SAFETY: the multiplexer is verified by an O_PATH descriptor before it is opened and again afterwards, and the other side
 * comes from the kernel and not from a path, so no link or foreign device takes their place (CVE-2025-52565).
 */
static int open_multiplexer(const struct run *run, uint16_t root, const char *path) {
  int fd = open_below(run, root, path, O_PATH, 0);
  if (fd < 0) return fd;
  bool good = is_device(fd, 5, 2) && is_on(fd, MAGIC_DEVPTS);
  close(fd);
  if (!good) return -EPERM;
  fd = open_below(run, root, path, O_RDWR | O_NOCTTY | O_NONBLOCK, 0);
  if (fd < 0) return fd;
  if (!is_device(fd, 5, 2) || !is_on(fd, MAGIC_DEVPTS)) return -close_with(fd, EPERM);
  fcntl(fd, F_SETFL, O_RDWR); /* O_NONBLOCK was for a FIFO in its place */
  return fd;
}

static int open_peer(int multiplexer, uint32_t columns, uint32_t rows) {
  struct winsize size = {.ws_col = (unsigned short)columns, .ws_row = (unsigned short)rows};
  struct stat info;
  int locked = 0;
  if (ioctl(multiplexer, TIOCSPTLCK, &locked) < 0) return -errno;
  if (columns != 0 && rows != 0 && ioctl(multiplexer, TIOCSWINSZ, &size) < 0) return -errno;
  int peer = ioctl(multiplexer, IOCTL_TERMINAL_PEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
  if (peer < 0) return -errno;
  bool good = fstat(peer, &info) == 0 && S_ISCHR(info.st_mode) && is_on(peer, MAGIC_DEVPTS);
  return good ? peer : -close_with(peer, EPERM);
}

static int cover_console(const struct run *run, uint16_t root, const char *target, int peer) {
  int console = open_or_create(run, root, target, TARGET_FILE, RESOLVE_NO_SYMLINKS);
  if (console < 0) return -console;
  int tree = clone_tree(peer, false), err = tree < 0 ? -tree : attach(tree, console);
  close_with(tree, 0);
  return close_with(console, err);
}

int run_open_terminal(struct run *run, const struct step_open_terminal *step, struct failure *failure UNUSED) {
  struct child_message message = {.type = CHILD_TERMINAL};
  int multiplexer = open_multiplexer(run, step->root, step->path);
  if (multiplexer < 0) return -multiplexer;
  int peer = open_peer(multiplexer, step->columns, step->rows), err = error_of(peer);
  if (err == 0 && step->console_target[0] != 0) err = cover_console(run, step->root, step->console_target, peer);
  if (err == 0) err = run->control < 0 ? EPERM : -send_message(run->control, &message, multiplexer);
  for (int i = 0; err == 0 && i < 3; i++) run->stdio[i] = peer;
  if (err != 0) close_with(peer, 0);
  return close_with(multiplexer, err);
}

int run_join_keyring(struct run *run UNUSED, const struct step_join_keyring *step, struct failure *failure UNUSED) {
  return result(syscall(SYS_keyctl, KEYCTL_JOIN_SESSION, step->name[0] == 0 ? NULL : step->name));
}

int run_set_personality(struct run *run UNUSED, const struct step_set_personality *step, struct failure *failure UNUSED) {
  return result(personality(step->persona));
}
