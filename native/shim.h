/*
 * What the files of the shim share: event sources, connections, processes and jobs (plans being executed). One thread,
 * one epoll loop, one event at a time; what ends during an event is marked and freed by the sweep after it.
 */
#pragma once
#include "child.h"
#include "frame.h"
#include "log.h"

#define UNUSED __attribute__((unused))

enum process_flag {
  PROCESS_STDIN = 1, PROCESS_STDIN_ONCE = 2, PROCESS_TERMINAL = 4, PROCESS_LOG = 8, PROCESS_EXCLUSIVE = 16, PROCESS_HOLD = 32,
};
enum process_state { PROCESS_MAKING = 0, PROCESS_CREATED = 1, PROCESS_RUNNING = 2, PROCESS_ENDED = 3 };

#define SECOND 1000000000ll
#define DRAIN_NS (2 * SECOND)
#define HELLO_NS (5 * SECOND)
#ifndef IDLE_NS
#define IDLE_NS (60 * SECOND)
#endif
#define KILL_NS (10 * SECOND)
#define ATTACH_BACKLOG_MAX 16777216u   /* beyond: the client is disconnected */
#define REPLY_BACKLOG_MAX 67108864u    /* a connection whose replies are not read */
#define EXCLUSIVE_BACKLOG_MAX 262144u  /* beyond: the output of an exclusive process is not read */
#define INPUT_PENDING_MAX 65536u       /* beyond: the client's input is not read */
#define CONNECTIONS_MAX 256

/* A descriptor in the loop. */
struct source {
  int fd;
  uint32_t events; /* 0: not in the loop */
  void (*ready)(struct source *source, uint32_t events);
  void *owner;
  int stream;
};
/* Sets the events waited for; 0 takes the source out of the loop. */
void watch(struct source *source, uint32_t events);
/* Out of the loop first: a copy in a child just forked would keep the registration alive. */
void source_close(struct source *source);

struct connection {
  struct connection *next;
  struct source socket;
  struct frame frame;
  struct buffer out;
  bool authenticated, subscribed, lifeline, dead;
  int64_t hello_deadline;
  struct process *attached;
  uint32_t streams;
};

/* Output of an EXEC. */
struct capture {
  struct buffer stream[2];
  uint32_t max, flags;
};

struct process {
  struct process *next;
  char *id;
  uint32_t flags;
  enum process_state state;
  bool exec, reaped, oom, unwanted, gone; /* unwanted: freed once it has ended; gone: freed by the sweep */
  pid_t pid;
  int wait_status;
  int64_t created_ns, started_ns, ended_ns;
  int64_t deadline; /* monotonic, 0 none: of the EXEC, then of draining */
  struct job *job;  /* until the payload executes */
  struct connection *creator;
  uint32_t request; /* of the EXEC */
  struct source input, output[2];
  struct buffer pending;
  bool input_closing;
  struct log log;
  char *oom_file;
  uint64_t oom_before;
  struct capture *capture;
};

/* A plan being executed, for a request or at the end of the shim. */
struct job {
  struct job *next;
  struct source control;
  struct execution *execution;
  struct connection *owner; /* who gets the answer; NULL: gone, or nobody */
  uint32_t request;         /* 0: nothing to answer now */
  struct process *process;  /* NULL: EXECUTE, SHUTDOWN, undo */
  bool last, over;          /* last: the shim ends with it */
};

struct shim {
  int epoll, executable;
  struct source listener, signals;
  struct slots slots;
  struct connection *connections;
  struct process *processes;
  struct job *jobs;
  uint8_t *secret; /* SECRET_SIZE bytes on a page that children get empty */
  char *directory;
  bool told;            /* something was asked for: stay */
  int64_t idle_since;
  uint8_t *undo;        /* the deposited plan */
  size_t undo_size;
  bool ending;
  int64_t ending_deadline;
  uint8_t *last_plan;
  size_t last_plan_size;
  struct connection *ending_owner;
  uint32_t ending_request;
};
extern struct shim shim;

/* shim.c */
void connection_fail(struct connection *c);
/* Sends what was put into c->out; keeps the rest for later. */
void connection_flush(struct connection *c);
/* No connection or request id 0: nobody to answer. */
void reply_ok(struct connection *c, uint32_t id, uint32_t value);
void reply_error(struct connection *c, uint32_t id, int err, const char *detail);
/* Kills everything; the plan, which it takes, runs once all are reaped. */
void begin_end(uint8_t *plan, size_t size, struct connection *owner, uint32_t request);
_Noreturn void shim_exit(void);

/* request.c: the connection's frame is whole. */
void handle_frame(struct connection *c);

/* job.c. A job owns its execution. */
struct job *job_new(struct connection *owner, uint32_t request, struct process *p, struct execution *x);
/* Deals with what execution_continue, _receive, _release or _answer returned; `control` is out of the loop before those. */
void job_event(struct job *job, enum execution_event event);
/* Reads what children have said already. */
void job_drain_all(void);
/* Kills the child that runs the plan; the answer is FAILED with this errno. */
void job_cancel(struct job *job, int err);

/* process.c */
struct process *process_find(const char *id);
struct process *process_new(const char *id, uint32_t flags, struct connection *creator);
void process_free(struct process *p);
void process_started(struct process *p);
/* Reaps every child that has ended, orphans included. */
void process_reap(void);
/* SIGKILL for the process, its group and its session. */
void process_kill(struct process *p);
/* Reports the end once the process is reaped and its output is drained. */
void process_check_end(struct process *p);
void process_deadline(struct process *p);
void process_read_oom(struct process *p, bool at_start);

/* stream.c */
/* Pipes for what the flags ask; the child's ends go into stdio. Returns 0 or errno. */
int streams_make(struct process *p, int stdio[3]);
void streams_set_terminal(struct process *p, int master);
/* Reads output now unless a client is waited for or is slow. */
void streams_watch(struct process *p);
/* Takes what can be read at once and closes. */
void streams_finish(struct process *p);
bool streams_open(const struct process *p);
void input_write(struct process *p, const uint8_t *data, size_t size);
void input_close(struct process *p);
/* The attached client has gone. */
void streams_detach(struct connection *c);
