/*
 * The step that looks whether mounts cross from a mount to its copies. In: a path. Out: nothing, or the mount point in the detail. What is read is the
 * kernel's own text, never a tenant's.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>
#include "steps.h"

/* Id of the mount that fd is on, -1 where the kernel does not tell. */
static int mount_id_of(int fd) {
  char name[40], text[512];
  snprintf(name, sizeof name, "/proc/self/fdinfo/%d", fd);
  int info = open(name, O_RDONLY | O_CLOEXEC);
  if (info < 0) return -1;
  ssize_t size = read(info, text, sizeof text - 1);
  close(info);
  if (size < 0) return -1;
  text[size] = 0;
  const char *found = strstr(text, "mnt_id:");
  return found == NULL ? -1 : atoi(found + strlen("mnt_id:"));
}

struct mount_facts {
  bool shared, slave;
  char point[FAILURE_DETAIL_MAX];
};

/* A line of mountinfo; proc_pid_mountinfo(5): id parent device root point options tag... - type source options. False where it is another mount's. */
static bool parse_line(char *line, int id, struct mount_facts *facts) {
  char *rest = NULL, *word = strtok_r(line, " ", &rest);
  if (word == NULL || atoi(word) != id) return false;
  for (int field = 1; (word = strtok_r(NULL, " ", &rest)) != NULL; field++) {
    if (field == 4) snprintf(facts->point, sizeof facts->point, "%s", word);
    if (field < 6) continue;
    if (strcmp(word, "-") == 0) break;
    if (strncmp(word, "shared:", 7) == 0) facts->shared = true;
    if (strncmp(word, "master:", 7) == 0) facts->slave = true;
  }
  return true;
}

static int look_up(int id, struct mount_facts *facts) {
  FILE *list = fopen("/proc/self/mountinfo", "re");
  if (list == NULL) return errno;
  char *line = NULL;
  size_t room = 0;
  bool found = false;
  while (!found && getline(&line, &room, list) > 0) found = parse_line(line, id, facts);
  free(line);
  fclose(list);
  return found ? 0 : ENOENT;
}

int run_require_propagation(struct run *run, const struct step_require_propagation *step, struct failure *failure) {
  struct mount_facts facts = {0};
  int base = step->dir == NO_SLOT ? AT_FDCWD : slot_fd(run, step->dir);
  if (base == -1) return EBADF;
  int fd = open_resolved(base, step->path, O_PATH, 0, 0);
  if (fd < 0) return -fd;
  int id = mount_id_of(fd);
  int err = close_with(fd, id < 0 ? ENOENT : look_up(id, &facts));
  if (err != 0) return err;
  if (facts.shared || (facts.slave && step->wanted == MS_SLAVE)) return 0;
  set_detail(failure, facts.point, strlen(facts.point));
  return EINVAL;
}
