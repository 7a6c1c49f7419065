/*
 * Steps on how a process is scheduled: scheduler, I/O priority, CPUs, memory nodes. In: numbers and bit sets that TypeScript compiled. Out:
 * kernel calls on the executing process. None is open to the host actor: it would change the shim.
 */
#define _GNU_SOURCE
#include <string.h>
#include "steps.h"

#define IOPRIO_WHO_PROCESS 1
/* Bytes of a bit set: what the kernel's own sets of CPUs and memory nodes hold at most, with room to spare. */
#define MASK_BYTES_MAX 8192

/* linux/sched/types.h, its first version; the kernel takes a shorter structure than its own. */
struct kernel_sched_attr {
  uint32_t size, policy;
  uint64_t flags;
  int32_t nice;
  uint32_t priority;
  uint64_t runtime, deadline, period;
};

int run_set_scheduler(struct run *run, const struct step_set_scheduler *step, struct failure *failure UNUSED) {
  struct kernel_sched_attr attr = {
    .size = sizeof attr, .policy = step->policy, .flags = step->flags, .nice = step->nice, .priority = step->priority,
    .runtime = step->runtime, .deadline = step->deadline, .period = step->period,
  };
  return run->host ? EPERM : result(syscall(SYS_sched_setattr, 0, &attr, 0));
}

int run_set_io_priority(struct run *run, const struct step_set_io_priority *step, struct failure *failure UNUSED) {
  return run->host ? EPERM : result(syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, (int)step->priority));
}

/* A bit set as the kernel reads it: whole words. Returns the bytes used, 0 where it is too long. */
static size_t words_of(const struct bytes *mask, unsigned long words[static MASK_BYTES_MAX / sizeof(unsigned long)]) {
  size_t size = (mask->size + sizeof *words - 1) / sizeof *words * sizeof *words;
  if (size > MASK_BYTES_MAX) return 0;
  memset(words, 0, size);
  if (mask->size > 0) memcpy(words, mask->data, mask->size);
  return size;
}

int run_set_cpu_affinity(struct run *run, const struct step_set_cpu_affinity *step, struct failure *failure UNUSED) {
  unsigned long words[MASK_BYTES_MAX / sizeof(unsigned long)];
  size_t size = words_of(&step->mask, words);
  if (size == 0) return EINVAL;
  return run->host ? EPERM : result(syscall(SYS_sched_setaffinity, 0, size, words));
}

int run_set_memory_policy(struct run *run, const struct step_set_memory_policy *step, struct failure *failure UNUSED) {
  unsigned long words[MASK_BYTES_MAX / sizeof(unsigned long)];
  size_t size = words_of(&step->nodes, words);
  if (size == 0 && step->nodes.size != 0) return EINVAL;
  if (run->host) return EPERM;
  /* The kernel counts bits from one: with the number of bits in the set the last one would be left out. */
  return result(syscall(SYS_set_mempolicy, (int)step->mode, size == 0 ? NULL : words, size == 0 ? 0 : size * 8 + 1));
}
