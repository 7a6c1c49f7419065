/*
 * One run of an executable of the host. In: a TOOL frame. Out: TOOL_RESULT with the wait status and what was printed. It knows no
 * plugin and no format; where the executable lies and what it is told is the caller's to say.
 */
#include "tool.h"
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include "syscalls.h"

#define OUTPUT_BYTES_MAX (8u << 20) /* both streams together fit one frame */
#define DRAIN_NS 2000000000LL       /* descendants may hold the streams after the tool has ended */
#define KILL_NS 5000000000LL        /* a killed tool may hang in the kernel for longer than anybody waits */
#define CHUNKS_MAX 16               /* read in one go: the deadline and the connection are looked at in between */
enum { TOOL_TIMED_OUT = 1, TOOL_OUTPUT_CUT = 2, TOOL_ERRORS_CUT = 4 };
enum { POLL_CONNECTION, POLL_CHILD, POLL_INPUT, POLL_OUTPUT, POLL_ERRORS, POLL_COUNT };

struct stream { int fd; uint32_t size_max, cut; struct buffer kept; };

struct tool {
  const char *path, *directory;
  struct texts argv, env;
  struct bytes input;
  uint32_t timeout_ms, flags;
  pid_t pid;
  int handle; /* pidfd of the tool */
  int input_fd;
  uint32_t written;
  struct stream streams[2];
  int status;
};

static bool read_request(struct reader *in, struct tool *tool) {
  tool->path = read_text(in);
  tool->argv = read_texts(in);
  tool->env = read_texts(in);
  tool->directory = read_text(in);
  tool->input = read_bytes(in);
  tool->timeout_ms = read_u32(in);
  for (int i = 0; i < 2; i++) tool->streams[i].size_max = read_u32(in), tool->streams[i].cut = i == 0 ? TOOL_OUTPUT_CUT : TOOL_ERRORS_CUT;
  uint64_t kept = (uint64_t)tool->streams[0].size_max + tool->streams[1].size_max;
  return reader_done(in) && tool->path[0] == '/' && tool->directory[0] == '/' && tool->argv.count > 0 && kept <= OUTPUT_BYTES_MAX;
}

/* Everything but 0, 1 and 2 is close-on-exec. A failure goes through `report` as an errno. */
static _Noreturn void become_tool(const struct tool *tool, const int fds[3], int report, pid_t parent) {
  /* SAFETY: where this runner is killed, nothing that it started goes on unseen. */
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(125);
  reset_signals();
  setsid();
  umask(022);
  bool ready = chdir(tool->directory) == 0;
  for (int i = 0; ready && i < 3; i++) ready = dup2(fds[i], i) == i;
  if (ready) execve(tool->path, tool->argv.items, tool->env.items);
  int err = errno;
  if (write(report, &err, sizeof err) != (ssize_t)sizeof err) _exit(126);
  _exit(125);
}

/* Starts the tool. Returns 0, or an errno where it does not run. */
static int start(struct tool *tool) {
  int in[2], out[2], errors[2], report[2], err = 0;
  /* Above 2, so that no end of a pipe is overwritten before it is used; 0 to 2 are /dev/null from the launcher's start. */
  if (pipe2(in, O_CLOEXEC) < 0 || pipe2(out, O_CLOEXEC) < 0 || pipe2(errors, O_CLOEXEC) < 0 || pipe2(report, O_CLOEXEC) < 0) return errno;
  pid_t self = getpid();
  tool->pid = fork();
  if (tool->pid < 0) return errno;
  if (tool->pid == 0) become_tool(tool, (int[]){in[0], out[1], errors[1]}, report[1], self);
  close(in[0]), close(out[1]), close(errors[1]), close(report[1]);
  ssize_t got = read(report[0], &err, sizeof err);
  close(report[0]);
  if (got == (ssize_t)sizeof err) {
    waitpid(tool->pid, NULL, 0);
    tool->pid = 0;
    return err == 0 ? EIO : err;
  }
  tool->handle = (int)syscall(SYS_pidfd_open, tool->pid, 0);
  tool->input_fd = in[1], tool->streams[0].fd = out[0], tool->streams[1].fd = errors[0];
  for (int i = 0; i < 3; i++) {
    int fd = (int[]){in[1], out[0], errors[0]}[i];
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
  }
  return tool->handle < 0 ? errno : 0;
}

static void close_fd(int *fd) {
  if (*fd >= 0) close(*fd);
  *fd = -1;
}

/* The tool stays unreaped until the last of these, so its number, and the group's, is nobody else's. */
static void kill_group(const struct tool *tool) {
  if (tool->pid > 0) kill(-tool->pid, SIGKILL);
}

/*
 * Waits for those of the group that were killed: SIGKILL is an order, no fact, and whoever has the lock or calls the next tool relies on the fact.
 * This process is the subreaper, so a member whose parent died is a child of its own.
 */
static void await_group(const struct tool *tool) {
  for (int64_t deadline = now_monotonic() + KILL_NS; now_monotonic() < deadline;) {
    pid_t got = waitpid(-tool->pid, NULL, WNOHANG);
    if (got < 0 && errno != EINTR) return;
    if (got == 0) usleep(1000);
  }
}

static void feed(struct tool *tool) {
  while (tool->written < tool->input.size) {
    ssize_t put = write(tool->input_fd, tool->input.data + tool->written, tool->input.size - tool->written);
    if (put < 0 && errno == EINTR) continue;
    if (put < 0 && errno == EAGAIN) return;
    if (put < 0) break; /* it does not want the rest */
    tool->written += (uint32_t)put;
  }
  close_fd(&tool->input_fd);
}

static void drain(struct tool *tool, struct stream *stream) {
  static uint8_t chunk[65536];
  ssize_t got = 1;
  for (int turn = 0; turn < CHUNKS_MAX && (got = read(stream->fd, chunk, sizeof chunk)) > 0; turn++) {
    size_t room = stream->size_max - buffer_size(&stream->kept), size = (size_t)got < room ? (size_t)got : room;
    buffer_append(&stream->kept, chunk, size);
    if (size < (size_t)got) tool->flags |= stream->cut;
  }
  if (got > 0 || (got < 0 && (errno == EAGAIN || errno == EINTR))) return;
  close_fd(&stream->fd);
}

/* Until the tool has ended and its streams too, or until what remains of them is not waited for. False: nobody wants the answer. */
static bool run(struct tool *tool, int connection) {
  int64_t deadline = tool->timeout_ms == 0 ? INT64_MAX : now_monotonic() + (int64_t)tool->timeout_ms * 1000000;
  bool ended = false;
  for (;;) {
    struct pollfd fds[POLL_COUNT] = {
      [POLL_CONNECTION] = {.fd = connection, .events = POLLIN},
      [POLL_CHILD] = {.fd = ended ? -1 : tool->handle, .events = POLLIN},
      [POLL_INPUT] = {.fd = tool->input_fd, .events = POLLOUT},
      [POLL_OUTPUT] = {.fd = tool->streams[0].fd, .events = POLLIN},
      [POLL_ERRORS] = {.fd = tool->streams[1].fd, .events = POLLIN},
    };
    if (ended && tool->streams[0].fd < 0 && tool->streams[1].fd < 0) return true;
    int64_t left = deadline == INT64_MAX ? -1 : deadline - now_monotonic();
    int ready = poll(fds, POLL_COUNT, left < 0 ? (deadline == INT64_MAX ? -1 : 0) : (int)(left / 1000000 > 1000000 ? 1000000 : left / 1000000 + 1));
    if (ready < 0 && errno != EINTR) return false;
    if (ready > 0 && fds[POLL_CONNECTION].revents) return false;
    if (ready > 0 && fds[POLL_INPUT].revents) feed(tool);
    for (int i = 0; ready > 0 && i < 2; i++)
      if (fds[POLL_OUTPUT + i].revents) drain(tool, &tool->streams[i]);
    if (ready > 0 && fds[POLL_CHILD].revents) {
      ended = true;
      deadline = now_monotonic() + DRAIN_NS;
    } else if (deadline != INT64_MAX && now_monotonic() >= deadline) {
      if (ended || (tool->flags & TOOL_TIMED_OUT)) return true;
      tool->flags |= TOOL_TIMED_OUT;
      kill_group(tool);
      deadline = now_monotonic() + KILL_NS;
    }
  }
}

_Noreturn void tool_main(int connection, const struct frame *frame) {
  struct reader in;
  struct tool tool = {.handle = -1, .input_fd = -1, .streams = {{.fd = -1}, {.fd = -1}}, .status = SIGKILL};
  struct buffer out = {0};
  prctl(PR_SET_CHILD_SUBREAPER, 1);
  reader_init(&in, frame->payload, frame->size);
  int err = read_request(&in, &tool) ? start(&tool) : EINVAL;
  if (err != 0) {
    kill_group(&tool);
    put_error(&out, frame->id, err, tool.path);
  } else {
    bool wanted = run(&tool, connection);
    kill_group(&tool);
    /* One that still hangs in the kernel has its SIGKILL and counts as killed. */
    if (wanted) waitpid(tool.pid, &tool.status, WNOHANG);
    await_group(&tool);
    if (!wanted) _exit(0);
    size_t begin = frame_begin(&out, FRAME_TOOL_RESULT, frame->id);
    put_u32(&out, (uint32_t)tool.status);
    put_u32(&out, tool.flags);
    for (int i = 0; i < 2; i++) {
      const struct buffer *kept = &tool.streams[i].kept;
      put_bytes(&out, kept->data == NULL ? NULL : kept->data + kept->start, buffer_size(kept));
    }
    frame_end(&out, begin);
  }
  buffer_write(&out, connection);
  _exit(0);
}
