/* The table of processes: their states, exits, OOM kills and deadlines. */
#include "shim.h"
#include "syscalls.h"
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

struct process *process_find(const char *id) {
  for (struct process *p = shim.processes; p; p = p->next)
    if (!p->gone && !p->unwanted && strcmp(p->id, id) == 0) return p;
  return NULL;
}

struct process *process_new(const char *id, uint32_t flags, struct connection *creator) {
  struct process *p = calloc(1, sizeof *p);
  if (!p || !(p->id = strdup(id))) {
    free(p);
    return NULL;
  }
  p->flags = flags;
  p->creator = creator;
  p->input.fd = p->output[0].fd = p->output[1].fd = p->log.fd = -1;
  p->next = shim.processes;
  shim.processes = p;
  return p;
}

void process_free(struct process *p) {
  for (struct process **at = &shim.processes; *at; at = &(*at)->next)
    if (*at == p) {
      *at = p->next;
      break;
    }
  if (p->input.fd >= 0) source_close(&p->input);
  for (int i = 0; i < 2; i++)
    if (p->output[i].fd >= 0) source_close(&p->output[i]);
  buffer_free(&p->pending);
  log_close(&p->log);
  if (p->capture) {
    buffer_free(&p->capture->stream[0]);
    buffer_free(&p->capture->stream[1]);
    free(p->capture);
  }
  free(p->oom_file);
  free(p->id);
  free(p);
}

void process_started(struct process *p) {
  p->state = PROCESS_RUNNING;
  p->started_ns = now_real();
  streams_watch(p);
}

/* The number after `oom_kill ` in memory.events or memory.oom_control; both are control files, so reading does not block. */
void process_read_oom(struct process *p, bool at_start) {
  char text[512];
  if (!p->oom_file || !p->oom_file[0]) return;
  int fd = open(p->oom_file, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return;
  ssize_t got = read(fd, text, sizeof text - 1);
  close(fd);
  if (got <= 0) return;
  text[got] = 0;
  for (char *at = strstr(text, "oom_kill "); at; at = strstr(at + 1, "oom_kill ")) {
    if (at != text && at[-1] != '\n') continue;
    uint64_t count = strtoull(at + 9, NULL, 10);
    if (at_start) p->oom_before = count;
    else if (count > p->oom_before) p->oom = true;
  }
}

void process_kill(struct process *p) {
  if (p->reaped || p->pid <= 0) return;
  /* SAFETY: not reaped, so the number belongs to our child. The group and session are its own only when it leads them. */
  if (getpgid(p->pid) == p->pid) kill(-p->pid, SIGKILL);
  if (getsid(p->pid) == p->pid) kill_session(p->pid);
  kill(p->pid, SIGKILL);
}

static void report_exec(struct process *p) {
  struct connection *c = p->creator;
  p->gone = true;
  if (!c || c->dead || p->unwanted) return;
  size_t begin = frame_begin(&c->out, FRAME_EXEC_RESULT, p->request);
  put_u32(&c->out, (uint32_t)p->wait_status);
  put_u32(&c->out, p->capture->flags);
  for (int i = 0; i < 2; i++)
    put_bytes(&c->out, p->capture->stream[i].data + p->capture->stream[i].start, buffer_size(&p->capture->stream[i]));
  frame_end(&c->out, begin);
  connection_flush(c);
}

static void report_end(struct process *p) {
  uint32_t flags = p->oom ? 1 : 0;
  for (struct connection *c = shim.connections; c; c = c->next) {
    if (c->dead || !(c->subscribed || c->attached == p)) continue;
    if (c->attached == p) {
      size_t begin = frame_begin(&c->out, FRAME_ENDED, 0);
      put_u32(&c->out, (uint32_t)p->wait_status);
      put_u32(&c->out, flags);
      frame_end(&c->out, begin);
      c->attached = NULL;
    }
    if (c->subscribed) {
      size_t begin = frame_begin(&c->out, FRAME_PROCESS_ENDED, 0);
      put_text(&c->out, p->id);
      put_u32(&c->out, (uint32_t)p->wait_status);
      put_u32(&c->out, flags);
      put_i64(&c->out, p->ended_ns);
      frame_end(&c->out, begin);
    }
    connection_flush(c);
  }
}

void process_check_end(struct process *p) {
  if (!p->reaped || p->state == PROCESS_ENDED || streams_open(p)) return;
  streams_finish(p);
  log_close(&p->log);
  p->state = PROCESS_ENDED;
  p->deadline = 0;
  if (p->exec) report_exec(p);
  else if (!p->unwanted) report_end(p);
  if (p->unwanted) p->gone = true;
}

/* Draining an exclusive process waits on while its client is still taking what it wrote. */
void process_deadline(struct process *p) {
  if (!p->reaped) {
    p->deadline = 0;
    if (p->capture) p->capture->flags |= 1;
    process_kill(p);
    return;
  }
  for (struct connection *c = shim.connections; c; c = c->next)
    if (c->attached == p && !c->dead && p->flags & PROCESS_EXCLUSIVE && buffer_size(&c->out) > 0) {
      p->deadline = now_monotonic() + DRAIN_NS;
      return;
    }
  streams_finish(p);
  process_check_end(p);
}

static void process_reaped(struct process *p, int status) {
  p->reaped = true;
  p->wait_status = status;
  p->ended_ns = now_real();
  process_read_oom(p, false);
  if (p->input.fd >= 0) source_close(&p->input);
  if (shim.ending) streams_finish(p);
  p->deadline = now_monotonic() + DRAIN_NS;
  streams_watch(p);
  process_check_end(p);
}

void process_reap(void) {
  for (;;) {
    siginfo_t info = {0};
    if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) < 0 || info.si_pid == 0) return;
    /* First what the dead said: that another process continues in its place, that it executed, that a step failed. */
    job_drain_all();
    int status;
    if (waitpid(info.si_pid, &status, WNOHANG) != info.si_pid) continue;
    for (struct job *job = shim.jobs; job; job = job->next) {
      if (job->over) continue;
      if (job->execution->beside == info.si_pid) job->execution->beside = 0;
      if (job->execution->pid != info.si_pid) continue;
      job->execution->pid = 0;
      /* Nobody is left for whom a hook should go on. */
      if (job->execution->waiting >= 0) job_cancel(job, ECHILD);
    }
    for (struct process *p = shim.processes; p; p = p->next)
      if (!p->reaped && p->pid == info.si_pid) process_reaped(p, status);
  }
}
