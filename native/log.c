/* See log.h. Format: `2026-11-22T12:00:00.000000000Z stdout F content\n`, content of at most LOG_LINE_MAX bytes. */
#include "log.h"
#include "syscalls.h"
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>

static int open_beneath(int directory, const char *path, int flags, mode_t mode) {
  struct kernel_open_how how = {(uint64_t)flags | O_CLOEXEC, mode, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS};
  for (int attempt = 0;; attempt++) { /* EAGAIN: a rename or mount raced with the resolution */
    int fd = sys_openat2(directory, path, &how);
    if (fd >= 0 || errno != EAGAIN || attempt == 32) return fd;
  }
}

/* Makes the directories that path names before its last component. */
static int make_parents(int directory, const char *path) {
  char part[PATH_MAX];
  for (const char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
    if ((size_t)(slash - path) >= sizeof part) return ENAMETOOLONG;
    memcpy(part, path, (size_t)(slash - path));
    part[slash - path] = 0;
    int fd = open_beneath(directory, part, O_PATH | O_DIRECTORY, 0);
    if (fd < 0 && errno == ENOENT) {
      /* SAFETY: the parent was opened beneath the log directory without links, and mkdir never follows a last link. */
      char *name = strrchr(part, '/');
      int parent = directory;
      if (name) *name = 0, parent = open_beneath(directory, part, O_PATH | O_DIRECTORY, 0);
      int err = parent < 0 || (mkdirat(parent, name ? name + 1 : part, 0755) < 0 && errno != EEXIST) ? errno : 0;
      if (parent >= 0 && parent != directory) close(parent);
      if (err) return err;
    } else if (fd < 0) {
      return errno;
    }
    if (fd >= 0) close(fd);
  }
  return 0;
}

int log_open(const char *directory, const char *path) {
  if (path[0] == 0 || path[0] == '/') return -EINVAL;
  int base = open(directory, O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (base < 0) return -errno;
  int err = make_parents(base, path);
  /* SAFETY: O_NONBLOCK, so that a FIFO put there cannot hang the shim; anything but a regular file is refused below. */
  int fd = err ? -1 : open_beneath(base, path, O_WRONLY | O_CREAT | O_APPEND | O_NONBLOCK | O_NOCTTY, 0640);
  if (!err && fd < 0) err = errno == ENXIO ? EINVAL : errno;
  close(base);
  struct stat st;
  if (!err && (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))) err = EINVAL;
  if (!err) return fd;
  if (fd >= 0) close(fd);
  return -err;
}

/* Lines on their way into one writev. */
#define BATCH_LINES 16
struct batch {
  struct log *log;
  char stamp[48];
  const char *stream;
  struct iovec part[BATCH_LINES * 4];
  char prefix[BATCH_LINES][56];
  size_t line_size[BATCH_LINES];
  int parts, lines;
};

/* Writes the batch. Where only a part fits (disk full), the torn line is cut off again, so that the next one stays readable. */
static void batch_flush(struct batch *b) {
  if (b->lines == 0) return;
  ssize_t written = writev(b->log->fd, b->part, b->parts);
  size_t whole = 0;
  for (int i = 0; i < b->lines && written > 0 && whole + b->line_size[i] <= (size_t)written; i++) whole += b->line_size[i];
  if (written > 0 && whole < (size_t)written) {
    off_t end = lseek(b->log->fd, 0, SEEK_END);
    if (end >= 0 && ftruncate(b->log->fd, end - (off_t)((size_t)written - whole)) < 0) { /* the torn line stays */ }
  }
  b->parts = b->lines = 0;
}

static void batch_part(struct batch *b, const void *data, size_t size) {
  if (size == 0) return;
  b->part[b->parts++] = (struct iovec){(void *)(uintptr_t)data, size};
  b->line_size[b->lines] += size;
}

/* One line: the unfinished one, then data. */
static void batch_line(struct batch *b, char tag, const uint8_t *head, size_t head_size, const uint8_t *data, size_t size) {
  if (b->lines == BATCH_LINES) batch_flush(b);
  b->line_size[b->lines] = 0;
  int length = snprintf(b->prefix[b->lines], sizeof b->prefix[0], "%s %s %c ", b->stamp, b->stream, tag);
  batch_part(b, b->prefix[b->lines], (size_t)length);
  batch_part(b, head, head_size);
  batch_part(b, data, size);
  batch_part(b, "\n", 1);
  b->lines++;
}

static void batch_init(struct batch *b, struct log *log, int stream) {
  struct timespec now;
  struct tm utc;
  clock_gettime(CLOCK_REALTIME, &now);
  gmtime_r(&now.tv_sec, &utc);
  size_t length = strftime(b->stamp, sizeof b->stamp, "%Y-%m-%dT%H:%M:%S", &utc);
  snprintf(b->stamp + length, sizeof b->stamp - length, ".%09ldZ", now.tv_nsec);
  b->log = log;
  b->stream = stream == 0 ? "stdout" : "stderr";
  b->parts = b->lines = 0;
}

static void keep_partial(struct log *log, int stream, const uint8_t *data, size_t size) {
  if (size == 0) return;
  uint8_t *grown = realloc(log->partial[stream].data, log->partial[stream].size + size);
  if (!grown) return;
  memcpy(grown + log->partial[stream].size, data, size);
  log->partial[stream].data = grown;
  log->partial[stream].size += (uint32_t)size;
}

void log_write(struct log *log, int stream, const uint8_t *data, size_t size) {
  if (log->fd < 0) return;
  struct batch batch;
  batch_init(&batch, log, stream);
  const uint8_t *head = log->partial[stream].data, *end = data + size;
  size_t head_size = log->partial[stream].size;
  uint8_t *spent = NULL; /* the old unfinished line, in use until the batch is written */
  while (data < end) {
    const uint8_t *newline = memchr(data, '\n', (size_t)(end - data));
    size_t length = (size_t)((newline ? newline : end) - data), room = LOG_LINE_MAX - head_size;
    if (!newline && length <= room) break;
    bool full = length <= room;
    if (!full) length = room;
    batch_line(&batch, full ? 'F' : 'P', head, head_size, data, length);
    data += length + (full ? 1 : 0);
    if (log->partial[stream].data) spent = log->partial[stream].data;
    log->partial[stream].data = NULL;
    log->partial[stream].size = 0;
    head = NULL;
    head_size = 0;
  }
  batch_flush(&batch);
  free(spent);
  keep_partial(log, stream, data, (size_t)(end - data));
}

void log_end(struct log *log, int stream) {
  if (log->partial[stream].size > 0 && log->fd >= 0) {
    struct batch batch;
    batch_init(&batch, log, stream);
    batch_line(&batch, 'P', log->partial[stream].data, log->partial[stream].size, NULL, 0);
    batch_flush(&batch);
  }
  free(log->partial[stream].data);
  log->partial[stream].data = NULL;
  log->partial[stream].size = 0;
}

void log_close(struct log *log) {
  for (int stream = 0; stream < 2; stream++) log_end(log, stream);
  if (log->fd >= 0) close(log->fd);
  log->fd = -1;
}
