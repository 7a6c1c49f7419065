/*
 * The foreground: the front stands for the process made last, as its caller's child. In: signals, the caller's terminal. Out: the same to the process, and
 * its exit code. The caller's terminal is as it was, whatever happened.
 */
#include "front.h"
#include "syscalls.h"
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <termios.h>

#define RELAY_BYTES 4096 /* PIPE_BUF: what a stream takes without blocking once it is writable */
#define QUIET_MS 100     /* how often a terminal that nobody has open is looked at again */

struct relay { size_t start, end; uint8_t data[RELAY_BYTES]; };
static struct {
  int tty, signals, process;
  struct termios before;
  struct relay in, out;
  bool in_ended, out_ended, quiet;
  int status;
} state = {.tty = -1};

/* All that can be caught; those that a fault raises in the front itself, and those that say nothing about the process, stay. */
static sigset_t forwarded(void) {
  static const int own[] = {SIGILL, SIGTRAP, SIGABRT, SIGBUS, SIGFPE, SIGSEGV, SIGSYS, SIGPIPE, SIGURG};
  sigset_t set;
  sigfillset(&set);
  for (size_t i = 0; i < sizeof own / sizeof *own; i++) sigdelset(&set, own[i]);
  return set;
}

void hold_signals(void) {
  sigset_t set = forwarded();
  sigprocmask(SIG_SETMASK, &set, NULL);
}

/* --- the terminal */

static void copy_size(void) {
  struct winsize size;
  if (state.tty >= 0 && ioctl(state.tty, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 && size.ws_row > 0) ioctl(front.terminal, TIOCSWINSZ, &size);
}

/* Every key is the process's, Ctrl-C too; what it prints is printed as it is. */
static void open_tty(void) {
  for (int fd = 0; fd < 3 && state.tty < 0; fd++)
    if (tcgetattr(fd, &state.before) == 0) state.tty = fd;
  fcntl(front.terminal, F_SETFL, fcntl(front.terminal, F_GETFL) | O_NONBLOCK);
  if (state.tty < 0) return;
  struct termios raw = state.before;
  raw.c_iflag &= ~(tcflag_t)(IGNBRK | BRKINT | PARMRK | ISTRIP | INLCR | IGNCR | ICRNL | IXON);
  raw.c_oflag &= ~(tcflag_t)OPOST;
  raw.c_lflag &= ~(tcflag_t)(ECHO | ECHONL | ICANON | ISIG | IEXTEN);
  raw.c_cflag = (raw.c_cflag & ~(tcflag_t)(CSIZE | PARENB)) | CS8;
  raw.c_cc[VMIN] = 1;
  raw.c_cc[VTIME] = 0;
  tcsetattr(state.tty, TCSANOW, &raw);
  copy_size();
}

static void close_tty(void) {
  if (state.tty >= 0) tcsetattr(state.tty, TCSANOW, &state.before);
  state.tty = -1;
}

/* Returns false at the end of what can be read; *again where there is just nothing now. */
static bool take(struct relay *relay, int fd, bool *again) {
  ssize_t got = read(fd, relay->data, sizeof relay->data);
  *again = got < 0 && (errno == EAGAIN || errno == EINTR);
  relay->start = 0;
  relay->end = got > 0 ? (size_t)got : 0;
  return got > 0 || *again;
}

/* Returns false where nobody takes it any more. */
static bool give(struct relay *relay, int fd) {
  ssize_t written = write(fd, relay->data + relay->start, relay->end - relay->start);
  if (written < 0) return errno == EAGAIN || errno == EINTR;
  relay->start += (size_t)written;
  return true;
}

static bool is_pending(const struct relay *relay) { return relay->start < relay->end; }

static void copy(short in, short out, short terminal) {
  bool again = false;
  if (in && !take(&state.in, 0, &again)) state.in_ended = true;
  if (terminal & POLLOUT && is_pending(&state.in) && !give(&state.in, front.terminal)) state.in.start = state.in.end;
  if (terminal & (POLLIN | POLLHUP | POLLERR) && !is_pending(&state.out)) state.quiet = !take(&state.out, front.terminal, &again);
  /* Whoever reads no more still waits for the exit code; the process must not wait for a reader. */
  if (out && is_pending(&state.out) && !give(&state.out, 1)) state.out.start = state.out.end;
}

/* What the process left in its terminal; a descendant that keeps that open does not hold us. */
static void drain(void) {
  int64_t deadline = now_monotonic() + (int64_t)DRAIN_MS * 1000000;
  for (bool again = false; now_monotonic() < deadline;) {
    struct pollfd out = {.fd = 1, .events = POLLOUT};
    if (!is_pending(&state.out) && (!take(&state.out, front.terminal, &again) || again)) return;
    if (poll(&out, 1, DRAIN_MS) > 0 && !give(&state.out, 1)) return;
  }
}

/* --- signals */

/* True when the process has ended. Others were left to us by its end, or by that of their parents. */
static bool reap(void) {
  int status;
  for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;)
    if (pid == front.made) {
      state.status = status;
      front.made = 0;
    }
  return front.made == 0;
}

static void take_signals(void) {
  struct signalfd_siginfo info;
  while (read(state.signals, &info, sizeof info) == (ssize_t)sizeof info) {
    int number = (int)info.ssi_signo;
    if (number == SIGCHLD) continue;
    /* What a window does is nothing to a process without it: to some servers that signal says "end". */
    if (number == SIGWINCH) copy_size();
    else syscall(SYS_pidfd_send_signal, state.process, number, NULL, 0);
  }
}

static void wait_once(void) {
  bool has_terminal = front.terminal >= 0;
  short terminal = (short)((is_pending(&state.in) ? POLLOUT : 0) | (is_pending(&state.out) ? 0 : POLLIN));
  struct pollfd fds[] = {
    {.fd = state.signals, .events = POLLIN},
    {.fd = has_terminal && !state.in_ended && !is_pending(&state.in) ? 0 : -1, .events = POLLIN},
    {.fd = has_terminal && is_pending(&state.out) ? 1 : -1, .events = POLLOUT},
    {.fd = has_terminal && !state.quiet && terminal ? front.terminal : -1, .events = terminal},
  };
  int ready = poll(fds, 4, state.quiet ? QUIET_MS : -1);
  state.quiet = false;
  if (ready <= 0) return;
  if (fds[0].revents) take_signals();
  if (has_terminal) copy(fds[1].revents, fds[2].revents, fds[3].revents);
}

int wait_for_process(void) {
  sigset_t set = forwarded();
  hold_signals();
  prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
  state.signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
  state.process = (int)syscall(SYS_pidfd_open, front.made, 0);
  if (front.terminal >= 0) open_tty();
  while (!reap()) wait_once();
  if (front.terminal >= 0) drain();
  close_tty();
  return WIFSIGNALED(state.status) ? 128 + WTERMSIG(state.status) : WEXITSTATUS(state.status);
}
