/*
 * The step that gives a network device of this namespace to another one. In: its name, its name there, the other namespace. Out: the device there, up,
 * with the addresses that it had. It is several requests, because addresses are lost on the way and the new index is the kernel's choice; their
 * numbers are those of linux/rtnetlink.h and linux/if_addr.h.
 */
#define _GNU_SOURCE
#include <net/if.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include "steps.h"

enum {
  ROUTE_NEW_LINK = 16, ROUTE_NEW_ADDRESS = 20, ROUTE_GET_ADDRESS = 22, MESSAGE_DONE = 3, MESSAGE_ERROR = 2,
  FLAG_REQUEST = 1, FLAG_ACK = 4, FLAG_DUMP = 0x300, FLAG_CREATE = 0x400, FLAG_EXCLUSIVE = 0x200,
  LINK_NAME = 3, LINK_NAMESPACE_FD = 28, ADDRESS_ADDRESS = 1, ADDRESS_LOCAL = 2, ADDRESS_BROADCAST = 4, ADDRESS_FLAGS = 8,
  ADDRESS_PERMANENT = 0x80, SCOPE_UNIVERSE = 0,
  MESSAGES_BYTES_MAX = 65536,
};

struct message_header { uint32_t length; uint16_t type, flags; uint32_t sequence, port; };
struct attribute_header { uint16_t length, type; };
struct link_message { uint8_t family, padding; uint16_t type; int32_t index; uint32_t flags, change; };
struct address_message { uint8_t family, prefix, flags, scope; uint32_t index; };

/* Messages being written; `used` beyond the end means that they did not fit. */
struct messages { uint8_t data[MESSAGES_BYTES_MAX]; size_t used, begin; int count; };

static size_t padded(size_t size) { return (size + 3) & ~(size_t)3; }

static void put(struct messages *to, const void *data, size_t size) {
  if (to->used + padded(size) <= sizeof to->data) {
    memset(to->data + to->used, 0, padded(size));
    memcpy(to->data + to->used, data, size);
  }
  to->used += padded(size);
}

static void put_header(struct messages *to, uint16_t type, uint16_t flags, const void *body, size_t size) {
  struct message_header header = {.type = type, .flags = flags, .sequence = (uint32_t)++to->count};
  to->begin = to->used;
  put(to, &header, sizeof header);
  put(to, body, size);
}

static void put_attribute(struct messages *to, uint16_t type, const void *data, size_t size) {
  struct attribute_header header = {.length = (uint16_t)(sizeof header + size), .type = type};
  put(to, &header, sizeof header);
  put(to, data, size);
}

static void put_length(struct messages *to) {
  uint32_t length = (uint32_t)(to->used - to->begin);
  if (to->used <= sizeof to->data) memcpy(to->data + to->begin, &length, sizeof length);
}

static int send_messages(int fd, const struct messages *messages, struct failure *failure) {
  if (messages->used > sizeof messages->data) return E2BIG;
  ssize_t sent = send(fd, messages->data, messages->used, 0);
  return sent < 0 ? errno : sent != (ssize_t)messages->used ? EMSGSIZE : await_acks(fd, messages->count, failure);
}

/* Index of a link by its name, or -errno. */
static int index_of(int fd, const char *name) {
  struct ifreq request;
  memset(&request, 0, sizeof request);
  if (strlen(name) >= sizeof request.ifr_name) return -ENAMETOOLONG;
  memcpy(request.ifr_name, name, strlen(name));
  return ioctl(fd, SIOCGIFINDEX, &request) < 0 ? -errno : request.ifr_ifindex;
}

/* Adds one address to what is set again, where it was given by somebody and holds everywhere; the index is filled in later. */
static void keep_address(struct messages *to, const uint8_t *data, size_t size, int index) {
  struct address_message address;
  struct attribute_header attribute;
  uint32_t flags;
  memcpy(&address, data, sizeof address);
  flags = address.flags;
  if (address.index != (uint32_t)index || address.scope != SCOPE_UNIVERSE) return;
  for (int pass = 0; pass < 2; pass++) {
    for (size_t at = padded(sizeof address); at < size && size - at >= sizeof attribute; at += padded(attribute.length)) {
      memcpy(&attribute, data + at, sizeof attribute);
      if (attribute.length < sizeof attribute || attribute.length > size - at) return;
      const uint8_t *value = data + at + sizeof attribute;
      size_t value_size = attribute.length - sizeof attribute;
      if (pass == 0 && attribute.type == ADDRESS_FLAGS && value_size == sizeof flags) memcpy(&flags, value, sizeof flags);
      if (pass == 1 && (attribute.type == ADDRESS_ADDRESS || attribute.type == ADDRESS_LOCAL || attribute.type == ADDRESS_BROADCAST)) put_attribute(to, attribute.type, value, value_size);
    }
    if (pass == 0 && (flags & ADDRESS_PERMANENT) == 0) return;
    if (pass == 0) {
      address.flags = 0;
      put_header(to, ROUTE_NEW_ADDRESS, FLAG_REQUEST | FLAG_ACK | FLAG_CREATE | FLAG_EXCLUSIVE, &address, sizeof address);
    } else put_length(to);
  }
}

/* Reads all addresses of the namespace and keeps those of the link. */
static int read_addresses(int fd, int index, struct messages *to) {
  struct { struct message_header header; struct address_message body; } ask = {
    .header = {.length = sizeof ask, .type = ROUTE_GET_ADDRESS, .flags = FLAG_REQUEST | FLAG_DUMP},
  };
  static uint8_t buffer[32768];
  if (send(fd, &ask, sizeof ask, 0) != (ssize_t)sizeof ask) return errno;
  for (;;) {
    ssize_t size = recv(fd, buffer, sizeof buffer, 0);
    if (size < 0 && errno == EINTR) continue;
    if (size <= 0) return size < 0 ? errno : EPROTO;
    struct message_header header;
    for (size_t at = 0; at < (size_t)size && (size_t)size - at >= sizeof header; at += padded(header.length)) {
      memcpy(&header, buffer + at, sizeof header);
      if (header.length < sizeof header || header.length > (size_t)size - at) return EPROTO;
      if (header.type == MESSAGE_DONE) return 0;
      if (header.type == MESSAGE_ERROR) return EPROTO;
      if (header.type == ROUTE_NEW_ADDRESS && header.length >= sizeof header + sizeof(struct address_message))
        keep_address(to, buffer + at + sizeof header, header.length - sizeof header, index);
    }
  }
}

/* The addresses' messages with the index that the link has now. */
static void set_index(struct messages *messages, int index) {
  struct message_header header;
  for (size_t at = 0; at + sizeof header + sizeof(struct address_message) <= messages->used; at += header.length) {
    memcpy(&header, messages->data + at, sizeof header);
    memcpy(messages->data + at + sizeof header + offsetof(struct address_message, index), &index, sizeof index);
  }
}

/* A link is down before it moves, and up again when it has arrived. */
static int set_up(int fd, int index, bool up, struct failure *failure) {
  struct messages messages = {.used = 0};
  struct link_message link = {.index = index, .flags = up ? IFF_UP : 0, .change = IFF_UP};
  put_header(&messages, ROUTE_NEW_LINK, FLAG_REQUEST | FLAG_ACK, &link, sizeof link);
  put_length(&messages);
  return send_messages(fd, &messages, failure);
}

static int hand_over(int fd, int index, const char *name, int network, struct failure *failure) {
  struct messages messages = {.used = 0};
  struct link_message link = {.index = index};
  uint32_t target = (uint32_t)network;
  put_header(&messages, ROUTE_NEW_LINK, FLAG_REQUEST | FLAG_ACK, &link, sizeof link);
  /* One request for both, so that a name that is taken here or there harms nobody. */
  put_attribute(&messages, LINK_NAME, name, strlen(name) + 1);
  put_attribute(&messages, LINK_NAMESPACE_FD, &target, sizeof target);
  put_length(&messages);
  return send_messages(fd, &messages, failure);
}

int run_move_net_device(struct run *run, const struct step_move_net_device *step, struct failure *failure) {
  static struct messages addresses;
  int network = slot_fd(run, step->network);
  if (network < 0) return EBADF;
  if (run->host) return EPERM;
  addresses.used = addresses.begin = 0;
  addresses.count = 0;
  int here = open_netlink(0);
  if (here < 0) return -here;
  int index = index_of(here, step->name), err = index < 0 ? -index : read_addresses(here, index, &addresses);
  if (err == 0) err = set_up(here, index, false, failure);
  if (err == 0) err = hand_over(here, index, step->new_name, network, failure);
  close(here);
  if (err == 0) err = result(setns(network, CLONE_NEWNET));
  int there = err != 0 ? -err : open_netlink(0);
  if (there < 0) return -there;
  index = index_of(there, step->new_name);
  err = index < 0 ? -index : 0;
  if (err == 0) set_index(&addresses, index);
  if (err == 0 && addresses.count > 0) err = send_messages(there, &addresses, failure);
  if (err == 0) err = set_up(there, index, true, failure);
  return close_with(there, err);
}
