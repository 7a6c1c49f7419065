/*
 * Test driver. `run_plan plan PLAN [ANSWER]` executes an encoded plan with child.c as its parent, answers an ask with ANSWER
 * and prints one line an event; `run_plan unpack LAYER_DIR ROOT_DIR RECORDS CHUNK` feeds a file of layer records to the unpack
 * child in pieces of CHUNK bytes; `run_plan xattr PATH NAME` prints an extended attribute in hexadecimal.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>
#include "../child.h"

static uint8_t *read_file(const char *path, size_t *size) {
  FILE *file = fopen(path, "rb");
  struct stat info;
  if (file == NULL || fstat(fileno(file), &info) < 0) exit(2);
  uint8_t *data = malloc((size_t)info.st_size + 1);
  *size = fread(data, 1, (size_t)info.st_size, file);
  fclose(file);
  return data;
}

static void print_ask(int fd) {
  struct stat info;
  fstat(fd, &info);
  printf("ask ");
  for (off_t at = 0; at < info.st_size; at++) {
    uint8_t byte = 0;
    if (pread(fd, &byte, 1, at) == 1) printf("%02x", byte);
  }
  printf("\n");
}

/* Prints what the payload wrote, if it has a terminal or not, until it ends. */
static int finish(struct execution *x, int terminal) {
  char buffer[4096];
  ssize_t size;
  int status = 0;
  pid_t pid = x->pid;
  while (terminal >= 0 && (size = read(terminal, buffer, sizeof buffer)) > 0) printf("terminal %.*s", (int)size, buffer);
  if (pid > 0 && waitpid(pid, &status, 0) == pid) printf("\nstatus %d\n", WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
  return 0;
}

static int run_plan(const char *plan_path, const char *answer_path) {
  static struct slots slots;
  size_t size, answer_size = 0;
  uint8_t *plan = read_file(plan_path, &size), *answer = answer_path == NULL ? NULL : read_file(answer_path, &answer_size);
  int err = 0, terminal = -1, executable = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
  slots_init(&slots);
  prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
  struct execution *x = execution_new(plan, size, true, &slots, executable, &err);
  if (x == NULL) x = execution_new(plan, size, false, &slots, executable, &err);
  if (x == NULL) return printf("malformed %d\n", err), 1;
  for (int i = 0; x->process && i < 3; i++) x->stdio[i] = fcntl(i, F_DUPFD_CLOEXEC, 3);
  fflush(stdout);
  for (enum execution_event event = execution_continue(x);; event = execution_receive(x)) {
    switch (event) {
      case EXECUTION_WAIT: break;
      case EXECUTION_FINISHED: return finish(x, terminal);
      case EXECUTION_FAILED:
        printf("failed %u %u %d %s\n", x->failure.section, x->failure.step, x->failure.err, x->failure.detail);
        return 1;
      case EXECUTION_ASK:
        print_ask(x->message_fd);
        fflush(stdout);
        execution_answer(x, answer, answer_size);
        break;
      case EXECUTION_START:
        printf("start\n");
        fflush(stdout);
        execution_release(x);
        break;
      case EXECUTION_TERMINAL: terminal = x->message_fd; break;
      case EXECUTION_FORKED: printf("forked\n"); fflush(stdout); break;
    }
    if (x->control < 0) return printf("no child\n"), 1;
    struct pollfd poll_control = {.fd = x->control, .events = POLLIN};
    poll(&poll_control, 1, -1);
  }
}

static int run_unpack(const char *layer, const char *root, const char *records_path, size_t chunk) {
  size_t size;
  uint8_t *records = read_file(records_path, &size), frame[4096];
  int pair[2], status = 0;
  if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) < 0) return 2;
  pid_t pid = fork();
  if (pid == 0) {
    close(pair[0]);
    unpack_main(pair[1], 7, layer, root);
  }
  close(pair[1]);
  for (size_t at = 0; at < size;) {
    size_t part = size - at < chunk ? size - at : chunk;
    ssize_t sent = send(pair[0], records + at, part, MSG_NOSIGNAL);
    if (sent <= 0) break;
    at += (size_t)sent;
  }
  shutdown(pair[0], SHUT_WR);
  size_t got = 0;
  for (ssize_t part; got < sizeof frame && (part = recv(pair[0], frame + got, sizeof frame - got, 0)) > 0;) got += (size_t)part;
  waitpid(pid, &status, 0);
  if (WIFSIGNALED(status)) return printf("killed %d\n", WTERMSIG(status)), 1;
  struct reader in;
  reader_init(&in, frame, got);
  uint32_t payload = read_u32(&in), type = read_u16(&in), zero = read_u16(&in), id = read_u32(&in), value = read_u32(&in);
  if (payload + 12 != got || zero != 0 || id != 7) return printf("bad frame of %zu bytes\n", got), 1;
  if (type == 1) return printf("ok %u\n", value), 0;
  read_u32(&in);
  int err = read_i32(&in);
  return printf("failed %d %s\n", err, read_text(&in)), 1;
}

int main(int argc, char **argv) {
  if (argc == 2 && strcmp(argv[1], "pause") == 0) pause_main();
  if (argc >= 3 && strcmp(argv[1], "plan") == 0) return run_plan(argv[2], argc > 3 ? argv[3] : NULL);
  if (argc == 6 && strcmp(argv[1], "unpack") == 0) return run_unpack(argv[2], argv[3], argv[4], (size_t)atol(argv[5]));
  if (argc == 4 && strcmp(argv[1], "xattr") == 0) {
    uint8_t value[4096];
    ssize_t size = lgetxattr(argv[2], argv[3], value, sizeof value);
    for (ssize_t at = 0; at < size; at++) printf("%02x", value[at]);
    return size < 0;
  }
  return 64;
}
