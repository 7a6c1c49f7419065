/*
 * Standard streams of a process: output goes to its log, to the capture of an EXEC and to attached clients; input comes
 * from them. Pipes and terminals are read and written without blocking; who is slow is waited for only where that is asked.
 */
#include "shim.h"
#include "syscalls.h"
#include <string.h>
#include <sys/epoll.h>

static bool is_slow(const struct connection *c) { return buffer_size(&c->out) > EXCLUSIVE_BACKLOG_MAX; }

/* True while the only client of an exclusive process does not keep up, or a first client is waited for. */
static bool is_held(const struct process *p) {
  if (p->flags & PROCESS_HOLD && !p->reaped) return true;
  if (!(p->flags & PROCESS_EXCLUSIVE)) return false;
  for (struct connection *c = shim.connections; c; c = c->next)
    if (c->attached == p && !c->dead && is_slow(c)) return true;
  return false;
}

void streams_watch(struct process *p) {
  uint32_t events = is_held(p) ? 0 : EPOLLIN;
  for (int i = 0; i < 2; i++)
    if (p->output[i].fd >= 0) watch(&p->output[i], events);
}

bool streams_open(const struct process *p) { return p->output[0].fd >= 0 || p->output[1].fd >= 0; }

static void capture(struct process *p, int stream, const uint8_t *data, size_t size) {
  struct capture *c = p->capture;
  size_t room = c->max - buffer_size(&c->stream[stream]);
  /* Both streams must fit into one frame. */
  size_t both = FRAME_BYTES_MAX - 64 - buffer_size(&c->stream[0]) - buffer_size(&c->stream[1]);
  if (room > both) room = both;
  if (size > room) c->flags |= stream == 0 ? 2 : 4;
  buffer_append(&c->stream[stream], data, size < room ? size : room);
}

static void deliver(struct process *p, int stream, const uint8_t *data, size_t size) {
  uint32_t bit = stream == 0 ? 2 : 4;
  if (p->flags & PROCESS_LOG) log_write(&p->log, stream, data, size);
  if (p->capture) capture(p, stream, data, size);
  for (struct connection *c = shim.connections; c; c = c->next) {
    if (c->attached != p || c->dead || !(c->streams & bit)) continue;
    size_t begin = frame_begin(&c->out, FRAME_OUTPUT, 0);
    put_u32(&c->out, bit);
    buffer_append(&c->out, data, size);
    frame_end(&c->out, begin);
    connection_flush(c);
    if (!(p->flags & PROCESS_EXCLUSIVE) && buffer_size(&c->out) > ATTACH_BACKLOG_MAX) connection_fail(c);
  }
}

/* Returns false when there is nothing more to read now. */
static bool read_output(struct source *source) {
  static uint8_t chunk[16384];
  struct process *p = source->owner;
  ssize_t got = read(source->fd, chunk, sizeof chunk);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return false;
  if (got > 0) {
    deliver(p, source->stream, chunk, (size_t)got);
    return true;
  }
  log_end(&p->log, source->stream); /* 0, or EIO of a terminal that nobody holds any more */
  source_close(source);
  return false;
}

static void output_ready(struct source *source, uint32_t events UNUSED) {
  struct process *p = source->owner;
  read_output(source);
  streams_watch(p);
  process_check_end(p);
}

void streams_finish(struct process *p) {
  for (int i = 0; i < 2; i++) {
    /* What a pipe holds at most, so that a descendant that goes on writing cannot keep us here. */
    for (int n = 0; p->output[i].fd >= 0 && n < 64 && read_output(&p->output[i]); n++) continue;
    if (p->output[i].fd < 0) continue;
    log_end(&p->log, i);
    source_close(&p->output[i]);
  }
  if (p->input.fd >= 0) source_close(&p->input);
  buffer_free(&p->pending);
}

/* --- input --- */

static void resume_clients(struct process *p) {
  for (struct connection *c = shim.connections; c; c = c->next)
    if (c->attached == p && !c->dead) watch(&c->socket, c->socket.events | EPOLLIN);
}

static void input_flush(struct process *p) {
  int err = p->input.fd < 0 ? EPIPE : buffer_write(&p->pending, p->input.fd);
  if (err == EAGAIN) {
    watch(&p->input, EPOLLOUT);
  } else {
    buffer_free(&p->pending);
    if (p->input.fd >= 0) watch(&p->input, 0);
    if (p->input.fd >= 0 && (err || (p->input_closing && !(p->flags & PROCESS_TERMINAL)))) source_close(&p->input);
  }
  if (buffer_size(&p->pending) <= INPUT_PENDING_MAX) resume_clients(p);
}

static void input_ready(struct source *source, uint32_t events UNUSED) { input_flush(source->owner); }

void input_write(struct process *p, const uint8_t *data, size_t size) {
  if (p->input.fd < 0 || p->input_closing) return;
  buffer_append(&p->pending, data, size);
  input_flush(p);
}

void input_close(struct process *p) {
  p->input_closing = true;
  if (p->input.fd >= 0 && buffer_size(&p->pending) == 0) input_flush(p);
}

/* --- making and leaving --- */

static void adopt(struct process *p, struct source *source, int fd, int stream) {
  fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
  *source = (struct source){.fd = fd, .owner = p, .stream = stream, .ready = source == &p->input ? input_ready : output_ready};
}

int streams_make(struct process *p, int stdio[3]) {
  if (p->flags & PROCESS_TERMINAL) return 0;
  for (int i = p->flags & PROCESS_STDIN ? 0 : 1; i < 3; i++) {
    int pair[2];
    if (pipe2(pair, O_CLOEXEC) < 0) return errno;
    stdio[i] = pair[i == 0 ? 0 : 1];
    adopt(p, i == 0 ? &p->input : &p->output[i - 1], pair[i == 0 ? 1 : 0], i - 1);
  }
  return 0;
}

void streams_set_terminal(struct process *p, int master) {
  if (!(p->flags & PROCESS_TERMINAL) || p->output[0].fd >= 0) {
    close(master);
    return;
  }
  adopt(p, &p->output[0], master, 0);
  int input = p->flags & PROCESS_STDIN ? fcntl(master, F_DUPFD_CLOEXEC, 3) : -1;
  if (input >= 0) adopt(p, &p->input, input, 0);
}

void streams_detach(struct connection *c) {
  struct process *p = c->attached;
  c->attached = NULL;
  if (!p || p->state == PROCESS_ENDED) return;
  if (c->streams & 1 && p->flags & PROCESS_STDIN_ONCE) input_close(p);
  if (p->flags & PROCESS_EXCLUSIVE) {
    p->unwanted = true;
    process_kill(p);
  }
  streams_watch(p);
}
