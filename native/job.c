/* Plans being executed for a request: what the child says on its control socket becomes answers and states. */
#include "shim.h"
#include "syscalls.h"
#include <poll.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/mman.h>

static void job_receive(struct job *job) {
  watch(&job->control, 0); /* the descriptor may be closed or replaced now */
  job_event(job, execution_receive(job->execution));
}

static void job_ready(struct source *source, uint32_t events UNUSED) { job_receive(source->owner); }

void job_drain_all(void) {
  for (struct job *job = shim.jobs; job; job = job->next) {
    struct pollfd waiting = {.fd = job->control.fd, .events = POLLIN};
    while (!job->over && (waiting.fd = job->control.fd) >= 0 && poll(&waiting, 1, 0) > 0) job_receive(job);
  }
}

struct job *job_new(struct connection *owner, uint32_t request, struct process *p, struct execution *x) {
  struct job *job = calloc(1, sizeof *job);
  if (!job) abort();
  *job = (struct job){.owner = owner, .request = request, .process = p, .execution = x};
  job->control = (struct source){.fd = -1, .owner = job, .ready = job_ready};
  job->next = shim.jobs;
  shim.jobs = job;
  if (p) p->job = job;
  return job;
}

static void job_over(struct job *job) {
  watch(&job->control, 0);
  job->control.fd = -1;
  job->over = true;
  if (job->process) job->process->job = NULL;
  if (job->last) shim_exit();
}

static void job_failed(struct job *job) {
  struct process *p = job->process;
  if (job->owner && job->request) {
    put_failed(&job->owner->out, job->request, &job->execution->failure);
    connection_flush(job->owner);
  }
  if (p) {
    /* A process that could not be created is forgotten; one that could not be started has ended. */
    if (p->exec || p->state == PROCESS_MAKING) p->unwanted = true;
    if (p->pid == 0 || p->reaped) p->gone = p->unwanted;
  }
  job_over(job);
}

/* The plan has ended, or the process executes its payload. */
static void job_finished(struct job *job) {
  struct process *p = job->process;
  if (p) process_started(p);
  /* EXEC is answered at the end of its process; CREATE without a start barrier gets the pid now. */
  if (!p || !p->exec) reply_ok(job->owner, job->request, p ? (uint32_t)p->pid : 0);
  job_over(job);
}

static void job_ask(struct job *job) {
  struct execution *x = job->execution;
  off_t size = lseek(x->message_fd, 0, SEEK_END);
  void *content = size > 0 && size <= (off_t)FRAME_BYTES_MAX ? mmap(NULL, (size_t)size, PROT_READ, MAP_PRIVATE, x->message_fd, 0) : MAP_FAILED;
  if (content != MAP_FAILED && job->owner && job->request && (!job->process || job->process->state == PROCESS_MAKING)) {
    size_t begin = frame_begin(&job->owner->out, FRAME_ASK, job->request);
    buffer_append(&job->owner->out, content, (size_t)size);
    frame_end(&job->owner->out, begin);
    connection_flush(job->owner);
  } else {
    execution_kill(x); /* nobody is there to answer */
  }
  if (content != MAP_FAILED) munmap(content, (size_t)size);
  close(x->message_fd);
  x->message_fd = -1;
}

static void job_start_barrier(struct job *job) {
  struct process *p = job->process;
  if (p->exec) {
    job_event(job, execution_release(job->execution));
    return;
  }
  p->state = PROCESS_CREATED;
  reply_ok(job->owner, job->request, (uint32_t)p->pid);
  job->request = 0;
  job->owner = NULL;
}

void job_event(struct job *job, enum execution_event event) {
  struct execution *x = job->execution;
  struct process *p = job->process;
  bool at_process = p && x->child_section < x->plan.section_count && x->plan.sections[x->child_section].actor >= ACTOR_CONTAINER_SETUP;
  if (at_process && !p->reaped && x->pid > 0) p->pid = x->pid;
  switch (event) {
    case EXECUTION_WAIT: case EXECUTION_FORKED: break;
    case EXECUTION_TERMINAL:
      if (p) streams_set_terminal(p, x->message_fd);
      else close(x->message_fd);
      x->message_fd = -1;
      break;
    case EXECUTION_ASK: job_ask(job); break;
    case EXECUTION_START: job_start_barrier(job); break;
    case EXECUTION_FINISHED: job_finished(job); return;
    case EXECUTION_FAILED: job_failed(job); return;
  }
  if (job->over) return;
  if (x->control < 0) { /* killed while it was asked */
    x->failure = (struct failure){.section = x->child_section, .step = UINT32_MAX, .err = ECANCELED};
    job_failed(job);
    return;
  }
  job->control.fd = x->control;
  watch(&job->control, EPOLLIN);
}

void job_cancel(struct job *job, int err) {
  if (job->over) return;
  struct process *p = job->process;
  watch(&job->control, 0);
  execution_kill(job->execution);
  job->execution->failure = (struct failure){.section = job->execution->child_section, .step = UINT32_MAX, .err = err};
  if (p && p->state == PROCESS_CREATED) p->unwanted = p->flags & PROCESS_EXCLUSIVE;
  job_failed(job);
}
