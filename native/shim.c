/*
 * The shim of one pod: its loop, its connections, its birth and its end. It is the parent and subreaper of everything in
 * the pod. Requests are in request.c, plans being executed in job.c, processes in process.c, streams in stream.c.
 */
#include "shim.h"
#include "roles.h"
#include "syscalls.h"
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>

struct shim shim = {.epoll = -1, .executable = -1};

void watch(struct source *source, uint32_t events) {
  if (source->events == events || source->fd < 0) return;
  struct epoll_event event = {.events = events, .data.ptr = source};
  epoll_ctl(shim.epoll, events == 0 ? EPOLL_CTL_DEL : source->events == 0 ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, source->fd, &event);
  source->events = events;
}

void source_close(struct source *source) {
  watch(source, 0);
  close(source->fd);
  source->fd = -1;
}

/* --- connections --- */

void connection_fail(struct connection *c) {
  c->dead = true;
  watch(&c->socket, 0);
}

void connection_flush(struct connection *c) {
  if (c->dead) return;
  int err = buffer_write(&c->out, c->socket.fd);
  if ((err && err != EAGAIN) || buffer_size(&c->out) > REPLY_BACKLOG_MAX) connection_fail(c);
  else watch(&c->socket, err ? c->socket.events | EPOLLOUT : c->socket.events & ~(uint32_t)EPOLLOUT);
}

void reply_ok(struct connection *c, uint32_t id, uint32_t value) {
  if (!c || !id) return;
  put_ok(&c->out, id, value);
  connection_flush(c);
}

void reply_error(struct connection *c, uint32_t id, int err, const char *detail) {
  if (!c || !id) return;
  put_error(&c->out, id, err, detail);
  connection_flush(c);
}

static void connection_ready(struct source *source, uint32_t events) {
  struct connection *c = source->owner;
  if (events & EPOLLOUT) {
    connection_flush(c);
    if (c->attached && !c->dead) streams_watch(c->attached);
  }
  /* A client that goes while its input is not read: its process may never read, so what it had still to say is lost. */
  if (!(c->socket.events & EPOLLIN) && events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) connection_fail(c);
  if (!c->dead && events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
    int got = frame_read(&c->frame, source->fd, c->authenticated ? FRAME_BYTES_MAX : 64);
    if (got < 0) connection_fail(c);
    if (got > 0) {
      handle_frame(c);
      frame_reset(&c->frame);
    }
  }
  if (!c->dead && c->attached && buffer_size(&c->attached->pending) > INPUT_PENDING_MAX)
    watch(source, (source->events & ~(uint32_t)EPOLLIN) | EPOLLRDHUP);
}

static struct connection *connection_new(int fd, bool authenticated) {
  struct connection *c = calloc(1, sizeof *c);
  if (!c) {
    close(fd);
    return NULL;
  }
  fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
  c->socket = (struct source){.fd = fd, .owner = c, .ready = connection_ready};
  c->authenticated = authenticated;
  c->hello_deadline = now_monotonic() + HELLO_NS;
  c->next = shim.connections;
  shim.connections = c;
  watch(&c->socket, EPOLLIN);
  return c;
}

static void listener_ready(struct source *source, uint32_t events UNUSED) {
  int fd = accept4(source->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK), count = 0;
  struct ucred peer;
  socklen_t size = sizeof peer;
  if (fd < 0) return;
  for (struct connection *c = shim.connections; c; c = c->next) count++;
  if (count >= CONNECTIONS_MAX || getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0 || peer.uid != geteuid()) close(fd);
  else connection_new(fd, false);
}

/* --- the end --- */

/* Kills everything; the plan runs once all are reaped (shim_settle). Takes the plan. */
void begin_end(uint8_t *plan, size_t size, struct connection *owner, uint32_t request) {
  shim.ending = true;
  shim.ending_deadline = now_monotonic() + KILL_NS;
  shim.last_plan = plan;
  shim.last_plan_size = size;
  shim.ending_owner = owner;
  shim.ending_request = request;
  if (shim.listener.fd >= 0) source_close(&shim.listener);
  for (struct process *p = shim.processes; p; p = p->next) {
    process_kill(p);
    if (p->reaped && streams_open(p)) streams_finish(p), process_check_end(p); /* nobody waits for its descendants now */
  }
  for (struct job *job = shim.jobs; job; job = job->next) job_cancel(job, ECANCELED);
}

_Noreturn void shim_exit(void) {
  char path[128];
  snprintf(path, sizeof path, "%s/shim.sock", shim.directory);
  unlink(path);
  int64_t deadline = now_monotonic() + SECOND;
  for (struct connection *c = shim.connections; c; c = c->next) {
    struct pollfd out = {.fd = c->socket.fd, .events = POLLOUT};
    while (!c->dead && buffer_write(&c->out, c->socket.fd) == EAGAIN && now_monotonic() < deadline) poll(&out, 1, 100);
  }
  _exit(0);
}

/* While ending: when nothing is left to reap, or after a while, runs the last plan and leaves. */
static void shim_settle(void) {
  for (struct job *job = shim.jobs; job; job = job->next)
    if (job->last && !job->over) return;
  for (struct process *p = shim.processes; p; p = p->next)
    if (!p->reaped && p->pid > 0 && now_monotonic() < shim.ending_deadline) return;
  int err = 0;
  struct execution *x = shim.last_plan_size == 0 ? NULL : execution_new(shim.last_plan, shim.last_plan_size, false, &shim.slots, shim.executable, &err);
  if (!x) {
    if (err) reply_error(shim.ending_owner, shim.ending_request, err, "run the plan");
    else reply_ok(shim.ending_owner, shim.ending_request, 0);
    shim_exit();
  }
  struct job *job = job_new(shim.ending_owner, shim.ending_request, NULL, x);
  job->last = true;
  job_event(job, execution_continue(x));
}

/* --- the loop --- */

static void connection_gone(struct connection *c) {
  if (c->attached) streams_detach(c);
  for (struct job *job = shim.jobs; job; job = job->next) {
    if (job->owner != c) continue;
    job->owner = NULL;
    /* Nobody waits for the answer: a process half made is unmade, a plan of the pod runs to its end. */
    if (job->process && (job->process->exec || job->process->state == PROCESS_MAKING)) job_cancel(job, ECANCELED);
  }
  for (struct process *p = shim.processes; p; p = p->next) {
    if (p->creator != c) continue;
    p->creator = NULL;
    if (p->exec) process_kill(p);
    else if (p->state == PROCESS_CREATED && p->flags & PROCESS_EXCLUSIVE && p->job) job_cancel(p->job, ECANCELED);
  }
  if (shim.ending_owner == c) shim.ending_owner = NULL;
  if (c->lifeline && !shim.ending) {
    begin_end(shim.undo, shim.undo_size, NULL, 0);
    shim.undo = NULL;
  }
}

/* Frees what ended during the event; ends can follow from ends, so connections come first. True when something was freed. */
static bool sweep(void) {
  bool freed = false;
  for (struct connection **at = &shim.connections; *at;) {
    struct connection *c = *at;
    if (!c->dead) {
      at = &c->next;
      continue;
    }
    *at = c->next;
    connection_gone(c);
    at = &shim.connections; /* its end may have ended others */
    source_close(&c->socket);
    frame_reset(&c->frame);
    buffer_free(&c->out);
    free(c);
    shim.idle_since = now_monotonic();
    freed = true;
  }
  for (struct job **at = &shim.jobs; *at;) {
    struct job *job = *at;
    if (!job->over) {
      at = &job->next;
      continue;
    }
    *at = job->next;
    execution_free(job->execution);
    free(job);
    freed = true;
  }
  for (struct process *p = shim.processes, *next; p; p = next) {
    next = p->next;
    if (!p->gone || p->job) continue;
    for (struct connection *c = shim.connections; c; c = c->next)
      if (c->attached == p) c->attached = NULL;
    process_free(p);
    freed = true;
  }
  return freed;
}

static bool is_idle(void) { return !shim.told && !shim.connections && !shim.processes; }

/* Milliseconds until the next deadline; handles those that have passed. */
static int run_deadlines(void) {
  int64_t now = now_monotonic(), next = INT64_MAX;
  for (struct process *p = shim.processes; p; p = p->next) {
    if (p->deadline && p->deadline <= now && !p->gone) {
      if (p->state == PROCESS_MAKING && p->job && !p->reaped) p->deadline = 0, job_cancel(p->job, ETIMEDOUT);
      else process_deadline(p);
    }
    if (p->deadline && p->deadline < next) next = p->deadline;
  }
  for (struct connection *c = shim.connections; c; c = c->next) {
    if (c->authenticated || c->dead) continue;
    if (c->hello_deadline <= now) connection_fail(c);
    else if (c->hello_deadline < next) next = c->hello_deadline;
  }
  if (is_idle() && now - shim.idle_since >= IDLE_NS) shim_exit();
  if (is_idle() && shim.idle_since + IDLE_NS < next) next = shim.idle_since + IDLE_NS;
  if (shim.ending && shim.ending_deadline < next) next = shim.ending_deadline > now ? shim.ending_deadline : now + SECOND / 10;
  if (next == INT64_MAX) return -1;
  return next <= now ? 0 : (int)((next - now) / 1000000 + 1);
}

static void signals_ready(struct source *source, uint32_t events UNUSED) {
  struct signalfd_siginfo info;
  while (read(source->fd, &info, sizeof info) > 0) continue;
  process_reap();
}

static void loop(void) {
  for (;;) {
    sweep();
    if (shim.ending) shim_settle();
    int timeout = run_deadlines();
    if (sweep()) continue; /* what a deadline ended may have brought another one */
    struct epoll_event event;
    /* One event at a time: handling it may free any other source. */
    if (epoll_wait(shim.epoll, &event, 1, timeout) < 1) continue;
    struct source *source = event.data.ptr;
    source->ready(source, event.events);
  }
}

static int open_signals(void) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGCHLD);
  sigprocmask(SIG_SETMASK, &set, NULL);
  /* SAFETY: a shim ends by SHUTDOWN, by its lifeline or by SIGKILL, never because a terminal or an init said so. */
  signal(SIGHUP, SIG_IGN);
  signal(SIGINT, SIG_IGN);
  signal(SIGTERM, SIG_IGN);
  signal(SIGPIPE, SIG_IGN);
  return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

/* Reads what the launcher hands over on SHIM_DATA_FD: u32 request id, secret, text directory. */
static uint32_t read_birth(void) {
  static uint8_t data[4096 + 128];
  ssize_t got = read(SHIM_DATA_FD, data, sizeof data);
  close(SHIM_DATA_FD);
  struct reader in;
  reader_init(&in, data, got < 0 ? 0 : (size_t)got);
  uint32_t request = read_u32(&in);
  struct bytes secret = read_bytes(&in);
  const char *directory = read_text(&in);
  if (!reader_done(&in) || secret.size != SECRET_SIZE || !(shim.directory = strdup(directory))) _exit(125);
  /* SAFETY: a child that joins a container is readable to SYS_PTRACE there, so it must not hold the pod's secret. */
  shim.secret = mmap(NULL, SECRET_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (shim.secret == MAP_FAILED || madvise(shim.secret, SECRET_SIZE, MADV_WIPEONFORK) < 0) _exit(125);
  memcpy(shim.secret, secret.data, SECRET_SIZE);
  explicit_bzero(data, sizeof data);
  reader_free(&in);
  return request;
}

_Noreturn void shim_main(void) {
  /* SAFETY: it holds the secret and every host descriptor of the pod; children inherit this until they execute. */
  prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
  prctl(PR_SET_NAME, "berth-shim");
  prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
  fcntl(SHIM_CONNECTION_FD, F_SETFD, FD_CLOEXEC);
  uint32_t request = read_birth();
  slots_init(&shim.slots);
  shim.executable = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
  shim.epoll = epoll_create1(EPOLL_CLOEXEC);
  shim.signals = (struct source){.fd = open_signals(), .ready = signals_ready};
  shim.listener = (struct source){.fd = listen_at(shim.directory, "shim.sock"), .ready = listener_ready};
  struct connection *first = connection_new(SHIM_CONNECTION_FD, true);
  if (!first || shim.listener.fd < 0 || shim.epoll < 0 || shim.executable < 0) {
    struct buffer out = {0};
    put_error(&out, request, shim.listener.fd < 0 ? -shim.listener.fd : EIO, "listen in the pod's directory");
    buffer_write(&out, SHIM_CONNECTION_FD);
    _exit(125);
  }
  watch(&shim.signals, EPOLLIN);
  watch(&shim.listener, EPOLLIN);
  reply_ok(first, request, (uint32_t)getpid());
  loop();
  _exit(0);
}
