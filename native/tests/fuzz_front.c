/*
 * Fuzzes the reader of a container's `front` file: `fuzz_front SECONDS [SEED]` mutates a valid file, hands it over in a directory of its own, and reads every
 * text and every plan that comes out. To be built with sanitizers, which end it at the first bad access; the seed is printed, so that a find can be repeated.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "../front.h"

#define FILE_BYTES_MAX 4096

static uint64_t state;
static uint32_t random_below(uint32_t bound) {
  state ^= state << 13, state ^= state >> 7, state ^= state << 17;
  return bound == 0 ? 0 : (uint32_t)(state >> 33) % bound;
}

static const uint32_t edges[] = {0, 1, 3, 4, 255, 4095, 4096, 65536, 0x7fffffff, 0x80000000, 0xfffffff0, 0xffffffff};

static void put(struct buffer *b, const char *text, uint32_t times) {
  for (uint32_t i = 0; i < times; i++) put_text(b, text);
}

static void mutate(uint8_t *data, size_t *size) {
  uint32_t at = random_below((uint32_t)*size), edge = edges[random_below(sizeof edges / sizeof *edges)];
  switch (random_below(5)) {
    case 0: data[at] ^= (uint8_t)(1u << random_below(8)); return;
    case 1: data[at] = (uint8_t)random_below(256); return;
    case 2: if (*size - at >= 4) memcpy(data + at, &edge, 4); return;
    case 3: if (at > 0 && random_below(4) == 0) *size = at; return;
    default:
      if (*size < FILE_BYTES_MAX) memmove(data + at + 1, data + at, *size - at), data[at] = 0, (*size)++;
  }
}

static size_t use(const struct container *c) {
  const struct bytes plans[] = {c->kill_plan, c->pause_plan, c->resume_plan, c->delete_plan};
  size_t sum = strlen(c->freeze_file) + strlen(c->state_prefix) + strlen(c->state_middle) + strlen(c->state_suffix);
  for (size_t i = 0; i < sizeof plans / sizeof *plans; i++) {
    struct plan plan;
    for (size_t at = 0; at < plans[i].size; at++) sum += plans[i].data[at];
    if (plan_decode(plans[i].data, plans[i].size, &plan) == 0) plan_free(&plan);
  }
  return sum;
}

int main(int argc, char **argv) {
  char directory[] = "/tmp/fuzz-front-XXXXXX";
  struct buffer valid = {0};
  unsigned long long runs = 0, accepted = 0;
  if (argc < 2) return 64;
  time_t end = time(NULL) + atol(argv[1]);
  state = argc > 2 ? strtoull(argv[2], NULL, 10) : (uint64_t)time(NULL);
  printf("seed %llu\n", (unsigned long long)state);
  state |= 1;
  for (uint32_t i = 0; i < 6; i++) put_u32(&valid, i == 0 ? 0x46545242u : i == 1 ? 1 : 0); /* magic, version, pid, start time, flags */
  put(&valid, "text", 4);
  for (int i = 0; i < 4; i++) put_bytes(&valid, "plan", (size_t)i);
  if (mkdtemp(directory) == NULL) return 2;
  int dir = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC), file = openat(dir, FRONT_FILE, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (dir < 0 || file < 0) return 2;
  for (; runs % 256 != 0 || time(NULL) < end; runs++) {
    uint8_t data[FILE_BYTES_MAX];
    size_t size = buffer_size(&valid);
    memcpy(data, valid.data + valid.start, size);
    for (uint32_t i = random_below(8); i > 0; i--) mutate(data, &size);
    struct container container;
    if (ftruncate(file, (off_t)size) < 0 || pwrite(file, data, size, 0) != (ssize_t)size) return 2;
    if (read_front_file(dir, &container) == 0) accepted += use(&container) > 0;
    free(container.data);
  }
  unlinkat(dir, FRONT_FILE, 0);
  rmdir(directory);
  close(file);
  close(dir);
  buffer_free(&valid);
  printf("%llu front files, %llu accepted\n", runs, accepted);
  return accepted == 0; /* the file that it begins with must be good */
}
