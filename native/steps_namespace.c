/*
 * Steps on namespaces, and netlink. In: flags, slots, and netlink messages that TypeScript encoded. Out: kernel calls.
 * It knows no netlink message but the acknowledgement.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include "steps.h"

/* SAFETY: changing the user namespace resets the dumpable flag to the host's setting; a child stays closed to tracers. */
static int stay_closed(int err) { return err != 0 ? err : result(prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)); }

int run_unshare(struct run *run UNUSED, const struct step_unshare *step, struct failure *failure UNUSED) {
  return stay_closed(result(unshare((int)step->flags)));
}

static const char *namespace_path(uint32_t type) {
  switch (type) {
    case CLONE_NEWTIME: return "/proc/thread-self/ns/time_for_children";
    case CLONE_NEWNS: return "/proc/thread-self/ns/mnt";
    case CLONE_NEWCGROUP: return "/proc/thread-self/ns/cgroup";
    case CLONE_NEWUTS: return "/proc/thread-self/ns/uts";
    case CLONE_NEWIPC: return "/proc/thread-self/ns/ipc";
    case CLONE_NEWUSER: return "/proc/thread-self/ns/user";
    case CLONE_NEWPID: return "/proc/thread-self/ns/pid_for_children";
    case CLONE_NEWNET: return "/proc/thread-self/ns/net";
    default: return NULL;
  }
}

int run_open_namespace(struct run *run, const struct step_open_namespace *step, struct failure *failure UNUSED) {
  const char *path = namespace_path(step->type);
  if (path == NULL || step->out >= SLOT_COUNT) return EINVAL;
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return errno;
  /* SAFETY: /proc may be a container's by now; only a namespace file of the wanted type is kept. */
  if (!is_on(fd, MAGIC_NSFS) || ioctl(fd, IOCTL_NAMESPACE_TYPE) != (int)step->type) return close_with(fd, EPERM);
  slots_set(run->slots, step->out, fd);
  return 0;
}

static bool is_own_namespace(int fd, uint32_t type) {
  const char *path = namespace_path(type);
  struct stat own, wanted;
  return path != NULL && stat(path, &own) == 0 && fstat(fd, &wanted) == 0 && own.st_dev == wanted.st_dev && own.st_ino == wanted.st_ino;
}

int run_enter_namespace(struct run *run, const struct step_enter_namespace *step, struct failure *failure UNUSED) {
  int fd = slot_fd(run, step->slot);
  if (fd < 0) return EBADF;
  /* SAFETY: a container's mounts and processes are never ours. Where they seem to be, its process has ended and its pid has become that of a process of
   * the host, perhaps our own: what is executed next would be executed on the host. */
  if ((step->type == CLONE_NEWNS || step->type == CLONE_NEWPID) && is_own_namespace(fd, step->type)) return ESRCH;
  return stay_closed(result(setns(fd, (int)step->type)));
}

int run_set_hostname(struct run *run UNUSED, const struct step_set_hostname *step, struct failure *failure UNUSED) {
  return result(sethostname(step->name, strlen(step->name)));
}

int run_set_domainname(struct run *run UNUSED, const struct step_set_domainname *step, struct failure *failure UNUSED) {
  return result(setdomainname(step->name, strlen(step->name)));
}

/* --- netlink (linux/netlink.h) */

struct netlink_header { uint32_t length; uint16_t type, flags; uint32_t sequence, port; };
struct netlink_attribute { uint16_t length, type; };
struct netlink_address { uint16_t family, padding; uint32_t port, groups; };
enum {
  NETLINK_TYPE_ERROR = 2, NETLINK_FLAG_ACK = 4, NETLINK_FLAG_CAPPED = 0x100, NETLINK_FLAG_ATTRIBUTES = 0x200,
  NETLINK_ATTRIBUTE_MESSAGE = 1, NETLINK_OPTION_CAP_ACK = 10, NETLINK_OPTION_EXT_ACK = 11, NETLINK_LEVEL = 270,
  NETLINK_PROTOCOL_NETFILTER = 12, NETFILTER_BATCH_BEGIN = 16, NETFILTER_BATCH_END = 17,
  ACK_WAIT_SECONDS = 5, SOCKET_BUFFER_BYTES = 8 << 20,
};

static size_t aligned(size_t size) { return (size + 3) & ~(size_t)3; }

int open_netlink(uint32_t protocol) {
  int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, (int)protocol), one = 1, buffer = SOCKET_BUFFER_BYTES;
  if (fd < 0) return -errno;
  struct timeval wait = {.tv_sec = ACK_WAIT_SECONDS};
  setsockopt(fd, NETLINK_LEVEL, NETLINK_OPTION_CAP_ACK, &one, sizeof one);
  setsockopt(fd, NETLINK_LEVEL, NETLINK_OPTION_EXT_ACK, &one, sizeof one);
  /* One acknowledgement a message waits in the receive buffer; the default holds fewer than 300. */
  if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &buffer, sizeof buffer) < 0) setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof buffer);
  if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &buffer, sizeof buffer) < 0) setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &buffer, sizeof buffer);
  if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait) < 0) return -close_with(fd, errno);
  return fd;
}

/* How many acknowledgements the messages ask for, or -1 where they are not a whole number of messages. */
static int count_acks(const uint8_t *data, size_t size, uint32_t protocol) {
  struct netlink_header header;
  int count = 0;
  for (size_t at = 0; at < size; at += aligned(header.length)) {
    if (size - at < sizeof header) return -1;
    memcpy(&header, data + at, sizeof header);
    if (header.length < sizeof header || header.length > size - at) return -1;
    /* Older kernels never acknowledge the brackets of a netfilter batch; newer ones' extra acks are not waited for. */
    bool bracket = protocol == NETLINK_PROTOCOL_NETFILTER && (header.type == NETFILTER_BATCH_BEGIN || header.type == NETFILTER_BATCH_END);
    if ((header.flags & NETLINK_FLAG_ACK) != 0 && !bracket) count++;
    if (aligned(header.length) > size - at) break;
  }
  return count;
}

static int patch_slots(const struct run *run, const struct u32s *patches, uint8_t *data, size_t size) {
  if (patches->count % 2 != 0) return EINVAL;
  for (uint32_t i = 0; i < patches->count; i += 2) {
    uint32_t offset = patches->items[i], slot = patches->items[i + 1];
    if (slot >= SLOT_COUNT || size < sizeof(int) || offset > size - sizeof(int)) return EINVAL;
    int fd = slot_fd(run, (uint16_t)slot);
    if (fd < 0) return EBADF;
    memcpy(data + offset, &fd, sizeof fd);
  }
  return 0;
}

/* The kernel's text among the attributes behind an error (extended acknowledgement). */
static void keep_message(const uint8_t *data, size_t size, uint16_t flags, struct failure *failure) {
  struct netlink_header request;
  struct netlink_attribute attribute;
  if ((flags & NETLINK_FLAG_ATTRIBUTES) == 0 || size < sizeof(int) + sizeof request) return;
  memcpy(&request, data + sizeof(int), sizeof request);
  size_t at = sizeof(int) + ((flags & NETLINK_FLAG_CAPPED) != 0 ? sizeof request : aligned(request.length));
  for (; at < size && size - at >= sizeof attribute; at += aligned(attribute.length)) {
    memcpy(&attribute, data + at, sizeof attribute);
    if (attribute.length < sizeof attribute || attribute.length > size - at) return;
    const char *text = (const char *)data + at + sizeof attribute;
    if (attribute.type == NETLINK_ATTRIBUTE_MESSAGE) return set_detail(failure, text, strnlen(text, attribute.length - sizeof attribute));
  }
}

/* Counts the acknowledgements of one datagram into *acks; the first error ends it. */
static int read_acks(const uint8_t *data, size_t size, int *acks, struct failure *failure) {
  struct netlink_header header;
  for (size_t at = 0; at < size && size - at >= sizeof header; at += aligned(header.length)) {
    int32_t error;
    memcpy(&header, data + at, sizeof header);
    if (header.length < sizeof header || header.length > size - at) return EPROTO;
    if (header.type != NETLINK_TYPE_ERROR || header.length < sizeof header + sizeof error) continue;
    memcpy(&error, data + at + sizeof header, sizeof error);
    if (error != 0) {
      keep_message(data + at + sizeof header, header.length - sizeof header, header.flags, failure);
      return error < 0 ? -error : EPROTO;
    }
    ++*acks;
  }
  return 0;
}

int await_acks(int fd, int wanted, struct failure *failure) {
  static uint8_t buffer[32768];
  for (int acks = 0, err; acks < wanted;) {
    struct netlink_address from = {.family = 0};
    socklen_t from_size = sizeof from;
    ssize_t size = recvfrom(fd, buffer, sizeof buffer, 0, (struct sockaddr *)&from, &from_size);
    if (size < 0 && errno == EINTR) continue;
    if (size < 0) return errno == EAGAIN ? ETIMEDOUT : errno;
    if (from.port != 0) continue; /* not from the kernel */
    if ((err = read_acks(buffer, (size_t)size, &acks, failure)) != 0) return err;
  }
  return 0;
}

/*
 * Closing a netfilter socket waits until what was deleted through it is freed, which takes a grace period or two of the kernel
 * (11 to 20 ms). So the shim and the one-shot runner answer first: they keep such a socket until their end, or until the next one
 * is wanted; then it is closed before anything more is deleted.
 */
static int kept_socket = -1;

static void close_kept(void) {
  if (kept_socket >= 0) close(kept_socket);
  kept_socket = -1;
}

static int close_later(const struct run *run, uint32_t protocol, int fd, int err) {
  if (fd < 0 || !run->host || protocol != NETLINK_PROTOCOL_NETFILTER) return close_with(fd, err);
  kept_socket = fd;
  return err;
}

int run_netlink(struct run *run, const struct step_netlink *step, struct failure *failure) {
  size_t size = step->messages.size;
  int wanted = count_acks(step->messages.data, size, step->protocol);
  if (wanted < 0) return EINVAL;
  uint8_t *data = malloc(size + 1);
  if (data == NULL) return ENOMEM;
  if (size > 0) memcpy(data, step->messages.data, size);
  if (run->host) close_kept();
  int err = patch_slots(run, &step->slot_patches, data, size);
  int fd = err != 0 ? -err : open_netlink(step->protocol);
  struct netlink_address kernel = {.family = AF_NETLINK};
  ssize_t sent = fd < 0 ? -1 : sendto(fd, data, size, 0, (struct sockaddr *)&kernel, sizeof kernel);
  err = fd < 0 ? -fd : sent < 0 ? errno : sent != (ssize_t)size ? EMSGSIZE : await_acks(fd, wanted, failure);
  free(data);
  return close_later(run, step->protocol, fd, err);
}
