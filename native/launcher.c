/*
 * The launcher: the engine's only child. It holds the state directory's lock, forks shims and one-shot runners quickly
 * and executes everything from one sealed memfd. In: one request per connection. It never touches a tenant's path.
 */
#include "child.h"
#include "frame.h"
#include "roles.h"
#include "sealed.h"
#include "syscalls.h"
#include "tool.h"
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#define PENDING_MAX 64
enum { POLL_CONTROL, POLL_LISTENER, POLL_SIGNALS, POLL_PENDING };

/* A connection whose request is not complete. */
struct pending { int fd; struct frame frame; };

struct child { struct child *next; pid_t pid; char pod_id[]; };

static struct {
  int executable, lock, listener, signals;
  pid_t parent;
  const char *run_directory;
  struct pending pending[PENDING_MAX];
  struct child *shims;
} launcher;

/* --- shims --- */

/* What the short-lived copy of the launcher needs until it executes; it shares our memory, so errors come back here. */
struct birth {
  int connection, data, err;
  struct texts cgroup_files;
  const char *failed_file;
  char *argv[5];
};

static int shim_child(void *argument) {
  struct birth *birth = argument;
  static char *env[] = {NULL};
  reset_signals();
  for (uint32_t i = 0; i < birth->cgroup_files.count; i++) {
    int fd = open(birth->cgroup_files.items[i], O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, "0", 1) != 1) {
      birth->err = errno;
      birth->failed_file = birth->cgroup_files.items[i];
      _exit(125);
    }
    close(fd);
  }
  setsid();
  if (dup2(birth->connection, SHIM_CONNECTION_FD) >= 0 && dup2(birth->data, SHIM_DATA_FD) >= 0)
    sys_execveat(launcher.executable, "", birth->argv, env, AT_EMPTY_PATH);
  birth->err = errno;
  _exit(125);
}

/* SAFETY: CLONE_VFORK stops this process until the child has executed or ended, so sharing the memory is sound; all
 * signals are blocked here, so no handler can run in the child. */
static pid_t spawn_shim(struct birth *birth) {
  static _Alignas(16) char stack[16384];
  return clone(shim_child, stack + sizeof stack, CLONE_VM | CLONE_VFORK | SIGCHLD, birth);
}

/* The secret goes through a pipe: neither argv nor the environment of a process is private. */
static int birth_data(uint32_t request, struct bytes secret, const char *directory) {
  struct buffer data = {0};
  int pair[2] = {-1, -1}, high = -1;
  put_u32(&data, request);
  put_bytes(&data, secret.data, secret.size);
  put_text(&data, directory);
  if (buffer_size(&data) <= 4096 && pipe2(pair, O_CLOEXEC) == 0 && buffer_write(&data, pair[1]) == 0) high = fcntl(pair[0], F_DUPFD_CLOEXEC, 10);
  buffer_free(&data);
  if (pair[0] >= 0) close(pair[0]), close(pair[1]);
  return high;
}

static void request_shim(int connection, struct reader *in, uint32_t id, struct buffer *out) {
  const char *pod_id = read_text(in), *directory = read_text(in);
  struct bytes secret = read_bytes(in);
  struct birth birth = {.cgroup_files = read_texts(in)};
  const char *name = read_text(in);
  if (!reader_done(in) || secret.size != SECRET_SIZE || !pod_id[0]) {
    put_error(out, id, EINVAL, "malformed request");
    return;
  }
  struct child *child = malloc(sizeof *child + strlen(pod_id) + 1);
  if (!child) abort();
  strcpy(child->pod_id, pod_id);
  memcpy(birth.argv, (char *[]){"berth-shim", "shim", child->pod_id, name[0] ? (char *)(uintptr_t)name : NULL, NULL}, sizeof birth.argv);
  birth.connection = fcntl(connection, F_DUPFD_CLOEXEC, 10);
  make_executable(launcher.executable); /* where it fails, the execution says so */
  birth.data = birth_data(id, secret, directory);
  if (mkdir(directory, 0700) < 0 && errno != EEXIST) {
    birth.err = errno;
    birth.failed_file = directory;
  }
  child->pid = birth.err || birth.connection < 0 || birth.data < 0 ? -1 : spawn_shim(&birth);
  if (child->pid < 0 || birth.err) {
    put_error(out, id, birth.err ? birth.err : errno, birth.failed_file ? birth.failed_file : "start the shim");
    if (child->pid > 0) waitpid(child->pid, NULL, 0);
    free(child);
  } else {
    child->next = launcher.shims;
    launcher.shims = child;
  }
  if (birth.connection >= 0) close(birth.connection);
  if (birth.data >= 0) close(birth.data);
}

/* --- runners: forked children that serve one connection --- */

static _Noreturn void run_one_shot(int connection, uint32_t id, struct bytes plan) {
  static struct slots slots;
  struct buffer out = {0};
  int err = 0;
  slots_init(&slots);
  struct execution *x = execution_new(plan.data, plan.size, false, &slots, launcher.executable, &err);
  if (!x) {
    put_error(&out, id, err, "malformed plan");
  } else {
    enum execution_event event = execution_continue(x);
    while (event != EXECUTION_FINISHED && event != EXECUTION_FAILED) {
      if (event == EXECUTION_ASK || event == EXECUTION_TERMINAL) close(x->message_fd); /* nobody here answers */
      if (event == EXECUTION_ASK) execution_kill(x), x->failure.err = ENOTSUP, event = EXECUTION_FAILED;
      else event = execution_receive(x);
    }
    if (event == EXECUTION_FAILED) put_failed(&out, id, &x->failure);
    else put_ok(&out, id, 0);
  }
  buffer_write(&out, connection);
  _exit(0);
}

/* Forks a runner that holds the connection (as 3) and one more descriptor (as 4) only. True in the runner. */
static bool fork_runner(int connection, int more, uint32_t id, struct buffer *out) {
  pid_t pid = fork();
  if (pid < 0) put_error(out, id, errno, "fork");
  if (pid != 0) return false;
  reset_signals();
  setsid();
  int high = fcntl(more, F_DUPFD_CLOEXEC, 10), socket = fcntl(connection, F_DUPFD_CLOEXEC, 10);
  if (high < 0 || socket < 0 || dup3(socket, 3, O_CLOEXEC) < 0 || dup3(high, 4, O_CLOEXEC) < 0) _exit(125);
  sys_close_range(5, ~0u, 0);
  fcntl(3, F_SETFL, fcntl(3, F_GETFL) & ~O_NONBLOCK);
  signal(SIGPIPE, SIG_IGN);
  return true;
}

/* A runner that holds the executable and dies with the launcher. */
static void request_runner(int connection, const struct frame *frame, struct reader *in, struct buffer *out) {
  bool unpack = frame->type == FRAME_UNPACK;
  struct bytes plan = {0};
  const char *layer = "", *root = "";
  if (unpack) layer = read_text(in), root = read_text(in);
  else plan = read_bytes(in);
  if (!reader_done(in)) {
    put_error(out, frame->id, EINVAL, "malformed request");
    return;
  }
  pid_t self = getpid();
  if (!fork_runner(connection, launcher.executable, frame->id, out)) return;
  /* SAFETY: whoever takes the lock next must find no work of the old engine going on. */
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != self) _exit(125);
  launcher.executable = 4;
  prctl(PR_SET_NAME, unpack ? "berth-unpack" : "berth-plan");
  if (unpack) unpack_main(3, frame->id, layer, root);
  run_one_shot(3, frame->id, plan);
}

/*
 * SAFETY: a tool has children of its own, which no parent death signal reaches. So its runner outlives the launcher until it has seen the
 * connection end and has killed them all; the lock, which it holds too, keeps the next owner waiting for that moment.
 */
static void request_tool(int connection, const struct frame *frame, struct buffer *out) {
  if (!fork_runner(connection, launcher.lock, frame->id, out)) return;
  prctl(PR_SET_NAME, "berth-tool");
  tool_main(3, frame);
}

/* --- the loop --- */

static void handle(int connection, const struct frame *frame) {
  struct reader in;
  struct buffer out = {0};
  reader_init(&in, frame->payload, frame->size);
  if (frame->type == FRAME_SHIM) request_shim(connection, &in, frame->id, &out);
  else if (frame->type == FRAME_ONE_SHOT || frame->type == FRAME_UNPACK) request_runner(connection, frame, &in, &out);
  else if (frame->type == FRAME_TOOL) request_tool(connection, frame, &out);
  else put_error(&out, frame->id, ENOSYS, "unknown request");
  reader_free(&in);
  buffer_write(&out, connection);
  buffer_free(&out);
}

static void pending_close(struct pending *p) {
  close(p->fd);
  p->fd = -1;
  frame_reset(&p->frame);
}

static void pending_ready(struct pending *p) {
  int got = frame_read(&p->frame, p->fd, FRAME_BYTES_MAX);
  if (got == 0) return;
  if (got > 0) handle(p->fd, &p->frame);
  pending_close(p); /* from here on it is the child's */
}

static void accept_connection(void) {
  struct ucred peer;
  socklen_t size = sizeof peer;
  int fd = accept4(launcher.listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
  if (fd < 0) return;
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0 || peer.pid != launcher.parent || peer.uid != geteuid()) {
    close(fd);
    return;
  }
  for (int i = 0; i < PENDING_MAX; i++)
    if (launcher.pending[i].fd < 0) {
      launcher.pending[i].fd = fd;
      pending_ready(&launcher.pending[i]); /* the request is often there already */
      return;
    }
  close(fd);
}

static void tell(uint16_t type, const char *pod_id, pid_t pid, int status) {
  struct buffer out = {0};
  size_t begin = frame_begin(&out, type, 0);
  if (pod_id) put_text(&out, pod_id);
  put_u32(&out, (uint32_t)pid);
  if (pod_id) put_u32(&out, (uint32_t)status);
  frame_end(&out, begin);
  buffer_write(&out, LAUNCHER_CONTROL_FD);
  buffer_free(&out);
}

static void reap(void) {
  struct signalfd_siginfo info;
  int status;
  while (read(launcher.signals, &info, sizeof info) > 0) continue;
  for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;) {
    struct child **at = &launcher.shims;
    while (*at && (*at)->pid != pid) at = &(*at)->next;
    if (!*at) continue; /* a runner has answered for itself */
    struct child *child = *at;
    *at = child->next;
    tell(FRAME_SHIM_ENDED, child->pod_id, pid, status);
    free(child);
  }
}

static _Noreturn void launcher_exit(int status) {
  char path[128];
  /* SAFETY: we still hold the lock, so the socket is not a successor's. */
  if (status == 0 && snprintf(path, sizeof path, "%s/launcher.sock", launcher.run_directory) < (int)sizeof path) unlink(path);
  _exit(status);
}

static void take_lock(const char *lock_file) {
  char text[32] = "";
  launcher.lock = open(lock_file, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (launcher.lock < 0) launcher_exit(73);
  /* The holder may be about to exit after its engine's death. */
  for (int attempt = 0; flock(launcher.lock, LOCK_EX | LOCK_NB) < 0; attempt++) {
    if (errno != EWOULDBLOCK && errno != EINTR) launcher_exit(73);
    if (pread(launcher.lock, text, sizeof text - 1, 0) < 0) text[0] = 0;
    /* A launcher that is gone has left the lock to the runners of its tools, which end as soon as they have killed them. */
    bool is_gone = kill((pid_t)strtoul(text, NULL, 10), 0) < 0 && errno == ESRCH;
    if (attempt < (is_gone ? 500 : 10)) {
      usleep(10000);
      continue;
    }
    tell(FRAME_LOCKED, NULL, (pid_t)strtoul(text, NULL, 10), 0);
    _exit(0);
  }
  int length = snprintf(text, sizeof text, "%d\n", getpid());
  if (ftruncate(launcher.lock, 0) < 0 || pwrite(launcher.lock, text, (size_t)length, 0) != length) launcher_exit(74);
}

static void loop_once(void) {
  struct pollfd fds[POLL_PENDING + PENDING_MAX];
  fds[POLL_CONTROL] = (struct pollfd){.fd = LAUNCHER_CONTROL_FD, .events = POLLIN};
  fds[POLL_LISTENER] = (struct pollfd){.fd = launcher.listener, .events = POLLIN};
  fds[POLL_SIGNALS] = (struct pollfd){.fd = launcher.signals, .events = POLLIN};
  for (int i = 0; i < PENDING_MAX; i++) fds[POLL_PENDING + i] = (struct pollfd){.fd = launcher.pending[i].fd, .events = POLLIN};
  if (poll(fds, POLL_PENDING + PENDING_MAX, -1) < 0) return;
  if (fds[POLL_SIGNALS].revents) reap();
  for (int i = 0; i < PENDING_MAX; i++)
    if (fds[POLL_PENDING + i].revents) pending_ready(&launcher.pending[i]);
  if (fds[POLL_LISTENER].revents) accept_connection();
  char byte;
  /* Nothing is ever sent to us here; the end of the descriptor is the end of the engine. */
  if (fds[POLL_CONTROL].revents && read(LAUNCHER_CONTROL_FD, &byte, 1) <= 0) launcher_exit(0);
}

_Noreturn void launcher_main(const char *run_directory, const char *lock_file) {
  sigset_t all;
  launcher.run_directory = run_directory;
  char *argv[] = {"berth-shim", "launcher", (char *)(uintptr_t)run_directory, (char *)(uintptr_t)lock_file, NULL}, *env[] = {NULL};
  launcher.executable = ensure_sealed(argv, env);
  if (launcher.executable < 0) _exit(71);
  prctl(PR_SET_NAME, "berth-launcher");
  prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
  fcntl(LAUNCHER_CONTROL_FD, F_SETFD, FD_CLOEXEC);
  fcntl(LAUNCHER_CONTROL_FD, F_SETFL, fcntl(LAUNCHER_CONTROL_FD, F_GETFL) & ~O_NONBLOCK);
  /* Our own session: Ctrl-C in a terminal is for the engine, which needs us to clean up. */
  setsid();
  sigfillset(&all);
  sigprocmask(SIG_SETMASK, &all, NULL);
  signal(SIGCHLD, SIG_DFL); /* an inherited "ignore" would hide exits */
  signal(SIGPIPE, SIG_IGN);
  launcher.parent = getppid();
  take_lock(lock_file);
  launcher.signals = signalfd(-1, &all, SFD_CLOEXEC | SFD_NONBLOCK);
  launcher.listener = listen_at(run_directory, "launcher.sock");
  if (launcher.signals < 0 || launcher.listener < 0) launcher_exit(74);
  for (int i = 0; i < PENDING_MAX; i++) launcher.pending[i].fd = -1;
  tell(FRAME_READY, NULL, getpid(), 0);
  for (;;) loop_once();
}
