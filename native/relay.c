/*
 * One connection of a forwarded port: the steps connect and relay. In: an address in the process's network namespace, then bytes from
 * the standard input and from the socket. Out: the same bytes, to the other side. It looks at none of them and opens nothing else.
 */
#define _GNU_SOURCE
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include "steps.h"

#define RELAY_BYTES 65536

union any_address { struct sockaddr any; struct sockaddr_in v4; struct sockaddr_in6 v6; };

static socklen_t address_of(const struct step_connect *step, union any_address *address) {
  uint16_t port = htons((uint16_t)step->port);
  memset(address, 0, sizeof *address);
  if (step->port == 0 || step->port > UINT16_MAX) return 0;
  if (step->address.size == sizeof address->v4.sin_addr) {
    address->v4.sin_family = AF_INET;
    address->v4.sin_port = port;
    memcpy(&address->v4.sin_addr, step->address.data, sizeof address->v4.sin_addr);
    return sizeof address->v4;
  }
  if (step->address.size != sizeof address->v6.sin6_addr) return 0;
  address->v6.sin6_family = AF_INET6;
  address->v6.sin6_port = port;
  memcpy(&address->v6.sin6_addr, step->address.data, sizeof address->v6.sin6_addr);
  return sizeof address->v6;
}

static int finish_connecting(int fd, uint32_t timeout_ms) {
  struct pollfd waiting = {.fd = fd, .events = POLLOUT};
  uint64_t deadline = now_ms() + timeout_ms;
  for (;;) {
    uint64_t now = now_ms();
    int ready = now >= deadline ? 0 : poll(&waiting, 1, (int)(deadline - now));
    if (ready == 0) return ETIMEDOUT;
    if (ready > 0) break;
    if (errno != EINTR) return errno;
  }
  int err = 0;
  socklen_t size = sizeof err;
  return getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &size) < 0 ? errno : err;
}

/* Where nobody listens, the kernel may choose the very port as the socket's own; TCP then connects it to itself. */
static bool is_own_peer(int fd) {
  union any_address own = {0}, peer = {0};
  socklen_t own_size = sizeof own, peer_size = sizeof peer;
  if (getsockname(fd, &own.any, &own_size) < 0 || getpeername(fd, &peer.any, &peer_size) < 0) return false;
  return own_size == peer_size && memcmp(&own, &peer, own_size) == 0;
}

int run_connect(struct run *run, const struct step_connect *step, struct failure *failure UNUSED) {
  union any_address address;
  socklen_t size = address_of(step, &address);
  int at_once = 1;
  if (size == 0 || step->timeout_ms > INT32_MAX || step->out >= SLOT_COUNT) return EINVAL;
  int fd = socket(address.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_TCP);
  if (fd < 0) return errno;
  int err = result(connect(fd, &address.any, size));
  if (err == EINPROGRESS) err = finish_connecting(fd, step->timeout_ms);
  if (err == 0 && is_own_peer(fd)) err = ECONNREFUSED;
  /* What is typed must not wait for more; a failure costs a delay only. */
  if (err == 0 && setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &at_once, sizeof at_once) < 0) at_once = 0;
  if (err != 0) return close_with(fd, err);
  slots_set(run->slots, step->out, fd);
  return 0;
}

/* --- relay */

/* `ended`: no more comes; what is between start and end still goes out. `over`: the other side knows. */
struct direction {
  int from, to;
  bool socket_is_target, ended, over;
  size_t start, end;
  uint8_t data[RELAY_BYTES];
};

static bool pending(const struct direction *d) { return d->start < d->end; }

static void take(struct direction *d) {
  ssize_t got = read(d->from, d->data, sizeof d->data);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
  d->start = 0;
  d->end = got > 0 ? (size_t)got : 0;
  d->ended = got <= 0;
}

static void give(struct direction *d) {
  size_t size = d->end - d->start;
  ssize_t sent = d->socket_is_target ? send(d->to, d->data + d->start, size, MSG_NOSIGNAL) : write(d->to, d->data + d->start, size);
  if (sent >= 0) {
    d->start += (size_t)sent;
  } else if (errno != EAGAIN && errno != EINTR) { /* nobody takes it any more; the other direction may go on */
    d->start = d->end = 0;
    d->ended = true;
  }
}

/* The end of the input is told to the server alone, so that a request that ends still gets its answer. */
static void finish(struct direction *d) {
  if (d->over || !d->ended || pending(d)) return;
  d->over = true;
  if (!d->socket_is_target) return;
  shutdown(d->to, SHUT_WR);
  close(d->from); /* whoever still writes learns that it is in vain */
}

static _Noreturn void relay(int fd) {
  static struct direction in, out;
  in = (struct direction){.from = 0, .to = fd, .socket_is_target = true};
  out = (struct direction){.from = fd, .to = 1};
  /* Where the server has ended, so has the connection: nobody could tell the client but by the end of this process. */
  while (!out.over) {
    short events = (short)((pending(&in) ? POLLOUT : 0) | (!out.ended && !pending(&out) ? POLLIN : 0));
    struct pollfd waiting[3] = {
      {.fd = in.ended || pending(&in) ? -1 : 0, .events = POLLIN},
      {.fd = events == 0 ? -1 : fd, .events = events},
      /* Without events an error is still told: the reader of the output has gone. */
      {.fd = 1, .events = pending(&out) ? POLLOUT : 0},
    };
    if (poll(waiting, 3, -1) < 0 && errno != EINTR) _exit(1);
    if ((waiting[2].revents & (POLLERR | POLLNVAL)) != 0) _exit(1);
    if (waiting[0].revents != 0) take(&in);
    if (waiting[1].revents != 0 && pending(&in)) give(&in);
    if (waiting[1].revents != 0 && !out.ended && !pending(&out)) take(&out);
    if (waiting[2].revents != 0 && pending(&out)) give(&out);
    finish(&in);
    finish(&out);
  }
  _exit(0);
}

int run_relay(struct run *run, const struct step_relay *step, struct failure *failure UNUSED) {
  if (slot_fd(run, step->slot) < 0) return EBADF;
  int err = prepare_streams(run);
  if (err == 0) err = tell_executing(run);
  if (err != 0) return err;
  int fd = slot_fd(run, step->slot);
  fcntl(0, F_SETFL, O_NONBLOCK);
  fcntl(1, F_SETFL, O_NONBLOCK);
  /* SAFETY: what a plan holds leads to the host; from here on there are the socket and the streams, and the filter of the plan opens nothing.
   * The end of the control socket, which goes too, tells the shim that the payload runs. Above 2, prepare_streams has seen to it. */
  if (fd > 3) err = result(sys_close_range(3, (unsigned)fd - 1, 0));
  if (err == 0) err = result(sys_close_range((unsigned)fd + 1, ~0u, 0));
  if (err != 0) _exit(1);
  relay(fd);
}
