/*
 * Valid plans for the decoder's tests, built without knowledge of the fields: every field type is valid as zeros, so for
 * each step the one number of zero bytes that its decoder accepts makes a seed.
 */
#pragma once
#include <stdlib.h>
#include <string.h>
#include "../steps.h"

#define SEED_SECTION_AT 8
#define SEED_STEP_AT 28
#define SEED_FIELDS_AT 40

static const uint16_t seed_ops[] = {
  STEP_SKIP,
#define OP(constant, name) STEP_##constant,
  STEPS(OP)
#undef OP
};
#define SEED_COUNT (sizeof seed_ops / sizeof *seed_ops)

static inline void put32(uint8_t *at, uint32_t value) {
  for (int i = 0; i < 4; i++) at[i] = (uint8_t)(value >> (8 * i));
}

/* One payload section with one step of this number and `fields` zero bytes. Returns the size. */
static inline size_t build_plan(uint8_t *out, uint16_t op, uint32_t fields) {
  memset(out, 0, SEED_FIELDS_AT + fields);
  put32(out, PLAN_MAGIC);
  out[4] = PLAN_VERSION;
  out[6] = 1;
  out[SEED_SECTION_AT] = ACTOR_PAYLOAD;
  memset(out + SEED_SECTION_AT + 8, 0xff, 4); /* no PID namespace, no cgroup */
  put32(out + SEED_SECTION_AT + 12, 1);
  put32(out + SEED_SECTION_AT + 16, 12 + fields);
  out[SEED_STEP_AT] = (uint8_t)op;
  put32(out + SEED_STEP_AT + 8, fields);
  return SEED_FIELDS_AT + fields;
}

/* A valid plan with one step of this number; 0 when there is none of up to 64 zero bytes. */
static inline size_t build_seed(uint8_t *out, uint16_t op) {
  for (uint32_t fields = 0; fields <= 64; fields++) {
    struct plan plan;
    size_t size = build_plan(out, op, fields);
    if (plan_decode(out, size, &plan) != 0) continue;
    plan_free(&plan);
    return size;
  }
  return 0;
}
