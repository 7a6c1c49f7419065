/*
 * Fuzzes what the front reads from its compiler: `fuzz_compiler SECONDS [SEED]` mutates conversations of good frames and has the front follow them. Plans are decoded
 * and never executed: in their place come the events of an execution, by chance, questions to the compiler among them. To be built with sanitizers, which end it
 * at the first bad access; the seed is printed, so that a find can be repeated.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sanitizer/common_interface_defs.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

/* The front ends where a compiler breaks the rules; here that ends one conversation. */
static _Noreturn void end_case(int code);
#define _exit end_case
#include "../front_compiler.c"
#undef _exit

#define CONVERSATION_MAX 8192
#define OWN_DESCRIPTORS 10 /* those of one conversation lie from here on */

const char *__asan_default_options(void);
/* A conversation that ends in the middle leaves memory, as the process that it stands for does. */
const char *__asan_default_options(void) { return "detect_leaks=0"; }

static jmp_buf next_case;
static _Noreturn void end_case(int code) { longjmp(next_case, code == 0 ? 1 : code); }

static uint64_t state;
static uint32_t random_below(uint32_t bound) {
  state ^= state << 13, state ^= state >> 7, state ^= state << 17;
  return bound == 0 ? 0 : (uint32_t)(state >> 33) % bound;
}

/* --- the rest of the front */

struct front front = {.executable = -1, .compiler = -1, .terminal = -1, .floor = OWN_DESCRIPTORS, .preserved = 2};
static unsigned long long plans;

const char *front_home(void) { return "/nowhere"; }
int move_above(int fd) { return fd < 0 ? fd : fcntl(fd, F_DUPFD_CLOEXEC, OWN_DESCRIPTORS); }
int open_state_directory(const char *root, const char *id) { return strlen(root) + strlen(id) > 64 ? -ENAMETOOLONG : open("/", O_PATH | O_CLOEXEC); }
int keep_lock(int directory, int64_t timeout) { return close(directory) < 0 || timeout < 0 ? EBADF : (int)random_below(2); }
uint64_t read_start_time(pid_t pid) { return (uint64_t)pid; }
void hold_signals(void) {}

int start_container(int directory, struct failure *failure) {
  if (directory < 0 || random_below(2) == 0) return 0;
  *failure = (struct failure){.err = ENOENT, .detail = "program"};
  return ENOENT;
}

struct execution *execution_new(const void *plan, size_t size, bool process, struct slots *pod, int executable, int *err) {
  struct execution *x = calloc(1, sizeof *x);
  if (!x) abort();
  *err = plan_decode(plan, size, &x->plan);
  if (*err) {
    free(x);
    return NULL;
  }
  plans++;
  *x = (struct execution){.plan = x->plan, .pod = pod, .executable = executable, .control = -1, .waiting = -1, .message_fd = -1, .process = process};
  return x;
}

/* What a child might have said next. */
enum execution_event execution_continue(struct execution *x) {
  static const enum execution_event events[] = {EXECUTION_FINISHED, EXECUTION_FAILED, EXECUTION_ASK, EXECUTION_START, EXECUTION_TERMINAL, EXECUTION_WAIT};
  enum execution_event event = events[random_below(sizeof events / sizeof *events)];
  if (event == EXECUTION_FAILED) x->failure = (struct failure){.err = EPERM, .detail = "step"};
  if (event != EXECUTION_ASK && event != EXECUTION_TERMINAL) return event;
  x->message_fd = memfd_create("question", MFD_CLOEXEC);
  if (x->message_fd < 0 || ftruncate(x->message_fd, random_below(3) * 16) < 0) abort();
  return event;
}
enum execution_event execution_receive(struct execution *x) { return execution_continue(x); }
enum execution_event execution_release(struct execution *x) { return execution_continue(x); }
enum execution_event execution_answer(struct execution *x, const void *plan, size_t size) {
  struct plan answer;
  if (plan_decode(plan, size, &answer) == 0) plan_free(&answer);
  return execution_continue(x);
}
void execution_kill(struct execution *x) { x->done = true; }
void execution_free(struct execution *x) {
  plan_free(&x->plan);
  free(x);
}

/* --- conversations */

static void put_plan(struct buffer *out) {
  uint8_t plan[8] = {0};
  uint32_t magic = PLAN_MAGIC;
  memcpy(plan, &magic, sizeof magic);
  plan[4] = PLAN_VERSION;
  put_bytes(out, plan, sizeof plan);
}

static void put_frame(struct buffer *out) {
  static const uint16_t types[] = {FRAME_FRONT_OUTPUT, FRAME_FRONT_RUN, FRAME_FRONT_MAKE, FRAME_FRONT_ADOPT, FRAME_FRONT_START, FRAME_FRONT_LOCK, FRAME_ANSWER, FRAME_EXIT, FRAME_WAIT};
  uint16_t type = types[random_below(sizeof types / sizeof *types)];
  size_t begin = frame_begin(out, type, type == FRAME_FRONT_MAKE || type == FRAME_ANSWER ? 7 : random_below(3));
  switch (type) {
    case FRAME_FRONT_OUTPUT:
      put_u32(out, 1 + random_below(2));
      put_bytes(out, "text\n", random_below(6));
      break;
    case FRAME_FRONT_MAKE:
      put_plan(out);
      put_u32(out, random_below(4));
      put_text(out, random_below(2) ? "" : "/nowhere/console.sock");
      put_u32(out, random_below(4));
      break;
    case FRAME_FRONT_RUN: case FRAME_ANSWER: put_plan(out); break;
    case FRAME_FRONT_ADOPT: case FRAME_EXIT: put_u32(out, random_below(3)); break;
    default: put_text(out, "/nowhere/state");
  }
  frame_end(out, begin);
}

static const uint32_t edges[] = {0, 1, 3, 4, 255, 4095, 4096, 65536, 0x7fffffff, 0x80000000, 0xfffffff0, 0xffffffff};

static void mutate(uint8_t *data, size_t *size) {
  uint32_t at = random_below((uint32_t)*size), edge = edges[random_below(sizeof edges / sizeof *edges)];
  switch (random_below(5)) {
    case 0: data[at] ^= (uint8_t)(1u << random_below(8)); return;
    case 1: data[at] = (uint8_t)random_below(256); return;
    case 2: if (*size - at >= 4) memcpy(data + at, &edge, 4); return;
    case 3: if (at > 0 && random_below(4) == 0) *size = at; return;
    default:
      if (*size < CONVERSATION_MAX) memmove(data + at + 1, data + at, *size - at), data[at] = 0, (*size)++;
  }
}

/* Has the front follow one conversation. Returns whether it came to a good end. */
static bool follow(const uint8_t *data, size_t size) {
  struct outcome outcome = {0};
  static struct frame frame;
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) abort();
  int compiler = move_above(pair[1]);
  front.compiler = move_above(pair[0]);
  front.running = NULL;
  front.terminal = -1;
  front.made = 0;
  close(pair[0]);
  close(pair[1]);
  if (write(compiler, data, size) != (ssize_t)size || shutdown(compiler, SHUT_WR) < 0) abort();
  if (setjmp(next_case) != 0) return false;
  do next_frame(&frame);
  while (!handle(&frame, &outcome));
  free(outcome.directory);
  return true;
}

int main(int argc, char **argv) {
  unsigned long long runs = 0, ended = 0;
  if (argc < 2) return 64;
  time_t end = time(NULL) + atol(argv[1]);
  state = argc > 2 ? strtoull(argv[2], NULL, 10) : (uint64_t)time(NULL);
  printf("seed %llu\n", (unsigned long long)state);
  fflush(stdout);
  state |= 1;
  /* Streams that frames may write to lead nowhere; what this program itself says goes elsewhere. */
  int own = fcntl(1, F_DUPFD_CLOEXEC, 3), errors = fcntl(2, F_DUPFD_CLOEXEC, 3), null = open("/dev/null", O_RDWR | O_CLOEXEC);
  if (own < 0 || errors < 0 || null < 0 || errors >= OWN_DESCRIPTORS || dup2(null, 1) < 0 || dup2(null, 2) < 0) return 2;
  __sanitizer_set_report_fd((void *)(intptr_t)errors);
  signal(SIGPIPE, SIG_IGN);
  for (; runs % 256 != 0 || time(NULL) < end; runs++) {
    static uint8_t data[CONVERSATION_MAX];
    struct buffer good = {0};
    for (uint32_t i = 1 + random_below(6); i > 0; i--) put_frame(&good);
    size_t size = buffer_size(&good);
    memcpy(data, good.data + good.start, size);
    buffer_free(&good);
    for (uint32_t i = random_below(6); i > 0; i--) mutate(data, &size);
    ended += follow(data, size);
    if (sys_close_range(OWN_DESCRIPTORS, ~0u, 0) < 0) return 2;
  }
  dprintf(own, "%llu conversations, %llu with a good end, %llu plans\n", runs, ended, plans);
  return ended == 0 || plans == 0; /* what they are made of must be good */
}
