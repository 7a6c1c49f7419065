/*
 * The compiler: an engine on this host, else a Node of our own. In: a command line that the front cannot do alone. Out: what the compiler wants
 * executed and printed, until it says how to end. The front believes it, so who it is gets checked; see docs/native.md.
 */
#include "child.h"
#include "front.h"
#include "syscalls.h"
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#define REQUEST_VERSION 1
#define ENGINE_SOCKET "/run/berth/oci.sock"
#define COMPILER_FD 3
#define LAST_WORDS_MS 1000
/* An engine says that it is there at once, however much it has to do; beyond this one hangs, or it is none. */
#define ENGINE_WAIT_S 5

static pid_t node; /* 0: an engine, or none */
extern char **environ;

static void end_compiler(void) {
  if (front.compiler >= 0) close(front.compiler);
  front.compiler = -1;
  if (node <= 0) return;
  /* It has said its last word, and callers must not find a process of ours among their children. */
  kill(node, SIGKILL);
  while (waitpid(node, NULL, 0) < 0 && errno == EINTR) continue;
  node = 0;
}

/* A compiler that failed has said so; one that the kernel killed for its memory, or an engine, has not. */
static void tell_end(void) {
  siginfo_t end = {0};
  struct pollfd ended = {.fd = node > 0 ? (int)syscall(SYS_pidfd_open, node, 0) : -1, .events = POLLIN};
  if (node <= 0) dprintf(2, "berth-oci: the engine ended without an outcome\n");
  if (ended.fd < 0) return;
  /* Its socket ends a moment before it. */
  if (poll(&ended, 1, LAST_WORDS_MS) > 0 && waitid(P_PID, (id_t)node, &end, WEXITED | WNOHANG | WNOWAIT) == 0 && end.si_code != CLD_EXITED)
    dprintf(2, "berth-oci: the compiler was ended by signal %d\n", end.si_status);
  close(ended.fd);
}

_Noreturn void give_up(void) {
  if (front.running) execution_kill(front.running);
  if (front.made > 0) kill(front.made, SIGKILL); /* not reaped, so the number is still its own */
  tell_end();
  end_compiler();
  _exit(1);
}

/* --- an engine */

static bool is_same_file(const char *format, pid_t peer) {
  char path[64];
  struct stat own, its;
  snprintf(path, sizeof path, format, peer);
  if (stat(path, &its) < 0) return false;
  snprintf(path, sizeof path, format, getpid());
  return stat(path, &own) == 0 && own.st_dev == its.st_dev && own.st_ino == its.st_ino;
}

/* SAFETY: an engine decides what is executed with our rights, and paths and pids must mean the same to both. */
static bool is_trusted(int fd) {
  static const char *const shared[] = {"/proc/%d/ns/mnt", "/proc/%d/ns/pid", "/proc/%d/ns/user", "/proc/%d/ns/cgroup", "/proc/%d/root"};
  struct ucred peer;
  socklen_t size = sizeof peer;
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0 || peer.pid <= 0 || (peer.uid != 0 && peer.uid != geteuid())) return false;
  for (size_t i = 0; i < sizeof shared / sizeof *shared; i++)
    if (!is_same_file(shared[i], peer.pid)) return false;
  return true;
}

/*
 * Before it knows what it is asked: a request that a hung engine finds when it goes on again would be carried out twice. It is left at once where its
 * queue is full.
 */
static bool is_ready(int fd) {
  struct frame frame = {0};
  struct timeval wait = {.tv_sec = ENGINE_WAIT_S}, forever = {0};
  bool ready = fcntl(fd, F_SETFL, 0) == 0 && setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait) == 0 &&
               frame_read(&frame, fd, 0) == 1 && frame.type == FRAME_FRONT_READY && setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &forever, sizeof forever) == 0;
  frame_reset(&frame);
  return ready;
}

static int connect_engine(void) {
  const char *path = getenv("BERTH_OCI_ENGINE");
  if (!path || !path[0]) path = ENGINE_SOCKET;
  int fd = strcmp(path, "none") == 0 ? -1 : move_above(connect_to(SOCK_STREAM | SOCK_NONBLOCK, AT_FDCWD, path));
  if (fd >= 0 && is_trusted(fd) && is_ready(fd)) return fd;
  if (fd >= 0) close(fd);
  return -1;
}

/* --- a Node of our own */

static _Noreturn void node_main(int socket, pid_t parent) {
  static char executable[PATH_MAX + 32], bundle[PATH_MAX + 32], cache[PATH_MAX + 64];
  reset_signals();
  prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
  if (getppid() != parent) _exit(127);
  snprintf(executable, sizeof executable, "%s/node", front_home());
  snprintf(bundle, sizeof bundle, "%s/berth-oci.mjs", front_home());
  snprintf(cache, sizeof cache, "NODE_COMPILE_CACHE=%s/.compile-cache", front_home());
  /* SAFETY: a caller's environment can make a dynamic program load a stranger's code (LD_PRELOAD, NODE_OPTIONS, compile caches); the request has it as data. */
  char *argv[] = {"node", bundle, NULL}, *env[] = {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", cache, NULL};
  int null = open("/dev/null", O_RDWR | O_CLOEXEC);
  /* The caller's working directory is none of it either: it may be removed, or on storage that hangs. */
  bool good = chdir("/") == 0 && null >= 0 && dup2(null, 0) == 0 && dup2(null, 1) == 1 && (socket == COMPILER_FD || dup2(socket, COMPILER_FD) == COMPILER_FD);
  /* SAFETY: descriptors that are the container's are nothing for the compiler. */
  if (good && fcntl(COMPILER_FD, F_SETFD, 0) == 0 && sys_close_range(COMPILER_FD + 1, ~0u, CLOSE_RANGE_CLOEXEC) == 0) execve(executable, argv, env);
  int err = errno;
  dprintf(2, "berth-oci: execute %s: %s\n", executable, strerror(err));
  _exit(127);
}

static int start_node(void) {
  int pair[2];
  pid_t self = getpid();
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) return -1;
  node = fork();
  if (node == 0) node_main(pair[1], self);
  close(pair[1]);
  if (node > 0) return move_above(pair[0]);
  close(pair[0]);
  return -1;
}

/* --- the conversation */

void next_frame(struct frame *frame) {
  frame_reset(frame);
  if (frame_read(frame, front.compiler, FRAME_BYTES_MAX) != 1) give_up();
}

void send_frames(struct buffer *out) {
  if (buffer_write(out, front.compiler)) give_up();
}

static void put_texts(struct buffer *out, char *const texts[]) {
  uint32_t count = 0;
  while (texts[count]) count++;
  put_u32(out, count);
  for (uint32_t i = 0; i < count; i++) put_text(out, texts[i]);
}

static void put_request(struct buffer *out, char *const argv[], const struct failure *failure) {
  struct winsize size = {0};
  char cwd[PATH_MAX] = "/";
  uint32_t terminals = 0;
  for (int fd = 2; fd >= 0; fd--)
    if (isatty(fd)) terminals |= 1u << fd, ioctl(fd, TIOCGWINSZ, &size);
  if (!getcwd(cwd, sizeof cwd)) strcpy(cwd, "/"); /* removed: relative paths lead nowhere */
  size_t begin = frame_begin(out, FRAME_REQUEST, 0);
  put_u32(out, REQUEST_VERSION);
  put_texts(out, argv + 1);
  put_text(out, cwd);
  put_texts(out, environ);
  put_u32(out, terminals);
  put_u32(out, size.ws_col);
  put_u32(out, size.ws_row);
  put_u32(out, (uint32_t)getpid());
  put_u32(out, failure->err != 0);
  put_u32(out, failure->section);
  put_u32(out, failure->step);
  put_u32(out, (uint32_t)failure->err);
  put_text(out, failure->detail);
  frame_end(out, begin);
}

/* The first frame of whoever can be reached. An engine that is about to end says nothing more; then a Node is asked the same. */
static void open_conversation(char *const argv[], const struct failure *failure, struct frame *first) {
  struct buffer out = {0};
  front.compiler = connect_engine();
  if (front.compiler >= 0) {
    put_request(&out, argv, failure);
    if (buffer_write(&out, front.compiler) == 0 && frame_read(first, front.compiler, FRAME_BYTES_MAX) == 1) return;
    frame_reset(first);
    buffer_free(&out);
    close(front.compiler);
  }
  front.compiler = start_node();
  if (front.compiler < 0) {
    dprintf(2, "berth-oci: start a compiler: %s\n", strerror(errno));
    _exit(71);
  }
  put_request(&out, argv, failure);
  send_frames(&out);
  next_frame(first);
}

static void write_output(struct reader *in) {
  uint32_t stream = read_u32(in);
  struct bytes data = read_bytes(in);
  if (!reader_done(in) || (stream != 1 && stream != 2)) give_up();
  for (uint32_t at = 0; at < data.size;) {
    ssize_t written = write((int)stream, data.data + at, data.size - at);
    struct pollfd waiting = {.fd = (int)stream, .events = POLLOUT};
    if (written >= 0) at += (uint32_t)written;
    else if (errno == EAGAIN) poll(&waiting, 1, -1);
    else if (errno != EINTR) return; /* the caller reads no more of it */
  }
}

static void answer_plan(struct reader *in, uint32_t id, struct buffer *out) {
  struct failure failure;
  struct bytes plan = read_bytes(in);
  if (!reader_done(in)) put_error(out, id, EINVAL, "malformed request");
  else if (run_plan(plan, &failure) == 0) put_ok(out, id, 0);
  else put_failed(out, id, &failure);
}

/* START and LOCK name a state directory. */
static void answer_directory(struct reader *in, const struct frame *frame, struct buffer *out) {
  struct failure failure = {0};
  const char *path = read_text(in);
  if (!reader_done(in)) {
    put_error(out, frame->id, EINVAL, "malformed request");
    return;
  }
  int directory = open_state_directory(path, ".");
  int err = directory < 0 ? -directory : frame->type == FRAME_FRONT_LOCK ? keep_lock(move_above(directory), front.lock_ns) : start_container(directory, &failure);
  if (directory >= 0 && frame->type != FRAME_FRONT_LOCK) close(directory);
  if (failure.err) put_failed(out, frame->id, &failure);
  else if (err) put_error(out, frame->id, err, path);
  else put_ok(out, frame->id, 0);
}

static bool handle(const struct frame *frame, struct outcome *outcome) {
  struct reader in;
  struct buffer out = {0};
  bool over = frame->type == FRAME_EXIT || frame->type == FRAME_WAIT;
  reader_init(&in, frame->payload, frame->size);
  switch (frame->type) {
    case FRAME_FRONT_OUTPUT: write_output(&in); break;
    case FRAME_FRONT_RUN: answer_plan(&in, frame->id, &out); break;
    case FRAME_FRONT_MAKE: make_process(frame, &out); break;
    case FRAME_FRONT_ADOPT: adopt(frame, &out); break;
    case FRAME_FRONT_START: case FRAME_FRONT_LOCK: answer_directory(&in, frame, &out); break;
    case FRAME_EXIT: outcome->code = read_u32(&in); break;
    case FRAME_WAIT:
      outcome->waits = true;
      outcome->directory = strdup(read_text(&in));
      break;
    default: give_up();
  }
  if (over && (!reader_done(&in) || (outcome->waits && front.made <= 0))) give_up();
  reader_free(&in);
  send_frames(&out);
  return over;
}

struct outcome ask_compiler(char *const argv[], const struct failure *failure) {
  struct outcome outcome = {0};
  struct frame frame = {0};
  open_conversation(argv, failure, &frame);
  while (!handle(&frame, &outcome)) next_frame(&frame);
  frame_reset(&frame);
  end_compiler();
  return outcome;
}
