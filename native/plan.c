/*
 * Plans: decode, check, dispatch. In: bytes from the socket, which are checked whole before any step runs. Out: calls of
 * the steps' functions, in order. It knows no step's meaning but that of skip.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "steps.h"

void slots_init(struct slots *slots) {
  for (unsigned i = 0; i < SLOT_COUNT; i++) slots->fd[i] = -1;
}

void slots_set(struct slots *slots, uint16_t slot, int fd) {
  if (slots->fd[slot] >= 0 && slots->fd[slot] != fd) close(slots->fd[slot]);
  slots->fd[slot] = fd;
}

void slots_close_local(struct slots *slots) {
  for (uint16_t i = POD_SLOT_COUNT; i < SLOT_COUNT; i++) slots_set(slots, i, -1);
}

int slot_fd(const struct run *run, uint16_t slot) { return slot < SLOT_COUNT ? run->slots->fd[slot] : -1; }

void set_detail(struct failure *failure, const char *text, size_t size) {
  if (size > FAILURE_DETAIL_MAX) size = FAILURE_DETAIL_MAX;
  memcpy(failure->detail, text, size);
  failure->detail[size] = 0;
}

/* --- decoding */

#define CHECK_CASE(constant, name) case STEP_##constant: { struct step_##name step; return decode_step_##name(in, &step); }
static bool check_fields(struct reader *in, uint16_t op, const struct step_header *header, uint32_t steps_after) {
  switch ((enum step_op)op) {
    case STEP_SKIP: {
      struct step_skip step;
      return decode_step_skip(in, &step) && step.count <= steps_after && header->ignore_count == 0;
    }
    STEPS(CHECK_CASE)
  }
  return false;
}

static bool decode_step(struct reader *in, struct step_header *step, uint32_t steps_after) {
  step->op = read_u16(in);
  step->skip_on_ignored = read_u16(in);
  step->ignore_count = read_u8(in);
  const uint8_t *zero = read_raw(in, 3);
  step->fields_size = read_u32(in);
  step->ignore = read_raw(in, (size_t)step->ignore_count * 4);
  step->fields = read_raw(in, step->fields_size);
  if (in->bad || zero[0] != 0 || zero[1] != 0 || zero[2] != 0 || step->skip_on_ignored > steps_after) return false;
  struct reader fields;
  reader_init(&fields, step->fields, step->fields_size);
  bool good = check_fields(&fields, step->op, step, steps_after);
  reader_free(&fields);
  return good;
}

static bool valid_slot(uint16_t slot) { return slot < SLOT_COUNT || slot == NO_SLOT; }

static int decode_section(struct reader *in, struct section *section, uint32_t *steps_left) {
  section->actor = read_u8(in);
  uint8_t zero = read_u8(in);
  section->barrier = read_u16(in);
  section->clone_flags = read_u32(in);
  section->pid_namespace = read_u16(in);
  section->cgroup = read_u16(in);
  uint32_t count = read_u32(in), size = read_u32(in);
  const uint8_t *data = read_raw(in, size);
  if (in->bad || zero != 0 || section->actor > ACTOR_PAYLOAD || (section->clone_flags & ~NAMESPACE_FLAGS) != 0) return EINVAL;
  if (!valid_slot(section->pid_namespace) || !valid_slot(section->cgroup)) return EINVAL;
  if (section->barrier != 0 && section->actor > ACTOR_POD_NAMESPACES) return EINVAL;
  if (count > *steps_left) return E2BIG;
  if (count > size / 12) return EINVAL;
  *steps_left -= count;
  section->steps = calloc((size_t)count + 1, sizeof *section->steps);
  if (section->steps == NULL) return ENOMEM;
  section->step_count = count;
  struct reader steps;
  reader_init(&steps, data, size);
  for (uint32_t i = 0; i < count; i++) {
    if (!decode_step(&steps, &section->steps[i], count - i - 1)) return EINVAL;
  }
  return reader_done(&steps) ? 0 : EINVAL;
}

static int decode_sections(struct reader *in, struct plan *plan) {
  uint32_t magic = read_u32(in), steps_left = PLAN_STEPS_MAX;
  uint16_t version = read_u16(in), count = read_u16(in);
  if (in->bad || magic != PLAN_MAGIC || version != PLAN_VERSION) return EINVAL;
  if (count > PLAN_SECTIONS_MAX) return E2BIG;
  plan->sections = calloc((size_t)count + 1, sizeof *plan->sections);
  if (plan->sections == NULL) return ENOMEM;
  plan->section_count = count;
  for (uint16_t i = 0; i < count; i++) {
    int err = decode_section(in, &plan->sections[i], &steps_left);
    if (err != 0) return err;
  }
  return reader_done(in) ? 0 : EINVAL;
}

int plan_decode(const void *data, size_t size, struct plan *plan) {
  *plan = (struct plan){.data = NULL};
  if (size > PLAN_BYTES_MAX) return E2BIG;
  plan->data = malloc(size + 1);
  if (plan->data == NULL) return ENOMEM;
  if (size > 0) memcpy(plan->data, data, size);
  struct reader in;
  reader_init(&in, plan->data, size);
  int err = decode_sections(&in, plan);
  if (err != 0) plan_free(plan);
  return err;
}

void plan_free(struct plan *plan) {
  for (uint32_t i = 0; i < plan->section_count; i++) free(plan->sections[i].steps);
  free(plan->sections);
  free(plan->data);
  *plan = (struct plan){.data = NULL};
}

/* --- running */

/* The shim and the one-shot runner keep their own namespaces, credentials and streams; these belong to children. */
static bool forbidden_to_host(uint16_t op) {
  switch (op) {
    case STEP_BARRIER: case STEP_ASK: case STEP_UNSHARE: case STEP_ENTER_NAMESPACE: case STEP_EXPORT_SLOT: case STEP_FORK:
    case STEP_SET_HOSTNAME: case STEP_SET_DOMAINNAME: case STEP_PIVOT_ROOT: case STEP_RUN_HOOK: case STEP_CHANGE_ROOT:
    case STEP_CLOSE_SLOTS: return true;
    default: return op >= STEP_SET_RLIMIT && op < STEP_ATTACH_DEVICE_FILTER && op != STEP_LISTEN;
  }
}

#define RUN_CASE(constant, name) \
  case STEP_##constant: { struct step_##name step; return decode_step_##name(in, &step) ? run_##name(run, &step, failure) : EINVAL; }
static int dispatch(struct reader *in, uint16_t op, struct run *run, uint32_t *skip, struct failure *failure) {
  if (run->host && forbidden_to_host(op)) return EPERM;
  switch ((enum step_op)op) {
    case STEP_SKIP: {
      struct step_skip step;
      if (!decode_step_skip(in, &step)) return EINVAL;
      *skip = step.count;
      return 0;
    }
    STEPS(RUN_CASE)
  }
  return EINVAL;
}

static bool is_ignored(const struct step_header *step, int err) {
  struct reader in;
  reader_init(&in, step->ignore, (size_t)step->ignore_count * 4);
  for (uint8_t i = 0; i < step->ignore_count; i++) {
    if (read_i32(&in) == err) return true;
  }
  return false;
}

/*
 * SAFETY: the host's /dev/null, opened before any root changes, so no image can forge it, and through a read-only mount of its own: root in
 * a container could otherwise change its mode or owner for the whole host. Reading and writing a device need no writable mount.
 */
static int open_null(void) {
  struct kernel_mount_attr attr = {.set = MOUNT_ATTR_RDONLY};
  char path[32];
  int plain = open("/dev/null", O_RDWR | O_CLOEXEC);
  int tree = plain < 0 ? -1 : sys_open_tree(plain, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH);
  /* Without the right to mount there is no container either, only a process of the host. */
  if (tree < 0) return plain;
  snprintf(path, sizeof path, "/proc/self/fd/%d", tree);
  int fd = sys_mount_setattr(tree, 0, &attr) < 0 ? -1 : open(path, O_RDWR | O_CLOEXEC);
  int err = errno;
  close(tree);
  close(plain);
  errno = err;
  return fd;
}

/* A stream that the request left out is /dev/null. */
static int open_missing_streams(struct run *run) {
  for (int i = 0; i < 3; i++) {
    if (run->stdio[i] >= 0) continue;
    int fd = open_null();
    if (fd < 0) return errno;
    for (int j = i; j < 3; j++) {
      if (run->stdio[j] < 0) run->stdio[j] = fd;
    }
  }
  return 0;
}

int plan_run_section(const struct section *section, struct run *run, struct failure *failure) {
  memset(failure, 0, sizeof *failure);
  if (section->actor >= ACTOR_CONTAINER_SETUP && run->control >= 0) {
    failure->err = open_missing_streams(run);
    if (failure->err != 0) return failure->err;
  }
  for (uint32_t at = 0; at < section->step_count;) {
    const struct step_header *step = &section->steps[at];
    struct reader in;
    uint32_t skip = 0;
    reader_init(&in, step->fields, step->fields_size);
    int err = dispatch(&in, step->op, run, &skip, failure);
    reader_free(&in);
    if (err != 0 && (failure->section & ANSWERED) == 0 && is_ignored(step, err)) {
      skip = step->skip_on_ignored;
      err = 0;
      failure->detail[0] = 0;
    }
    if (err != 0) {
      if ((failure->section & ANSWERED) == 0) failure->step = at;
      failure->err = err;
      return err;
    }
    at += 1 + skip; /* cannot wrap: skips were checked against the end when the plan was decoded */
  }
  return 0;
}
