/*
 * Frames of docs/native.md: reading one from a socket without reading past it, building one in a growing buffer, and
 * sending what a buffer holds without blocking. No knowledge of what the frames mean.
 */
#pragma once
#include "plan.h"

enum frame_type {
  FRAME_OK = 1, FRAME_FAILED = 2, FRAME_ERROR = 3,
  FRAME_READY = 16, FRAME_LOCKED = 17, FRAME_SHIM_ENDED = 18, FRAME_SHIM = 20, FRAME_ONE_SHOT = 21, FRAME_UNPACK = 22,
  FRAME_LAYER_ENTRY = 23, FRAME_LAYER_CONTENT = 24, FRAME_TOOL = 25, FRAME_TOOL_RESULT = 26,
  FRAME_HELLO = 32, FRAME_EXECUTE = 33, FRAME_CREATE = 34, FRAME_ASK = 35, FRAME_ANSWER = 36, FRAME_START = 37,
  FRAME_SIGNAL = 38, FRAME_EXEC = 39, FRAME_EXEC_RESULT = 40, FRAME_ATTACH = 41, FRAME_OUTPUT = 42, FRAME_INPUT = 43,
  FRAME_INPUT_CLOSE = 44, FRAME_RESIZE = 45, FRAME_REOPEN_LOG = 46, FRAME_REMOVE = 47, FRAME_STATE = 48,
  FRAME_STATE_RESULT = 49, FRAME_SUBSCRIBE = 50, FRAME_PROCESS_ENDED = 51, FRAME_DEPOSIT = 52, FRAME_SHUTDOWN = 53,
  FRAME_ENDED = 54,
  FRAME_REQUEST = 64, FRAME_FRONT_OUTPUT = 65, FRAME_FRONT_RUN = 66, FRAME_FRONT_MAKE = 67, FRAME_MADE = 68, FRAME_EXIT = 69, FRAME_WAIT = 70,
  FRAME_FRONT_START = 71, FRAME_FRONT_LOCK = 72, FRAME_FRONT_ADOPT = 73, FRAME_FRONT_READY = 74,
};

#define FRAME_HEADER_SIZE 12
#define SECRET_SIZE 32
#define PROTOCOL_VERSION 1

/* Bytes from `start` to `end` of an allocation that grows on demand and is freed when it runs empty. */
struct buffer {
  uint8_t *data;
  size_t start, end, capacity;
  bool failed; /* an allocation failed: the content is incomplete */
};
static inline size_t buffer_size(const struct buffer *b) { return b->end - b->start; }
void buffer_append(struct buffer *b, const void *data, size_t size);
void buffer_free(struct buffer *b);
/* Drops bytes from the front. */
void buffer_consume(struct buffer *b, size_t size);
/* Writes what it can. Returns 0, EAGAIN where something is left, or another errno. */
int buffer_write(struct buffer *b, int fd);

void put_u16(struct buffer *b, uint16_t value);
void put_u32(struct buffer *b, uint32_t value);
void put_i64(struct buffer *b, int64_t value);
void put_text(struct buffer *b, const char *text);
void put_bytes(struct buffer *b, const void *data, size_t size);
/* The length of a begun frame is filled in by frame_end. */
size_t frame_begin(struct buffer *b, uint16_t type, uint32_t id);
void frame_end(struct buffer *b, size_t begin);
void put_ok(struct buffer *b, uint32_t id, uint32_t value);
void put_failed(struct buffer *b, uint32_t id, const struct failure *failure);
void put_error(struct buffer *b, uint32_t id, int err, const char *detail);

/* A frame as far as it has been read. */
struct frame {
  uint8_t header[FRAME_HEADER_SIZE];
  uint32_t have; /* bytes of header and payload */
  uint32_t size, id;
  uint16_t type;
  uint8_t *payload;
};
/* Reads on. Returns 1 when the frame is whole, 0 when the descriptor has no more for now, -1 at its end or on a bad frame. */
int frame_read(struct frame *frame, int fd, uint32_t size_max);
/* Ready for the next frame. */
void frame_reset(struct frame *frame);

/* CLOCK_REALTIME and CLOCK_MONOTONIC in nanoseconds. */
int64_t now_real(void);
int64_t now_monotonic(void);
/* Signal mask empty, every disposition the default one. Async-signal-safe. */
void reset_signals(void);
/* Binds a listening, non-blocking Unix socket (mode 0600), replacing a stale one. Returns it or -errno. */
int listen_at(const char *directory, const char *name);
