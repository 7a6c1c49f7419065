/* Frames and output buffers; see frame.h. */
#include "frame.h"
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

void buffer_append(struct buffer *b, const void *data, size_t size) {
  if (b->failed) return;
  if (b->start > 0 && b->end + size > b->capacity) {
    memmove(b->data, b->data + b->start, b->end - b->start);
    b->end -= b->start;
    b->start = 0;
  }
  if (b->end + size > b->capacity) {
    size_t capacity = b->capacity < 256 ? 256 : b->capacity;
    while (capacity < b->end + size) capacity *= 2;
    uint8_t *grown = realloc(b->data, capacity);
    if (!grown) {
      b->failed = true;
      return;
    }
    b->data = grown;
    b->capacity = capacity;
  }
  if (size > 0) memcpy(b->data + b->end, data, size);
  b->end += size;
}

void buffer_free(struct buffer *b) {
  free(b->data);
  *b = (struct buffer){0};
}

void buffer_consume(struct buffer *b, size_t size) {
  b->start += size;
  if (b->start == b->end) buffer_free(b);
}

int buffer_write(struct buffer *b, int fd) {
  if (b->failed) return ENOMEM;
  while (buffer_size(b) > 0) {
    ssize_t written = write(fd, b->data + b->start, buffer_size(b));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return errno;
    buffer_consume(b, (size_t)written);
  }
  return 0;
}

static void put_le(struct buffer *b, uint64_t value, int size) {
  uint8_t bytes[8];
  for (int i = 0; i < size; i++) bytes[i] = (uint8_t)(value >> (8 * i));
  buffer_append(b, bytes, (size_t)size);
}

void put_u16(struct buffer *b, uint16_t value) { put_le(b, value, 2); }
void put_u32(struct buffer *b, uint32_t value) { put_le(b, value, 4); }
void put_i64(struct buffer *b, int64_t value) { put_le(b, (uint64_t)value, 8); }

void put_bytes(struct buffer *b, const void *data, size_t size) {
  put_u32(b, (uint32_t)size);
  buffer_append(b, data, size);
}

void put_text(struct buffer *b, const char *text) {
  put_u32(b, (uint32_t)strlen(text));
  buffer_append(b, text, strlen(text) + 1);
}

/* The offset counts from `start`, because appending may move the bytes to the front. */
size_t frame_begin(struct buffer *b, uint16_t type, uint32_t id) {
  size_t begin = buffer_size(b);
  put_u32(b, 0);
  put_u16(b, type);
  put_u16(b, 0);
  put_u32(b, id);
  return begin;
}

void frame_end(struct buffer *b, size_t begin) {
  if (b->failed) return;
  size_t size = buffer_size(b) - begin - FRAME_HEADER_SIZE;
  for (int i = 0; i < 4; i++) b->data[b->start + begin + i] = (uint8_t)(size >> (8 * i));
}

void put_ok(struct buffer *b, uint32_t id, uint32_t value) {
  size_t begin = frame_begin(b, FRAME_OK, id);
  put_u32(b, value);
  frame_end(b, begin);
}

void put_failed(struct buffer *b, uint32_t id, const struct failure *failure) {
  size_t begin = frame_begin(b, FRAME_FAILED, id);
  put_u32(b, failure->section);
  put_u32(b, failure->step);
  put_u32(b, (uint32_t)failure->err);
  put_text(b, failure->detail);
  frame_end(b, begin);
}

void put_error(struct buffer *b, uint32_t id, int err, const char *detail) {
  size_t begin = frame_begin(b, FRAME_ERROR, id);
  put_u32(b, (uint32_t)err);
  put_text(b, detail);
  frame_end(b, begin);
}

static uint32_t get_u32(const uint8_t *p) {
  return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

int frame_read(struct frame *frame, int fd, uint32_t size_max) {
  for (;;) {
    bool in_header = frame->have < FRAME_HEADER_SIZE;
    uint32_t whole = FRAME_HEADER_SIZE + (in_header ? 0 : frame->size);
    if (!in_header && frame->have == whole) return 1;
    uint8_t *to = in_header ? frame->header + frame->have : frame->payload + (frame->have - FRAME_HEADER_SIZE);
    ssize_t got = read(fd, to, whole - frame->have);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && errno == EAGAIN) return 0;
    if (got <= 0) return -1;
    frame->have += (uint32_t)got;
    if (!in_header || frame->have < FRAME_HEADER_SIZE) continue;
    frame->size = get_u32(frame->header);
    frame->type = (uint16_t)get_u32(frame->header + 4);
    frame->id = get_u32(frame->header + 8);
    if (frame->size > size_max || get_u32(frame->header + 4) > UINT16_MAX) return -1;
    frame->payload = malloc(frame->size + 1);
    if (!frame->payload) return -1;
  }
}

void frame_reset(struct frame *frame) {
  free(frame->payload);
  *frame = (struct frame){0};
}

static int64_t now_of(clockid_t clock) {
  struct timespec t;
  clock_gettime(clock, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}
int64_t now_real(void) { return now_of(CLOCK_REALTIME); }
int64_t now_monotonic(void) { return now_of(CLOCK_MONOTONIC); }

void reset_signals(void) {
  for (int number = 1; number <= 64; number++) signal(number, SIG_DFL); /* EINVAL for KILL, STOP and the C library's own */
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
}

int listen_at(const char *directory, const char *name) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  int length = snprintf(address.sun_path, sizeof address.sun_path, "%s/%s", directory, name);
  if (length < 0 || (size_t)length >= sizeof address.sun_path) return -ENAMETOOLONG;
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return -errno;
  unlink(address.sun_path);
  mode_t old = umask(0177);
  /* A full queue refuses at once: it has room for all the clients that a shim takes. */
  int bad = bind(fd, (struct sockaddr *)&address, sizeof address) < 0 || listen(fd, 256) < 0 ? errno : 0;
  umask(old);
  if (bad) close(fd);
  return bad ? -bad : fd;
}
