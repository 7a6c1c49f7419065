/*
 * The plan interpreter: decoded plans in, kernel calls out. It knows no JSON, no policy, no message text beyond the
 * kernel's own words. plan.c decodes and dispatches; steps_*.c hold the steps by group. The parent's side of a child
 * (clone, barriers, asks, exports) is in child.c and is used by shim.c and by the one-shot runner.
 */
#pragma once
#include <sys/types.h>
#include "steps.gen.h"

struct failure {
  uint32_t section, step;
  int32_t err; /* positive errno; 0: no failure */
  char detail[FAILURE_DETAIL_MAX + 1];
};

struct step_header {
  uint16_t op, skip_on_ignored;
  uint8_t ignore_count;
  const uint8_t *ignore; /* ignore_count little-endian i32 */
  const uint8_t *fields;
  uint32_t fields_size;
};

struct section {
  uint8_t actor;
  uint16_t barrier, pid_namespace, cgroup;
  uint32_t clone_flags, step_count;
  struct step_header *steps;
};

struct plan {
  uint8_t *data; /* owned copy of the bytes */
  uint32_t section_count;
  struct section *sections;
};

/* Copies and checks the whole plan, every field of every step included. Returns 0 or EINVAL/ENOMEM/E2BIG. */
int plan_decode(const void *data, size_t size, struct plan *plan);
void plan_free(struct plan *plan);

/* Descriptors by slot, -1 where empty. */
struct slots { int fd[SLOT_COUNT]; };
void slots_init(struct slots *slots);
/* Closes what was there. */
void slots_set(struct slots *slots, uint16_t slot, int fd);
/* Closes the slots from POD_SLOT_COUNT on. */
void slots_close_local(struct slots *slots);

/* What a section runs with. */
struct run {
  struct slots *slots;
  int stdio[3];   /* payload only: become 0, 1, 2 at execute; -1: /dev/null */
  int control;    /* child only: SOCK_SEQPACKET to the parent; -1 for host sections */
  int executable; /* the sealed memfd */
  bool host;      /* host actor: namespace changes are refused with EPERM */
  uint32_t preserved, kept; /* descriptors from 3 on that the caller handed over; how many of them survive execute */
};

/*
 * Runs one section's steps. Returns 0 or the errno of the failed step, which is also in failure (step, err, detail; the
 * caller fills in section). execute returns only on failure. In a child, `ask` runs the answered sections before it returns.
 */
int plan_run_section(const struct section *section, struct run *run, struct failure *failure);

/*
 * Child to parent over the SOCK_SEQPACKET control socket; one struct a message, a descriptor by SCM_RIGHTS where noted.
 * End of file without CHILD_FAILED after CHILD_EXECUTING means that execve succeeded (the socket is close-on-exec).
 */
#define ANSWERED 0x80000000u /* bit of failure.section: set by the step ask where an answered section failed */
#define CHILD_SLOT 255       /* host sections at a barrier: O_PATH directory /proc/<pid> of the waiting child */
enum child_message_type {
  CHILD_FAILED = 1,    /* failure; value = section index, inside answered sections ANSWERED | index in the answered plan */
  CHILD_BARRIER = 2,   /* value = barrier; the child waits for PARENT_GO */
  CHILD_ASK = 3,       /* descriptor: memfd whose content is exactly an ASK frame's payload; waits for PARENT_ANSWER */
  CHILD_EXPORT = 4,    /* value = pod slot, or from POD_SLOT_COUNT on a slot of this plan; descriptor */
  CHILD_TERMINAL = 5,  /* descriptor: master of the terminal */
  CHILD_FORKED = 6,    /* value = pid of the process that continues (as seen by the old child) */
  CHILD_DONE = 7,      /* all sections ended without execute */
  CHILD_EXECUTING = 8, /* sent by execute and execute_pause right before execve; CHILD_FAILED follows where that fails */
  CHILD_LISTENER = 9,  /* value = descriptor of the child, which waits for PARENT_GO; failure.section = slot of this plan for it */
  PARENT_GO = 16,      /* also the first message on a connection to a start socket */
  PARENT_ANSWER = 17,  /* descriptor: memfd holding an encoded plan */
};
struct child_message { uint32_t type, value; struct failure failure; };
int send_message(int control, const struct child_message *message, int fd);
/* Returns 1, 0 at end of file, or -errno. *fd is -1 where none came. */
int receive_message(int control, struct child_message *message, int *fd);
/* A copy of another process's descriptor, or -errno. */
int descriptor_of(pid_t pid, int number);

/* The unpack child: reads layer records from input below layer_dir, answers one OK or FAILED frame; never returns. */
_Noreturn void unpack_main(int connection, uint32_t request_id, const char *layer_dir, const char *root_dir);
/* The pause role; never returns. */
_Noreturn void pause_main(void);
