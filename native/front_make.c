/*
 * Plans that the front executes: sections of the host, and the one process that a command makes. In: encoded plans. Out: what became of them, as
 * the frames of docs/native.md. While one runs, the compiler's end is watched: without it nobody answers for what is half made.
 */
#include "child.h"
#include "front.h"
#include "syscalls.h"
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

enum make_flag { MAKE_TERMINAL = 1, MAKE_AWAIT = 2 };
/* What other runtimes send along with a terminal, whose readers want a name and do nothing with it. */
#define TERMINAL_NAME "/dev/ptmx"

/* The frame that is being answered by MAKE's plan; NULL for plans that make no process. */
struct making { uint32_t id; int console; bool terminal, awaits; };

int connect_to(int type, int directory, const char *path) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
  int above = directory, err;
  if (slash) {
    char parent[PATH_BYTES_MAX];
    int size = snprintf(parent, sizeof parent, "%.*s", (int)(slash - path + 1), path);
    if (size < 0 || (size_t)size >= sizeof parent) return -ENAMETOOLONG;
    above = openat(directory, parent, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (above < 0) return -errno;
  }
  int length = above == AT_FDCWD ? snprintf(address.sun_path, sizeof address.sun_path, "%s", name)
                                 : snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d/%s", above, name);
  int fd = length < 0 || (size_t)length >= sizeof address.sun_path ? -1 : socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
  err = fd < 0 ? (length < 0 || (size_t)length >= sizeof address.sun_path ? ENAMETOOLONG : errno) : 0;
  if (!err && connect(fd, (struct sockaddr *)&address, sizeof address) < 0) err = errno;
  if (above != directory) close(above);
  if (err && fd >= 0) close(fd);
  return err ? -err : fd;
}

/* The terminal goes to whoever listens at the console socket. */
static int send_terminal(int console, int terminal) {
  struct iovec iov = {.iov_base = TERMINAL_NAME, .iov_len = sizeof TERMINAL_NAME - 1};
  union { struct cmsghdr header; char space[CMSG_SPACE(sizeof(int))]; } ancillary;
  memset(&ancillary, 0, sizeof ancillary);
  struct msghdr header = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &ancillary, .msg_controllen = sizeof ancillary};
  *CMSG_FIRSTHDR(&header) = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof terminal)};
  memcpy(CMSG_DATA(CMSG_FIRSTHDR(&header)), &terminal, sizeof terminal);
  return sendmsg(console, &header, MSG_NOSIGNAL) < 0 ? errno : 0;
}

static enum execution_event fail(struct execution *x, int err, const char *detail) {
  execution_kill(x);
  x->failure = (struct failure){.section = x->child_section, .step = UINT32_MAX, .err = err};
  snprintf(x->failure.detail, sizeof x->failure.detail, "%s", detail);
  return EXECUTION_FAILED;
}

static enum execution_event take_terminal(struct execution *x, const struct making *making) {
  int terminal = x->message_fd, err = 0;
  x->message_fd = -1;
  if (!making || !making->terminal) {
    close(terminal); /* nobody wants it */
  } else if (making->console >= 0) {
    err = send_terminal(making->console, terminal);
    close(terminal);
  } else {
    if (front.terminal >= 0) close(front.terminal);
    front.terminal = move_above(terminal);
  }
  return err ? fail(x, err, "send the terminal to the console socket") : EXECUTION_WAIT;
}

static enum execution_event ask(struct execution *x, const struct making *making) {
  struct buffer out = {0};
  struct frame answer = {0};
  struct reader in;
  off_t size = lseek(x->message_fd, 0, SEEK_END);
  void *content = making && size > 0 && size <= (off_t)FRAME_BYTES_MAX ? mmap(NULL, (size_t)size, PROT_READ, MAP_PRIVATE, x->message_fd, 0) : MAP_FAILED;
  close(x->message_fd);
  x->message_fd = -1;
  if (content == MAP_FAILED) return fail(x, ENOTSUP, "nobody answers this plan");
  size_t begin = frame_begin(&out, FRAME_ASK, making->id);
  buffer_append(&out, content, (size_t)size);
  frame_end(&out, begin);
  munmap(content, (size_t)size);
  send_frames(&out);
  next_frame(&answer);
  if (answer.type != FRAME_ANSWER || answer.id != making->id) give_up();
  reader_init(&in, answer.payload, answer.size);
  struct bytes plan = read_bytes(&in);
  enum execution_event event = reader_done(&in) ? execution_answer(x, plan.data, plan.size) : fail(x, EINVAL, "malformed answer");
  frame_reset(&answer);
  return event;
}

/* Waits until the child says something, or until whoever it depends on has gone. */
static enum execution_event await_child(struct execution *x) {
  struct pollfd fds[] = {
    {.fd = x->control, .events = POLLIN},
    {.fd = front.compiler, .events = POLLRDHUP}, /* -1 when nobody is asked */
    {.fd = x->waiting, .events = 0},             /* its end is all that a waiting child says */
  };
  while (poll(fds, 3, -1) < 0 && errno == EINTR) continue;
  if (fds[1].revents) give_up();
  if (fds[2].revents && !fds[0].revents) return fail(x, ECHILD, "the waiting process ended");
  return execution_receive(x);
}

/* Runs it to its end, or to the start of the process. */
static enum execution_event drive(struct execution *x, const struct making *making) {
  enum execution_event event = execution_continue(x);
  while (event != EXECUTION_FINISHED && event != EXECUTION_FAILED && event != EXECUTION_START) {
    if (event == EXECUTION_ASK) event = ask(x, making);
    else if (event == EXECUTION_TERMINAL) event = take_terminal(x, making);
    else event = x->control < 0 ? fail(x, ECANCELED, "the process was ended") : await_child(x);
  }
  return event;
}

/* What failed is dead and gone before anybody is told. */
static void reap_failed(struct execution *x) {
  const pid_t pids[] = {x->beside, x->pid};
  for (int i = 0; i < 2; i++) {
    if (pids[i] <= 0) continue;
    kill(pids[i], SIGKILL);
    while (waitpid(pids[i], NULL, 0) < 0 && errno == EINTR) continue;
  }
}

int run_plan(struct bytes plan, struct failure *failure) {
  int err = 0;
  struct execution *x = execution_new(plan.data, plan.size, false, &front.slots, front.executable, &err);
  *failure = (struct failure){.step = UINT32_MAX, .err = err};
  if (!x) return -1;
  front.running = x;
  enum execution_event event = drive(x, NULL);
  if (event == EXECUTION_FAILED) reap_failed(x), *failure = x->failure;
  front.running = NULL;
  execution_free(x);
  return event == EXECUTION_FAILED ? -1 : 0;
}

/* All that the caller promised must be there, else the numbers would be those of our own descriptors. */
static int check_preserved(uint32_t count, char detail[static 32]) {
  for (uint32_t i = 0; i < count; i++) {
    snprintf(detail, 32, "descriptor %u", 3 + i);
    if (i >= front.preserved || fcntl(3 + (int)i, F_GETFD) < 0) return EBADF;
  }
  return 0;
}

static void tell_made(struct buffer *out, uint32_t id, pid_t pid) {
  uint64_t start_time = read_start_time(pid);
  front.last.pid = pid;
  front.last.start_time = start_time;
  size_t begin = frame_begin(out, FRAME_MADE, id);
  put_u32(out, (uint32_t)pid);
  put_i64(out, (int64_t)start_time);
  frame_end(out, begin);
}

/*
 * Waits for a program that makes the container's process in its own way and ends. It has its orphans fall to this process, which may stand for one of them
 * (`adopt`), and else hands them on to the caller's side by ending.
 */
static void await_end(uint32_t id, pid_t pid, uint32_t section, struct buffer *out) {
  struct failure failure = {.section = section, .step = UINT32_MAX, .err = ECHILD};
  struct pollfd fds[] = {{.fd = (int)syscall(SYS_pidfd_open, pid, 0), .events = POLLIN}, {.fd = front.compiler, .events = POLLRDHUP}};
  int status = 0;
  front.made = pid;
  while (poll(fds, 2, -1) < 0 && errno == EINTR) continue;
  if (!fds[0].revents) give_up();
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) continue;
  front.made = 0;
  if (fds[0].fd >= 0) close(fds[0].fd);
  if (WIFSIGNALED(status)) snprintf(failure.detail, sizeof failure.detail, "ended by signal %d", WTERMSIG(status));
  else snprintf(failure.detail, sizeof failure.detail, "exit code %d", WEXITSTATUS(status));
  if (status == 0) put_ok(out, id, 0);
  else put_failed(out, id, &failure);
}

static void make(const struct making *making, struct bytes plan, uint32_t preserved, struct buffer *out) {
  int err = 0;
  struct execution *x = execution_new(plan.data, plan.size, true, &front.slots, front.executable, &err);
  if (!x) {
    put_error(out, making->id, err, "malformed plan");
    return;
  }
  x->preserved = preserved;
  for (int i = 0; !making->terminal && i < 3; i++) x->stdio[i] = fcntl(i, F_DUPFD_CLOEXEC, front.floor);
  if (making->awaits) prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
  /* A signal that comes while the process begins is the process's, and so waits for it. Children begin with none held. */
  else hold_signals();
  front.running = x;
  enum execution_event event = drive(x, making);
  front.running = NULL;
  if (event == EXECUTION_FAILED) {
    reap_failed(x);
    put_failed(out, making->id, &x->failure);
  } else if (making->awaits) {
    await_end(making->id, x->pid, x->child_section, out);
  } else {
    front.made = x->pid;
    tell_made(out, making->id, x->pid);
  }
  execution_free(x);
}

void make_process(const struct frame *request, struct buffer *out) {
  struct reader in;
  char detail[32] = "";
  reader_init(&in, request->payload, request->size);
  struct bytes plan = read_bytes(&in);
  uint32_t flags = read_u32(&in);
  const char *console = read_text(&in);
  uint32_t preserved = read_u32(&in);
  struct making making = {.id = request->id, .console = -1, .terminal = flags & MAKE_TERMINAL, .awaits = flags & MAKE_AWAIT};
  int err = check_preserved(preserved, detail);
  if (!reader_done(&in) || flags & ~(MAKE_TERMINAL | MAKE_AWAIT)) {
    put_error(out, request->id, EINVAL, "malformed request");
  } else if (err) {
    put_error(out, request->id, err, detail);
  } else if (console[0] && (making.console = connect_to(SOCK_STREAM, AT_FDCWD, console)) < 0) {
    put_error(out, request->id, -making.console, "connect to the console socket");
  } else {
    making.console = move_above(making.console);
    make(&making, plan, preserved, out);
  }
  if (making.console >= 0) close(making.console);
}

/* SAFETY: only a child of this process can be waited for, and its number is its own until it is. */
void adopt(const struct frame *request, struct buffer *out) {
  struct reader in;
  reader_init(&in, request->payload, request->size);
  siginfo_t end = {0};
  pid_t pid = (pid_t)read_u32(&in);
  int err = !reader_done(&in) || pid <= 0 ? EINVAL : waitid(P_PID, (id_t)pid, &end, WEXITED | WNOHANG | WNOWAIT) < 0 ? errno : 0;
  if (err) {
    put_error(out, request->id, err, "no child of the front");
  } else {
    hold_signals();
    front.made = pid;
    tell_made(out, request->id, pid);
  }
}
