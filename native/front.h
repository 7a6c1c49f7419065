/*
 * The front of berth-oci: the process that callers start in a runtime's place. In: a command line. Out: what it says done. What its container's
 * `front` file has plans for it does alone (front_fast.c); all else is decided by the compiler, which tells it over a socket what to execute and what to
 * print (front_compiler.c, front_make.c, front_wait.c). It holds no policy and no message text. docs/native.md is the contract.
 */
#pragma once
#include "child.h"
#include "frame.h"

#define PATH_BYTES_MAX 4096
#define START_SOCKET "start.sock"
#define FRONT_FILE "front"
/* The compiler's own bound on what it writes there is lower; this one keeps a foreign file from filling the memory. */
#define FRONT_FILE_MAX (4u << 20)
/* Holders of a state directory's lock run plans and hooks, which have bounds of their own. */
#define LOCK_NS (60 * (int64_t)1000000000)
/* Who deletes by force is not held up for long by a holder that hangs. */
#define FORCED_LOCK_NS (5 * (int64_t)1000000000)
/* A foreground process's terminal is read on for so long after its end. */
#define DRAIN_MS 2000

enum front_flag { FRONT_KILL_ALL = 1, FRONT_START_ASKS = 2, FRONT_DELETE_ASKS = 4 };

/* --- the command line (front.c) */

enum command_kind { COMMAND_OTHER, COMMAND_STATE, COMMAND_START, COMMAND_KILL, COMMAND_DELETE, COMMAND_PAUSE, COMMAND_RESUME };
struct command {
  enum command_kind kind; /* COMMAND_OTHER: for the compiler alone */
  const char *root, *id;
  bool force;
  int signal;
};
/* Understands plain command lines of the kinds above; all others are COMMAND_OTHER. */
struct command parse_command(char *const argv[], char *const env[]);

/* --- the state directory (front_state.c) */

struct container {
  uint8_t *data;
  uint32_t pid, flags;
  uint64_t start_time;
  const char *freeze_file, *state_prefix, *state_middle, *state_suffix;
  struct bytes kill_plan, pause_plan, resume_plan, delete_plan;
};
enum status { STATUS_STOPPED, STATUS_CREATED, STATUS_RUNNING, STATUS_PAUSED };

/* The container's directory below root, which is the caller's own and writable by nobody else, or -errno. */
int open_state_directory(const char *root, const char *id);
/* Waits so long for the directory's lock, which ends with this process. Returns 0 or errno, EWOULDBLOCK where another has it. */
int lock_state_directory(int directory, int64_t wait_ns);
/* The same for a directory that is kept open; at once where this process has its lock already. Takes the descriptor. */
int keep_lock(int directory, int64_t wait_ns);
int read_front_file(int directory, struct container *container);
enum status read_status(int directory, const struct container *container);
/* Field 22 of /proc/<pid>/stat, 0 where the process is gone or dead. */
uint64_t read_start_time(pid_t pid);

/* --- acting alone (front_fast.c) */

/* Detail of the failure where the lock was waited for in vain. */
#define LOCKED_BY_OTHERS "lock the state directory"
/* Does the command, or returns false, with `failure` where it tried and failed. */
bool run_command(const struct command *command, struct failure *failure);
/* Deletes by the directory's own plan; false as above. The directory stays locked. */
bool delete_container(int directory, struct failure *failure);
/* Releases the process that waits at the start socket. Returns once it executes, or errno, which is in failure too. */
int start_container(int directory, struct failure *failure);

/* --- executing plans (front_make.c) */

struct front {
  int executable, compiler, terminal; /* of the process made last, without a console socket; -1 */
  int floor;                          /* own descriptors lie from here on; those below are the caller's */
  uint32_t preserved;                 /* how many of those after 2 the command line may hand over */
  int64_t lock_ns;                    /* how long to wait for a lock: nobody waits twice */
  struct slots slots;
  struct execution *running;
  pid_t made; /* the process made last; 0 */
  struct { pid_t pid; uint64_t start_time; } last; /* the same, also after its end */
};
extern struct front front;

/* The directory that the executable was started from. */
const char *front_home(void);
/* Moves a descriptor out of the range that belongs to the caller. Takes -1. */
int move_above(int fd);
/* Sections of host and podNamespaces. Returns 0, or -1 with failure set. */
int run_plan(struct bytes plan, struct failure *failure);
/* Answers a MAKE. */
void make_process(const struct frame *request, struct buffer *out);
/* Answers an ADOPT: a child that others have made counts as made. */
void adopt(const struct frame *request, struct buffer *out);
/* An AF_UNIX socket that is connected to a path of any length, or -errno. */
int connect_to(int type, int directory, const char *path);

/* --- the compiler (front_compiler.c) */

struct outcome { bool waits; uint32_t code; char *directory; };
/* Has a command line done; `failure` says why it was not done alone. Ends the process where the compiler goes away. */
struct outcome ask_compiler(char *const argv[], const struct failure *failure);
/* The frame that the compiler must send next. */
void next_frame(struct frame *frame);
void send_frames(struct buffer *out);
/* The compiler has gone: nothing half made stays. */
_Noreturn void give_up(void);

/* --- in the foreground (front_wait.c) */

/* Signals that the process made last should get wait from here on until wait_for_process. */
void hold_signals(void);
/* Waits for it in the caller's place. Returns its exit code, or 128 and its signal. */
int wait_for_process(void);
