/*
 * Fuzzes the plan decoder: `fuzz_plan SECONDS [SEED] [PLAN…]` mutates valid plans (one of every step, and the given files)
 * and decodes them until the time is over. Nothing is executed. To be built with -fsanitize=address,undefined, which
 * end it at the first bad access; the seed of the random numbers is printed, so that a find can be repeated.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <time.h>
#include "seeds.h"

#define GROWTH_MAX 512
struct sample { uint8_t *data; size_t size; };

static uint64_t state;
static uint32_t random_below(uint32_t bound) {
  state ^= state << 13, state ^= state >> 7, state ^= state << 17;
  return bound == 0 ? 0 : (uint32_t)(state >> 33) % bound;
}

static const uint32_t edges[] = {0, 1, 2, 4, 5, 16, 17, 255, 256, 4096, 8192, 8193, 65535, 65536, 0x7fffffff, 0x80000000, 0xfffffff0, 0xffffffff};

/* One change; the buffer has GROWTH_MAX bytes to spare. */
static void mutate(uint8_t *data, size_t *size, size_t capacity) {
  uint32_t at = random_below((uint32_t)*size), length = 1 + random_below(8);
  switch (random_below(6)) {
    case 0: data[at] ^= (uint8_t)(1u << random_below(8)); return;
    case 1: data[at] = (uint8_t)random_below(256); return;
    case 2: if (*size - at >= 4) put32(data + at, edges[random_below(sizeof edges / sizeof *edges)]); return;
    case 3: if (at > 0 && random_below(8) == 0) *size = at; return;
    case 4: /* a longer field whose lengths agree: what the deeper checks see */
      if (*size + length > capacity || *size <= SEED_FIELDS_AT || *size > 60000) return;
      at = SEED_FIELDS_AT + random_below((uint32_t)*size - SEED_FIELDS_AT);
      memmove(data + at + length, data + at, *size - at);
      for (uint32_t i = 0; i < length; i++) data[at + i] = (uint8_t)random_below(4);
      *size += length;
      put32(data + SEED_SECTION_AT + 16, (uint32_t)(*size - SEED_STEP_AT));
      put32(data + SEED_STEP_AT + 8, (uint32_t)(*size - SEED_FIELDS_AT));
      return;
    default:
      if (*size <= at + length) return;
      memmove(data + at, data + at + length, *size - at - length);
      *size -= length;
  }
}

static struct sample read_sample(const char *path) {
  FILE *file = fopen(path, "rb");
  if (file == NULL) exit(2);
  uint8_t *data = malloc(PLAN_BYTES_MAX);
  struct sample sample = {data, fread(data, 1, PLAN_BYTES_MAX, file)};
  fclose(file);
  return sample;
}

int main(int argc, char **argv) {
  struct sample samples[SEED_COUNT + 64];
  uint32_t count = 0;
  if (argc < 2) return 64;
  time_t end = time(NULL) + atol(argv[1]);
  state = argc > 2 ? strtoull(argv[2], NULL, 10) : (uint64_t)time(NULL);
  printf("seed %llu\n", (unsigned long long)state);
  state |= 1;
  for (; count < SEED_COUNT; count++) {
    samples[count].data = malloc(256);
    samples[count].size = build_seed(samples[count].data, seed_ops[count]);
    if (samples[count].size == 0) return 2;
  }
  for (int i = 3; i < argc && count < SEED_COUNT + 64; i++) samples[count++] = read_sample(argv[i]);
  unsigned long long runs = 0, accepted = 0;
  for (; runs % 1024 != 0 || time(NULL) < end; runs++) {
    const struct sample *sample = &samples[random_below(count)];
    size_t capacity = sample->size + GROWTH_MAX, size = sample->size;
    uint8_t *data = malloc(capacity);
    memcpy(data, sample->data, size);
    for (uint32_t i = 1 + random_below(16); i > 0; i--) mutate(data, &size, capacity);
    uint8_t *exact = malloc(size + (size == 0));
    memcpy(exact, data, size);
    struct plan plan;
    if (plan_decode(exact, size, &plan) == 0) {
      accepted++;
      plan_free(&plan);
    }
    free(exact);
    free(data);
  }
  printf("%llu plans, %llu accepted\n", runs, accepted);
  for (uint32_t i = 0; i < count; i++) free(samples[i].data);
  return 0;
}
