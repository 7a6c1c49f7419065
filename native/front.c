/*
 * The role of berth-oci; see front.h. In: the command line and the descriptors of whoever calls a runtime. Out: an exit code.
 *
 *   first:  a plain command of an existing container is done at once ── exit 0
 *           all else: executes itself again from a sealed memfd ──┐
 *   then:   asks the compiler ── EXIT code ── exit                │
 *           WAIT ── hands on signals, copies the terminal ── deletes ── exit with the process's code
 */
#include "front.h"
#include "roles.h"
#include "sealed.h"
#include "syscalls.h"
#include <ctype.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>

#define ID_BYTES_MAX 1024
#define HOME_VARIABLE "BERTH_OCI_HOME="     /* the directory of the executable, which the sealed one has none of */
#define FAILURE_VARIABLE "BERTH_OCI_FAILED=" /* what was tried before: section, step, errno, detail */
#define PRESERVED_MAX 65536 /* beyond: MAKE refuses it */
#define DESCRIPTORS_LEFT 512 /* for what plans open */

struct front front = {.executable = -1, .compiler = -1, .terminal = -1, .floor = 3};
static char home[PATH_MAX];
extern char **environ;

/* --- the command line */

/* Not defined by a standard: what runtimes agree on, without names that are paths. */
static bool is_id(const char *text) {
  if (!text || !text[0] || strcmp(text, ".") == 0 || strcmp(text, "..") == 0) return false;
  return strspn(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_+.-") == strlen(text) && strlen(text) <= ID_BYTES_MAX;
}

/* A number, or a name with or without SIG in any case; 0 is none that is understood here. */
static int signal_of(const char *text) {
  static const struct { const char *name; int number; } signals[] = {
    {"HUP", SIGHUP}, {"INT", SIGINT}, {"QUIT", SIGQUIT}, {"ILL", SIGILL}, {"TRAP", SIGTRAP}, {"ABRT", SIGABRT}, {"BUS", SIGBUS}, {"FPE", SIGFPE},
    {"KILL", SIGKILL}, {"USR1", SIGUSR1}, {"SEGV", SIGSEGV}, {"USR2", SIGUSR2}, {"PIPE", SIGPIPE}, {"ALRM", SIGALRM}, {"TERM", SIGTERM},
    {"CHLD", SIGCHLD}, {"CONT", SIGCONT}, {"STOP", SIGSTOP}, {"TSTP", SIGTSTP}, {"TTIN", SIGTTIN}, {"TTOU", SIGTTOU}, {"URG", SIGURG},
    {"XCPU", SIGXCPU}, {"XFSZ", SIGXFSZ}, {"VTALRM", SIGVTALRM}, {"PROF", SIGPROF}, {"WINCH", SIGWINCH}, {"IO", SIGIO}, {"PWR", SIGPWR}, {"SYS", SIGSYS},
  };
  if (isdigit((unsigned char)text[0])) {
    char *end;
    long number = strtol(text, &end, 10);
    return *end == 0 && number > 0 && number <= 64 ? (int)number : 0;
  }
  if (strncasecmp(text, "SIG", 3) == 0) text += 3;
  for (size_t i = 0; i < sizeof signals / sizeof *signals; i++)
    if (strcasecmp(text, signals[i].name) == 0) return signals[i].number;
  return 0;
}

/* The value of a flag that takes one, in either spelling; *at moves to its last argument. NULL where argv[*at] is not that flag. */
static const char *flag_value(char *const argv[], int *at, const char *name) {
  size_t size = strlen(name);
  if (strncmp(argv[*at], name, size) != 0) return NULL;
  if (argv[*at][size] == '=') return argv[*at] + size + 1;
  return argv[*at][size] == 0 && argv[*at + 1] ? argv[++*at] : NULL;
}

static const char *default_root(char *const env[]) {
  static char path[PATH_MAX];
  for (char *const *at = env; geteuid() != 0 && *at; at++)
    if (strncmp(*at, "XDG_RUNTIME_DIR=/", 17) == 0 && snprintf(path, sizeof path, "%s/berth-oci", *at + 16) < (int)sizeof path) return path;
  return "/run/berth-oci";
}

struct command parse_command(char *const argv[], char *const env[]) {
  static const char *const names[] = {
    [COMMAND_STATE] = "state", [COMMAND_START] = "start", [COMMAND_KILL] = "kill", [COMMAND_DELETE] = "delete", [COMMAND_PAUSE] = "pause", [COMMAND_RESUME] = "resume"};
  static const char *const ignored[] = {"--log", "--log-format", "--rootless"};
  struct command command = {.root = default_root(env), .signal = SIGTERM}, other = {0};
  int at = 1;
  for (; argv[at] && argv[at][0] == '-'; at++) {
    const char *root = flag_value(argv, &at, "--root");
    bool known = root != NULL || strcmp(argv[at], "--debug") == 0 || strcmp(argv[at], "--systemd-cgroup") == 0;
    for (size_t i = 0; !known && i < sizeof ignored / sizeof *ignored; i++) known = flag_value(argv, &at, ignored[i]) != NULL;
    if (!known || (root && !root[0])) return other;
    if (root) command.root = root;
  }
  for (size_t i = COMMAND_STATE; argv[at] && i < sizeof names / sizeof *names; i++)
    if (strcmp(argv[at], names[i]) == 0) command.kind = (enum command_kind)i;
  if (command.kind == COMMAND_OTHER) return other;
  for (at++; argv[at] && argv[at][0] == '-'; at++) {
    bool force = command.kind == COMMAND_DELETE && (strcmp(argv[at], "--force") == 0 || strcmp(argv[at], "-f") == 0);
    bool all = command.kind == COMMAND_KILL && (strcmp(argv[at], "--all") == 0 || strcmp(argv[at], "-a") == 0);
    if (!force && !all) return other;
    command.force |= force;
  }
  if (!is_id(argv[at])) return other;
  command.id = argv[at++];
  if (command.kind == COMMAND_KILL && argv[at]) command.signal = signal_of(argv[at++]);
  return argv[at] || command.signal == 0 ? other : command;
}

/* --- the way into the sealed executable */

/* The caller's environment without what only a front says to itself. */
static char **own_environment(char *const more[]) {
  size_t count = 0, extra = 0;
  while (environ[count]) count++;
  while (more[extra]) extra++;
  char **env = calloc(count + extra + 1, sizeof *env);
  if (!env) abort();
  size_t at = 0;
  for (size_t i = 0; i < count; i++)
    if (strncmp(environ[i], HOME_VARIABLE, sizeof HOME_VARIABLE - 1) != 0 && strncmp(environ[i], FAILURE_VARIABLE, sizeof FAILURE_VARIABLE - 1) != 0)
      env[at++] = environ[i];
  memcpy(env + at, more, extra * sizeof *env);
  return env;
}

static _Noreturn void execute_sealed(char **argv, const struct failure *failure) {
  static char home_entry[sizeof HOME_VARIABLE + PATH_MAX] = HOME_VARIABLE, failure_entry[FAILURE_DETAIL_MAX + 128];
  char *path = home_entry + sizeof HOME_VARIABLE - 1, *more[3] = {home_entry};
  ssize_t size = readlink("/proc/self/exe", path, PATH_MAX - 1);
  if (size <= 0) _exit(71);
  path[size] = 0;
  *strrchr(path, '/') = 0;
  snprintf(failure_entry, sizeof failure_entry, FAILURE_VARIABLE "%u %u %d %s", failure->section, failure->step, failure->err, failure->detail);
  if (failure->err) more[1] = failure_entry;
  ensure_sealed(argv, own_environment(more));
  dprintf(2, "berth-oci: execute from a sealed copy: %s\n", strerror(errno)); /* vm.memfd_noexec, or no memory */
  _exit(71);
}

/* Takes the two variables out of the environment. False where they are not there: then this is the first execution. */
static bool take_sealed(struct failure *failure) {
  const char *own_home = getenv("BERTH_OCI_HOME"), *failed = getenv("BERTH_OCI_FAILED");
  int size = 0;
  *failure = (struct failure){0};
  if (!is_sealed() || !own_home || strlen(own_home) >= sizeof home) return false;
  strcpy(home, own_home);
  if (failed && sscanf(failed, "%u %u %d %n", &failure->section, &failure->step, &failure->err, &size) >= 3)
    snprintf(failure->detail, sizeof failure->detail, "%s", failed + size);
  environ = own_environment((char *[]){NULL});
  return true;
}

const char *front_home(void) { return home; }

/* --- descriptors */

int move_above(int fd) {
  if (fd < 0 || fd >= front.floor) return fd;
  int high = fcntl(fd, F_DUPFD_CLOEXEC, front.floor);
  close(fd);
  return high;
}

static uint32_t number_of(const char *text) {
  char *end;
  unsigned long number = strtoul(text, &end, 10);
  return isdigit((unsigned char)text[0]) && *end == 0 && number < PRESERVED_MAX ? (uint32_t)number : 0;
}

/*
 * The caller may hand over descriptors from 3 on: as many as --preserve-fds says after those of LISTEN_FDS. They stay where they are, and ours keep out
 * of their range; whether the command line means it is for the compiler to say.
 */
static void reserve_descriptors(char *const argv[]) {
  const char *listening = getenv("LISTEN_FDS");
  struct rlimit limit = {.rlim_cur = 1024};
  uint32_t count = 0;
  for (int at = 1; argv[at]; at++) {
    const char *value = flag_value(argv, &at, argv[at][1] == '-' ? "--preserve-fds" : "-preserve-fds");
    if (value) count = number_of(value);
  }
  count += listening ? number_of(listening) : 0;
  getrlimit(RLIMIT_NOFILE, &limit);
  front.preserved = (rlim_t)count + DESCRIPTORS_LEFT > limit.rlim_cur ? 0 : count;
  front.floor = 3 + (int)front.preserved;
}

/* Streams that the caller has closed would be taken by the next descriptor that is opened. */
static void open_streams(void) {
  for (int fd = open("/dev/null", O_RDWR | O_CLOEXEC); fd >= 0;) {
    if (fd > 2) {
      close(fd);
      return;
    }
    fcntl(fd, F_SETFD, 0);
    fd = open("/dev/null", O_RDWR | O_CLOEXEC);
  }
}

/* --- the end of a foreground process */

/* Somebody else may have deleted it and made another one of that name. */
static bool is_last(int directory) {
  struct container c;
  struct stat info;
  if (fstat(directory, &info) == 0 && info.st_nlink == 0) return false;
  return read_front_file(directory, &c) != 0 || ((pid_t)c.pid == front.last.pid && c.start_time == front.last.start_time);
}

/* Deletes the container that was run; whatever does not go by its own plan the compiler does as `delete --force`. */
static void delete_after(char *path) {
  struct failure failure = {0};
  char *name = strrchr(path, '/');
  if (!name || name == path) return;
  *name++ = 0;
  int directory = open_state_directory(path, name);
  if (directory == -ENOENT) return;
  bool locked = directory >= 0 && keep_lock(directory = move_above(directory), LOCK_NS) == 0;
  if (locked && (!is_last(directory) || delete_container(directory, &failure))) return;
  struct outcome outcome = ask_compiler((char *[]){"berth-oci", "--root", path, "delete", "--force", name, NULL}, &failure);
  free(outcome.directory);
}

/* What changes a container happens one after another; the compiler asks for the lock of those that only it understands, and is told where it is not to be had. */
static void keep_command_lock(char *const argv[]) {
  struct command command = parse_command(argv, environ);
  if (command.kind == COMMAND_OTHER || command.kind == COMMAND_STATE || command.kind == COMMAND_KILL) return;
  int directory = move_above(open_state_directory(command.root, command.id));
  if (directory >= 0 && keep_lock(directory, front.lock_ns) == EWOULDBLOCK) front.lock_ns = 0;
}

_Noreturn void oci_main(char **argv) {
  struct failure failure;
  signal(SIGCHLD, SIG_DFL); /* an inherited "ignore" would hide exits */
  signal(SIGPIPE, SIG_IGN);
  open_streams();
  slots_init(&front.slots);
  argv[0] = "berth-oci"; /* under whatever name it was found */
  if (!take_sealed(&failure)) {
    struct command command = parse_command(argv, environ);
    if (run_command(&command, &failure)) _exit(0);
    execute_sealed(argv, &failure);
  }
  /* SAFETY: children of this process enter containers; until their own first instruction they are as little dumpable as it is. */
  prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
  prctl(PR_SET_NAME, "berth-oci");
  reserve_descriptors(argv);
  front.executable = move_above(ensure_sealed(argv, (char *[]){NULL}));
  if (front.executable < 0) _exit(71);
  front.lock_ns = strcmp(failure.detail, LOCKED_BY_OTHERS) == 0 ? 0 : LOCK_NS;
  keep_command_lock(argv);
  struct outcome outcome = ask_compiler(argv, &failure);
  if (!outcome.waits) _exit((int)outcome.code);
  int code = wait_for_process();
  if (outcome.directory && outcome.directory[0]) delete_after(outcome.directory);
  _exit(code);
}
