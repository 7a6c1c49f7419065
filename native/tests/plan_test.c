/* Unit tests of the reader, the plan decoder and the control messages. Prints what failed; exit status 0 when nothing did. */
#define _GNU_SOURCE
#include <stdio.h>
#include <sys/socket.h>
#include "seeds.h"

static int failures;
#define CHECK(condition) \
  do { if (!(condition)) { failures++; printf("%s:%d: not true: %s\n", __FILE__, __LINE__, #condition); } } while (0)

/* Decodes an exact-size copy, so that a sanitizer sees every read past the end. */
static int decode(const uint8_t *data, size_t size) {
  struct plan plan;
  uint8_t *copy = malloc(size + (size == 0));
  if (size > 0) memcpy(copy, data, size);
  int err = plan_decode(copy, size, &plan);
  free(copy);
  if (err == 0) plan_free(&plan);
  CHECK(plan.sections == NULL && plan.data == NULL);
  return err;
}

static int decode_with(uint16_t op, size_t at, uint8_t value) {
  uint8_t data[256];
  size_t size = build_seed(data, op);
  data[at] = value;
  return decode(data, size);
}

static void every_step_decodes_whole_or_not_at_all(void) {
  uint8_t data[256];
  for (size_t i = 0; i < SEED_COUNT; i++) {
    size_t size = build_seed(data, seed_ops[i]);
    CHECK(size != 0);
    for (size_t cut = 0; cut < size; cut++) CHECK(decode(data, cut) == EINVAL);
    data[size] = 0;
    CHECK(decode(data, size + 1) == EINVAL);
  }
}

static void headers_are_checked(void) {
  const size_t section = SEED_SECTION_AT, step = SEED_STEP_AT;
  CHECK(decode_with(STEP_SET_UMASK, 0, 'X') == EINVAL);
  CHECK(decode_with(STEP_SET_UMASK, 4, 2) == EINVAL);
  CHECK(decode_with(STEP_SET_UMASK, 6, PLAN_SECTIONS_MAX + 1) == E2BIG);
  CHECK(decode_with(STEP_SET_UMASK, section, ACTOR_PAYLOAD + 1) == EINVAL);
  CHECK(decode_with(STEP_SET_UMASK, section + 1, 1) == EINVAL);
  CHECK(decode_with(STEP_SET_UMASK, section + 2, 1) == EINVAL); /* a barrier for the process itself */
  CHECK(decode_with(STEP_SET_UMASK, section + 4, 1) == EINVAL); /* a clone flag that is no namespace */
  CHECK(decode_with(STEP_SET_UMASK, section + 9, 0x01) == EINVAL); /* slot 511 */
  CHECK(decode_with(STEP_SET_UMASK, section + 12, 2) == EINVAL);
  CHECK(decode_with(STEP_SET_UMASK, section + 15, 1) == E2BIG);
  CHECK(decode_with(STEP_SET_UMASK, step, 255) == EINVAL); /* no such step */
  CHECK(decode_with(STEP_SET_UMASK, step + 2, 1) == EINVAL); /* skips past the end */
  CHECK(decode_with(STEP_SET_UMASK, step + 4, 1) == EINVAL); /* an ignored errno that is not there */
  CHECK(decode_with(STEP_SET_UMASK, step + 5, 1) == EINVAL);
  CHECK(decode_with(STEP_SET_UMASK, step + 11, 0xff) == EINVAL);
  CHECK(decode_with(STEP_SKIP, SEED_FIELDS_AT, 1) == EINVAL); /* skips past the end */
  CHECK(decode_with(STEP_SET_HOSTNAME, SEED_FIELDS_AT + 4, 'x') == EINVAL); /* a text without its end */
}

static void reader_is_bounded(void) {
  uint8_t many[8] = {0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0}, inner[8] = {2, 0, 0, 0, 'a', 0, 0, 0};
  struct reader in;
  reader_init(&in, many, sizeof many);
  struct texts texts = read_texts(&in);
  CHECK(in.bad && texts.count == 0 && texts.items[0] == NULL && in.arena == NULL);
  reader_init(&in, many, sizeof many);
  CHECK(read_u32s(&in).count == 0 && in.bad && in.arena == NULL);
  reader_init(&in, many, sizeof many);
  CHECK(read_bytes(&in).size == 0 && in.bad && read_u8(&in) == 0);
  reader_init(&in, inner, 7);
  CHECK(read_text(&in)[0] == 0 && in.bad); /* a NUL inside */
  reader_init(&in, "\1\2\3\4\5\6\7\x88", 8);
  CHECK(read_u64(&in) == 0x8807060504030201u && reader_done(&in));
}

static void a_section_without_a_step_runs(void) {
  struct slots slots;
  struct failure failure;
  slots_init(&slots);
  struct run run = {.slots = &slots, .stdio = {-1, -1, -1}, .control = -1, .executable = -1, .host = true};
  struct section section = {.actor = ACTOR_HOST};
  CHECK(plan_run_section(&section, &run, &failure) == 0 && failure.err == 0);
}

static void messages_carry_a_descriptor(void) {
  struct child_message sent = {.type = CHILD_EXPORT, .value = 7}, got;
  int pair[2], fd = -2;
  CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0);
  memset(sent.failure.detail, 'x', sizeof sent.failure.detail);
  CHECK(send_message(pair[0], &sent, 1) == 0 && receive_message(pair[1], &got, &fd) == 1 && got.value == 7 && fd > 2);
  CHECK(got.failure.detail[FAILURE_DETAIL_MAX] == 0 && (fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0);
  close(fd);
  CHECK(send(pair[0], "short", 5, 0) == 5 && receive_message(pair[1], &got, &fd) == -EPROTO && fd == -1);
  close(pair[0]);
  CHECK(receive_message(pair[1], &got, &fd) == 0 && fd == -1);
  CHECK(send_message(pair[1], &sent, -1) == -EPIPE);
  close(pair[1]);
}

int main(void) {
  every_step_decodes_whole_or_not_at_all();
  headers_are_checked();
  reader_is_bounded();
  a_section_without_a_step_runs();
  messages_carry_a_descriptor();
  printf("%d failures\n", failures);
  return failures != 0;
}
