/*
 * Length-checked reading of little-endian values. In: a buffer that outlives the reader. Out: values, and pointers into
 * the buffer. It never reads past the end and never allocates more than the buffer's own size justifies.
 */
#include <stdlib.h>
#include <string.h>
#include "steps.gen.h"

struct allocation { struct allocation *next; uint64_t items[]; };

void reader_init(struct reader *in, const void *data, size_t size) {
  *in = (struct reader){.data = data, .size = size};
}

void reader_free(struct reader *in) {
  for (struct allocation *at = in->arena, *next; at != NULL; at = next) {
    next = at->next;
    free(at);
  }
  in->arena = NULL;
}

/* Zeroed memory that reader_free releases; NULL (and bad) where there is none. */
static void *allocate(struct reader *in, size_t count, size_t item_size) {
  struct allocation *new = calloc(1, sizeof *new + count * item_size);
  if (new == NULL) {
    in->bad = true;
    return NULL;
  }
  new->next = in->arena;
  in->arena = new;
  return new->items;
}

const uint8_t *read_raw(struct reader *in, size_t size) {
  if (in->bad || size > in->size - in->at) {
    in->bad = true;
    return NULL;
  }
  const uint8_t *start = in->data + in->at;
  in->at += size;
  return start;
}

static uint64_t read_number(struct reader *in, size_t size) {
  const uint8_t *data = read_raw(in, size);
  uint64_t value = 0;
  for (size_t i = 0; data != NULL && i < size; i++) value |= (uint64_t)data[i] << (8 * i);
  return value;
}

uint8_t read_u8(struct reader *in) { return (uint8_t)read_number(in, 1); }
uint16_t read_u16(struct reader *in) { return (uint16_t)read_number(in, 2); }
uint32_t read_u32(struct reader *in) { return (uint32_t)read_number(in, 4); }
int32_t read_i32(struct reader *in) { return (int32_t)read_u32(in); }
uint64_t read_u64(struct reader *in) { return read_number(in, 8); }

struct bytes read_bytes(struct reader *in) {
  uint32_t size = read_u32(in);
  const uint8_t *data = read_raw(in, size);
  return data == NULL ? (struct bytes){.data = (const uint8_t *)""} : (struct bytes){data, size};
}

const char *read_text(struct reader *in) {
  uint32_t size = read_u32(in);
  const uint8_t *data = read_raw(in, (size_t)size + 1);
  if (data == NULL) return "";
  if (data[size] != 0 || memchr(data, 0, size) != NULL) {
    in->bad = true;
    return "";
  }
  return (const char *)data;
}

struct texts read_texts(struct reader *in) {
  static char *none[] = {NULL};
  struct texts list = {.items = none};
  uint32_t count = read_u32(in);
  /* A text takes five bytes or more, so the count is checked before memory is taken for it. */
  if (in->bad || count > (in->size - in->at) / 5) in->bad = true;
  char **items = in->bad ? NULL : allocate(in, (size_t)count + 1, sizeof *items);
  if (items == NULL) return list;
  for (uint32_t i = 0; i < count; i++) items[i] = (char *)(uintptr_t)read_text(in);
  return in->bad ? list : (struct texts){items, count};
}

struct u32s read_u32s(struct reader *in) {
  struct u32s list = {.items = NULL};
  uint32_t count = read_u32(in);
  if (in->bad || count > (in->size - in->at) / 4) in->bad = true;
  uint32_t *items = in->bad ? NULL : allocate(in, (size_t)count + 1, sizeof *items);
  if (items == NULL) return list;
  for (uint32_t i = 0; i < count; i++) items[i] = read_u32(in);
  return (struct u32s){items, count};
}
