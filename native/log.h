/* The CRI log of one process: lines with time, stream and P/F tag into a regular file. A failed write loses lines only. */
#pragma once
#include "plan.h"

struct log {
  int fd; /* -1: none */
  struct { uint8_t *data; uint32_t size; } partial[2]; /* the unfinished line of stdout and stderr */
};
/* Opens the file beneath the directory, making missing directories below it. Returns the descriptor or -errno. */
int log_open(const char *directory, const char *path);
/* stream: 0 stdout, 1 stderr. */
void log_write(struct log *log, int stream, const uint8_t *data, size_t size);
/* The stream ended: an unfinished line is written with tag P, for no newline was ever written (as containerd does). */
void log_end(struct log *log, int stream);
void log_close(struct log *log);
