/* The shim's requests: each is decoded whole and checked before anything changes. In: one frame. Out: its answer, or a job. */
#include "shim.h"
#include "syscalls.h"
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

static bool good_id(const char *id) { return id[0] != 0 && strlen(id) <= 256; }

static void request_execute(struct connection *c, struct reader *in, uint32_t id) {
  struct bytes plan = read_bytes(in);
  int err = reader_done(in) ? 0 : EINVAL;
  struct execution *x = err ? NULL : execution_new(plan.data, plan.size, false, &shim.slots, shim.executable, &err);
  if (!x) {
    reply_error(c, id, err, "malformed plan");
    return;
  }
  shim.told = true;
  struct job *job = job_new(c, id, NULL, x);
  job_event(job, execution_continue(x));
}

/* What CREATE and EXEC share: the process is made and its plan begun. Takes x. */
static void begin_process(struct connection *c, uint32_t id, struct process *p, struct execution *x) {
  int err = streams_make(p, x->stdio);
  if (err) {
    reply_error(c, id, err, "make the standard streams");
    execution_free(x);
    p->gone = true;
    return;
  }
  shim.told = true;
  p->created_ns = now_real();
  process_read_oom(p, true);
  struct job *job = job_new(c, id, p, x);
  job_event(job, execution_continue(x));
}

static void request_create(struct connection *c, struct reader *in, uint32_t id) {
  const char *name = read_text(in);
  uint32_t flags = read_u32(in);
  const char *directory = read_text(in), *path = read_text(in), *oom_file = read_text(in);
  struct bytes plan = read_bytes(in);
  if (!reader_done(in) || !good_id(name) || flags & ~63u) {
    reply_error(c, id, EINVAL, "malformed request");
    return;
  }
  int err = process_find(name) ? EEXIST : 0, log = -1;
  const char *what = err ? "the process exists" : "malformed plan";
  struct execution *x = err ? NULL : execution_new(plan.data, plan.size, true, &shim.slots, shim.executable, &err);
  if (x && flags & PROCESS_LOG && (log = log_open(directory, path)) < 0) {
    err = -log;
    what = "open the log";
  }
  struct process *p = err ? NULL : process_new(name, flags, c);
  if (p) p->oom_file = strdup(oom_file);
  if (!p) {
    if (log >= 0) close(log);
    execution_free(x);
    reply_error(c, id, err ? err : ENOMEM, err ? what : "");
    return;
  }
  p->log.fd = log;
  /* A pause process executes ours: root in a container may have taken the mode away where the kernel cannot seal it. */
  fchmod(shim.executable, 0555);
  begin_process(c, id, p, x);
}

static void request_exec(struct connection *c, struct reader *in, uint32_t id) {
  const char *name = read_text(in);
  uint32_t flags = read_u32(in), timeout_ms = read_u32(in), max = read_u32(in);
  struct bytes input = read_bytes(in), plan = read_bytes(in);
  if (!reader_done(in) || !good_id(name) || flags & ~(uint32_t)PROCESS_STDIN) {
    reply_error(c, id, EINVAL, "malformed request");
    return;
  }
  int err = process_find(name) ? EEXIST : 0;
  struct execution *x = err ? NULL : execution_new(plan.data, plan.size, true, &shim.slots, shim.executable, &err);
  struct process *p = x ? process_new(name, flags, c) : NULL;
  if (p) p->capture = calloc(1, sizeof *p->capture);
  if (!p || !p->capture) {
    if (p) p->gone = true;
    execution_free(x);
    reply_error(c, id, err ? err : ENOMEM, err == EEXIST ? "the process exists" : "malformed plan");
    return;
  }
  p->exec = true;
  p->request = id;
  p->capture->max = max < FRAME_BYTES_MAX ? max : FRAME_BYTES_MAX;
  if (timeout_ms) p->deadline = now_monotonic() + (int64_t)timeout_ms * 1000000;
  begin_process(c, id, p, x);
  input_write(p, input.data, input.size);
  input_close(p);
}

static void request_answer(struct connection *c, struct reader *in, uint32_t id) {
  struct bytes plan = read_bytes(in);
  for (struct job *job = shim.jobs; job; job = job->next) {
    if (job->over || job->owner != c || job->request != id) continue;
    watch(&job->control, 0);
    if (reader_done(in)) job_event(job, execution_answer(job->execution, plan.data, plan.size));
    else job_cancel(job, ECANCELED);
    return;
  }
}

static void request_start(struct connection *c, struct process *p, uint32_t id) {
  if (p->state != PROCESS_CREATED || !p->job || p->job->request) {
    reply_error(c, id, p->state == PROCESS_ENDED ? ESRCH : EBUSY, "the process is not waiting to be started");
    return;
  }
  struct job *job = p->job;
  p->creator = NULL;
  job->owner = c;
  job->request = id;
  watch(&job->control, 0);
  job_event(job, execution_release(job->execution));
}

static void request_signal(struct connection *c, struct process *p, uint32_t id, uint32_t number) {
  int err = p->reaped || p->pid <= 0 ? ESRCH : number > 64 ? EINVAL : 0;
  /* SAFETY: not reaped, so the number belongs to our child. An EXEC is killed with its session, as by its deadline. */
  if (!err && p->exec && number == SIGKILL) process_kill(p);
  else if (!err && kill(p->pid, (int)number) < 0) err = errno;
  if (err) reply_error(c, id, err, "the process cannot be signalled");
  else reply_ok(c, id, 0);
}

static void request_attach(struct connection *c, struct process *p, uint32_t id, uint32_t streams) {
  if (c->attached || streams & ~7u || p->exec) {
    reply_error(c, id, EINVAL, "the connection cannot be attached");
    return;
  }
  for (struct connection *other = shim.connections; other; other = other->next)
    if (p->flags & PROCESS_EXCLUSIVE && other->attached == p && !other->dead) {
      reply_error(c, id, EBUSY, "the process has its client");
      return;
    }
  reply_ok(c, id, 0);
  c->streams = streams;
  if (p->state == PROCESS_ENDED) {
    size_t begin = frame_begin(&c->out, FRAME_ENDED, 0);
    put_u32(&c->out, (uint32_t)p->wait_status);
    put_u32(&c->out, p->oom ? 1 : 0);
    frame_end(&c->out, begin);
    connection_flush(c);
    return;
  }
  c->attached = p;
  p->flags &= ~(uint32_t)PROCESS_HOLD;
  if (p->state == PROCESS_RUNNING) streams_watch(p);
}

static void request_resize(struct connection *c, struct process *p, uint32_t id, uint32_t columns, uint32_t rows) {
  struct winsize size = {.ws_col = (unsigned short)columns, .ws_row = (unsigned short)rows};
  int err = columns > UINT16_MAX || rows > UINT16_MAX ? EINVAL : !(p->flags & PROCESS_TERMINAL) ? ENOTTY : p->output[0].fd < 0 ? ESRCH : 0;
  if (!err && ioctl(p->output[0].fd, TIOCSWINSZ, &size) < 0) err = errno;
  if (err) reply_error(c, id, err, "resize the terminal");
  else reply_ok(c, id, 0);
}

/* The new file is opened before the old one is let go, and an unfinished line goes to the new one whole. */
static void request_reopen(struct connection *c, struct process *p, uint32_t id, const char *directory, const char *path) {
  int log = !(p->flags & PROCESS_LOG) ? -ENOTSUP : p->state == PROCESS_ENDED ? -ESRCH : log_open(directory, path);
  if (log < 0) {
    reply_error(c, id, -log, "open the log");
    return;
  }
  if (p->log.fd >= 0) close(p->log.fd);
  p->log.fd = log;
  reply_ok(c, id, 0);
}

static void request_state(struct connection *c, uint32_t id) {
  uint32_t count = 0;
  for (struct process *p = shim.processes; p; p = p->next) count += !p->exec && !p->gone && !p->unwanted && p->state != PROCESS_MAKING;
  size_t begin = frame_begin(&c->out, FRAME_STATE_RESULT, id);
  put_u32(&c->out, count);
  for (struct process *p = shim.processes; p; p = p->next) {
    if (p->exec || p->gone || p->unwanted || p->state == PROCESS_MAKING) continue;
    put_text(&c->out, p->id);
    put_u32(&c->out, (uint32_t)p->pid);
    put_u32(&c->out, p->state);
    put_u32(&c->out, (uint32_t)p->wait_status);
    put_u32(&c->out, p->oom ? 1 : 0);
    put_i64(&c->out, p->created_ns);
    put_i64(&c->out, p->started_ns);
    put_i64(&c->out, p->state == PROCESS_ENDED ? p->ended_ns : 0);
  }
  frame_end(&c->out, begin);
  connection_flush(c);
}

static void *copy_of(struct bytes bytes) {
  void *copy = malloc(bytes.size + 1);
  if (!copy) abort();
  return memcpy(copy, bytes.data, bytes.size);
}

/* An empty plan is none. */
static int check_plan(struct bytes plan) {
  int err = 0;
  if (plan.size > 0) execution_free(execution_new(plan.data, plan.size, false, &shim.slots, -1, &err));
  return err;
}

static void request_deposit(struct connection *c, struct reader *in, uint32_t id) {
  uint32_t lifeline = read_u32(in);
  struct bytes plan = read_bytes(in);
  int err = reader_done(in) && lifeline <= 1 ? check_plan(plan) : EINVAL;
  if (err) {
    reply_error(c, id, err, "malformed plan");
    return;
  }
  free(shim.undo);
  shim.undo = copy_of(plan);
  shim.undo_size = plan.size;
  shim.told = true;
  c->lifeline = lifeline == 1;
  reply_ok(c, id, 0);
}

static void request_shutdown(struct connection *c, struct reader *in, uint32_t id) {
  struct bytes plan = read_bytes(in);
  int err = reader_done(in) ? check_plan(plan) : EINVAL;
  if (err) reply_error(c, id, err, "malformed plan");
  else begin_end(copy_of(plan), plan.size, c, id);
}

static void request_hello(struct connection *c) {
  struct reader in;
  reader_init(&in, c->frame.payload, c->frame.size);
  uint32_t version = read_u32(&in);
  struct bytes secret = read_bytes(&in);
  uint8_t difference = reader_done(&in) && c->frame.type == FRAME_HELLO && version == PROTOCOL_VERSION && secret.size == SECRET_SIZE ? 0 : 1;
  for (size_t i = 0; secret.size == SECRET_SIZE && i < SECRET_SIZE; i++) difference |= secret.data[i] ^ shim.secret[i];
  reader_free(&in);
  explicit_bzero(c->frame.payload, c->frame.size); /* what is freed is copied into children all the same */
  if (difference) {
    connection_fail(c);
    return;
  }
  c->authenticated = true;
  reply_ok(c, c->frame.id, (uint32_t)getpid());
}

/* Requests that name a process. */
static void process_request(struct connection *c, struct reader *in, uint16_t type, uint32_t id) {
  const char *name = read_text(in), *directory = "", *path = "";
  uint32_t first = 0, second = 0;
  if (type == FRAME_SIGNAL || type == FRAME_ATTACH || type == FRAME_RESIZE) first = read_u32(in);
  if (type == FRAME_RESIZE) second = read_u32(in);
  if (type == FRAME_REOPEN_LOG) directory = read_text(in), path = read_text(in);
  struct process *p = reader_done(in) ? process_find(name) : NULL;
  if (!reader_done(in)) {
    reply_error(c, id, EINVAL, "malformed request");
    return;
  }
  if (!p || p->state == PROCESS_MAKING) {
    /* An EXEC may be killed while its plan still runs. */
    if (p && p->exec && type == FRAME_SIGNAL && first == SIGKILL && p->job) {
      job_cancel(p->job, ECANCELED);
      reply_ok(c, id, 0);
    } else {
      reply_error(c, id, ESRCH, "no such process");
    }
    return;
  }
  switch (type) {
    case FRAME_START: request_start(c, p, id); break;
    case FRAME_SIGNAL: request_signal(c, p, id, first); break;
    case FRAME_ATTACH: request_attach(c, p, id, first); break;
    case FRAME_RESIZE: request_resize(c, p, id, first, second); break;
    case FRAME_REOPEN_LOG: request_reopen(c, p, id, directory, path); break;
    default:
      if (p->state != PROCESS_ENDED || p->exec) {
        reply_error(c, id, EBUSY, "the process has not ended");
        break;
      }
      p->gone = true;
      reply_ok(c, id, 0);
  }
}

static void handle_request(struct connection *c, struct reader *in, uint16_t type, uint32_t id) {
  if (id == 0 || (shim.ending && type != FRAME_STATE)) {
    reply_error(c, id, id == 0 ? EINVAL : ESHUTDOWN, "the shim is ending");
    return;
  }
  switch (type) {
    case FRAME_EXECUTE: request_execute(c, in, id); break;
    case FRAME_CREATE: request_create(c, in, id); break;
    case FRAME_ANSWER: request_answer(c, in, id); break;
    case FRAME_EXEC: request_exec(c, in, id); break;
    case FRAME_START: case FRAME_SIGNAL: case FRAME_ATTACH: case FRAME_RESIZE: case FRAME_REOPEN_LOG: case FRAME_REMOVE:
      process_request(c, in, type, id);
      break;
    case FRAME_STATE: request_state(c, id); break;
    case FRAME_SUBSCRIBE:
      c->subscribed = true;
      reply_ok(c, id, 0);
      break;
    case FRAME_DEPOSIT: request_deposit(c, in, id); break;
    case FRAME_SHUTDOWN: request_shutdown(c, in, id); break;
    default: reply_error(c, id, ENOSYS, "unknown request");
  }
}

void handle_frame(struct connection *c) {
  struct reader in;
  if (!c->authenticated) {
    request_hello(c);
    return;
  }
  if (c->frame.type == FRAME_INPUT || c->frame.type == FRAME_INPUT_CLOSE) {
    if (!c->attached || !(c->streams & 1)) return;
    if (c->frame.type == FRAME_INPUT) input_write(c->attached, c->frame.payload, c->frame.size);
    else input_close(c->attached);
    return;
  }
  reader_init(&in, c->frame.payload, c->frame.size);
  handle_request(c, &in, c->frame.type, c->frame.id);
  reader_free(&in);
}
