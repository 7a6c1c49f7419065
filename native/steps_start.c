/*
 * Steps of a container whose parent does not stay: its start socket, the descriptors that its caller handed over, and the search for
 * its program before anybody wants to execute it. In: decoded steps. Out: a process that waits without any process of ours beside it.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include "steps.h"

#define PARENT_BYTES 4096
/* One starter at a time has the lock of the state directory; a second place is for one that died just now. */
#define START_BACKLOG 2

/* unix(7) bounds a path to 107 bytes; the directory's descriptor makes any path short. */
static int bind_below(int directory, const char *name, int fd) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  int length = snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d/%s", directory, name);
  if (length < 0 || (size_t)length >= sizeof address.sun_path) return ENAMETOOLONG;
  /* SAFETY: the file is made with its final mode, so nobody but its owner ever connects. */
  mode_t old = umask(0177);
  int err = result(bind(fd, (struct sockaddr *)&address, sizeof address));
  umask(old);
  return err;
}

int run_listen(struct run *run, const struct step_listen *step, struct failure *failure UNUSED) {
  const char *slash = strrchr(step->path, '/');
  char parent[PARENT_BYTES];
  if (slash == NULL || slash[1] == 0 || step->out >= SLOT_COUNT) return EINVAL;
  if ((size_t)(slash - step->path) + 2 > sizeof parent) return ENAMETOOLONG;
  snprintf(parent, sizeof parent, "%.*s/", (int)(slash - step->path), step->path);
  int directory = open(parent, O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (directory < 0) return errno;
  int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0), err = result(fd);
  if (err == 0) err = bind_below(directory, slash + 1, fd);
  if (err == 0) err = result(listen(fd, START_BACKLOG));
  close(directory);
  if (err != 0) return close_with(fd, err);
  slots_set(run->slots, step->out, fd);
  return 0;
}

/* The connection of a starter that means it: one that died in between has said nothing. */
static int accept_start(int listener) {
  for (;;) {
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (fd < 0 && (errno == EINTR || errno == ECONNABORTED)) continue;
    if (fd < 0) return -errno;
    if (await_go(fd) == 0) return fd;
    close(fd);
  }
}

static _Noreturn void end_by_signal(int number) { _exit(128 + number); }

/* The first process of a PID namespace gets no signal without a handler, and whoever ends what waits expects that it ends. Executing takes the handlers away. */
static void heed_signals(void) {
  static const int ends[] = {SIGHUP, SIGINT, SIGQUIT, SIGTERM};
  for (size_t i = 0; getpid() == 1 && i < sizeof ends / sizeof *ends; i++) signal(ends[i], end_by_signal);
}

int run_await_start(struct run *run, const struct step_await_start *step, struct failure *failure UNUSED) {
  int listener = slot_fd(run, step->slot);
  if (listener < 0) return EBADF;
  if (run->control < 0) return EPERM;
  /* SAFETY: what a plan holds leads to the host, and this process may wait inside the container's namespaces for days. */
  for (uint16_t i = 0; i < SLOT_COUNT; i++)
    if (i != step->slot) slots_set(run->slots, i, -1);
  close_with(run->executable, 0);
  run->executable = -1;
  /* The caller's own streams must not stay open here where the process has a terminal: whoever reads them waits for their end. */
  int err = prepare_streams(run);
  /* A payload's filter may be in force already. Where it forbids the wait that is told now, while somebody listens. */
  if (err == 0 && accept4(-1, NULL, NULL, SOCK_CLOEXEC) < 0 && errno != EBADF) err = errno;
  /* Before it is told: the parent may end right after. */
  if (err == 0) err = result(prctl(PR_SET_PDEATHSIG, 0, 0, 0, 0));
  heed_signals();
  if (err == 0) err = tell_parent(run, CHILD_BARRIER, 1, -1);
  if (err != 0) return err;
  int starter = accept_start(listener);
  close(run->control);
  run->control = starter; /* where it is none, nobody is left to be told */
  slots_set(run->slots, step->slot, -1);
  return error_of(starter);
}

static bool is_null(int fd) {
  struct stat info;
  return fd >= 0 && fstat(fd, &info) == 0 && S_ISCHR(info.st_mode) && info.st_rdev == makedev(1, 3);
}

/* Looked at before it is opened: opening another device might do something. Streams that belong to a file of the container can be written to an image. */
int run_reopen_null(struct run *run, const struct step_reopen_null *step UNUSED, struct failure *failure UNUSED) {
  for (int i = 0; i < 3; i++) {
    if (!is_null(run->stdio[i])) continue;
    struct kernel_open_how how = {.flags = O_PATH | O_NOFOLLOW | O_CLOEXEC, .resolve = RESOLVE_NO_SYMLINKS};
    int place = sys_openat2(AT_FDCWD, "/dev/null", &how);
    how.flags = O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC;
    int own = is_null(place) ? sys_openat2(AT_FDCWD, "/dev/null", &how) : -1;
    if (is_null(own)) {
      fcntl(own, F_SETFL, 0);
      dup3(own, run->stdio[i], run->stdio[i] > 2 ? O_CLOEXEC : 0);
    }
    if (own >= 0) close(own);
    if (place >= 0) close(place);
  }
  return 0;
}

int run_keep_descriptors(struct run *run, const struct step_keep_descriptors *step, struct failure *failure UNUSED) {
  if (step->count > run->preserved) return EBADF;
  run->kept = step->count;
  for (uint32_t i = 0; i < step->count; i++)
    if (fcntl(3 + (int)i, F_SETFD, 0) < 0) return errno;
  return 0;
}

/* --- the program */

static int check_executable(const char *path) {
  struct stat info;
  if (stat(path, &info) < 0) return errno;
  if (S_ISDIR(info.st_mode)) return EISDIR;
  /* The process is its own user by now, so the real ids that access(2) looks at are the effective ones. */
  return result(access(path, X_OK));
}

int run_find_executable(struct run *run UNUSED, const struct step_find_executable *step, struct failure *failure) {
  char candidate[PARENT_BYTES];
  set_detail(failure, step->file, strlen(step->file));
  if (strchr(step->file, '/') != NULL) return check_executable(step->file);
  if (step->file[0] == 0) return ENOENT;
  for (const char *at = path_of(&step->env), *end;; at = end + 1) {
    end = at + strcspn(at, ":");
    int size = snprintf(candidate, sizeof candidate, "%.*s%s%s", (int)(end - at), at, end == at ? "" : "/", step->file);
    if (size > 0 && (size_t)size < sizeof candidate && check_executable(candidate) == 0) return 0;
    if (*end == 0) return ENOENT;
  }
}
