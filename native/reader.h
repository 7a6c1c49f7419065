/*
 * Reads length-checked little-endian values. Nothing is read past the end: the first short or malformed value sets
 * `bad`, and every later read gives zero or empty. Text points into the buffer (a NUL follows it there, checked);
 * lists are allocated and freed with the reader's arena.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct bytes { const uint8_t *data; uint32_t size; };
/* items has count + 1 entries, the last one NULL, so it serves as argv. */
struct texts { char **items; uint32_t count; };
struct u32s { uint32_t *items; uint32_t count; };

struct reader {
  const uint8_t *data;
  size_t size, at;
  bool bad;
  void *arena; /* linked list of allocations; see reader_free */
};

void reader_init(struct reader *in, const void *data, size_t size);
void reader_free(struct reader *in);
uint8_t read_u8(struct reader *in);
uint16_t read_u16(struct reader *in);
uint32_t read_u32(struct reader *in);
int32_t read_i32(struct reader *in);
uint64_t read_u64(struct reader *in);
const uint8_t *read_raw(struct reader *in, size_t size);
struct bytes read_bytes(struct reader *in);
const char *read_text(struct reader *in);
struct texts read_texts(struct reader *in);
struct u32s read_u32s(struct reader *in);
/* True when everything was read and nothing was malformed. */
static inline bool reader_done(const struct reader *in) { return !in->bad && in->at == in->size; }
