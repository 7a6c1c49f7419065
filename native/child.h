/*
 * One plan being executed: its host sections in this process, its child sections in children made here. The owner polls
 * `control` where it is not -1 and calls execution_receive; the shim does that in its loop, the one-shot runner in a row.
 */
#pragma once
#include "plan.h"

struct execution {
  struct plan plan;
  struct slots *pod; /* slots 0 to 63 are shared by all executions; the rest of this table is scratch */
  int local[SLOT_COUNT - POD_SLOT_COUNT];
  int executable;
  int stdio[3]; /* what the payload gets; closed here once the child is made */
  uint32_t preserved; /* descriptors from 3 on, all of them open, that the process keeps for `keepDescriptors` */
  int control;  /* our end of the child's control socket; -1: no child runs sections */
  int message_fd; /* ASK, TERMINAL: what came along; belongs to the owner */
  uint32_t next, child_section;
  pid_t pid; /* of the child; whoever reaps it sets 0 */
  bool process, executing, done;
  /* While the child waits at a barrier for a section that runs in a child of its own, `control` is that one's. */
  pid_t beside; /* whoever reaps it sets 0 */
  int waiting;  /* our end of the waiting child's socket; -1: none waits */
  uint32_t barrier, barrier_next;
  bool beside_done;
  struct failure failure;
};

enum execution_event {
  EXECUTION_WAIT,     /* a child is at work */
  EXECUTION_FINISHED, /* all sections ended, or the process executes its payload */
  EXECUTION_FAILED,   /* `failure` says why; the child, where there is one, is ending */
  EXECUTION_ASK,      /* message_fd holds the payload of an ASK frame; go on with execution_answer */
  EXECUTION_START,    /* the process waits at the start barrier; go on with execution_release */
  EXECUTION_TERMINAL, /* message_fd is the master of the process's terminal */
  EXECUTION_FORKED,   /* the process continues as `pid` */
};

/*
 * Decodes and checks. `process` says that the plan makes one process (CREATE, EXEC): exactly one run of containerSetup and
 * payload sections, as its last child. Without it only host and podNamespaces sections are allowed. Returns NULL with *err set.
 */
struct execution *execution_new(const void *plan, size_t size, bool process, struct slots *pod, int executable, int *err);
/* Runs host sections until a child is at work or all is done. */
enum execution_event execution_continue(struct execution *x);
/* Reads one message of the child. */
enum execution_event execution_receive(struct execution *x);
/* Runs the host sections of the start barrier and lets the process go on. */
enum execution_event execution_release(struct execution *x);
enum execution_event execution_answer(struct execution *x, const void *plan, size_t size);
/* Kills the child that runs sections, and one that waits for it; with their sessions, where they lead one. */
void execution_kill(struct execution *x);
/* Kills what belongs to the session: a plan that starts one makes its process the leader. */
void kill_session(pid_t session);
/* Closes the plan's slots and frees everything; the child, where there is one, goes on. */
void execution_free(struct execution *x);
