/*
 * Test tool: `agent SOCKET COUNT` listens at SOCKET, says so, takes one listener of a seccomp filter with the document that comes along, prints
 * both as lines, and answers COUNT calls with ENOMEDIUM (123), printing the number of each call and process.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static int take(int connection, char *document, size_t size) {
  int fd = -1;
  size_t have = 0;
  for (;;) {
    union { struct cmsghdr header; char space[CMSG_SPACE(sizeof(int))]; } ancillary;
    struct iovec iov = {.iov_base = document + have, .iov_len = size - 1 - have};
    struct msghdr header = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &ancillary, .msg_controllen = sizeof ancillary};
    ssize_t got = recvmsg(connection, &header, MSG_CMSG_CLOEXEC);
    struct cmsghdr *rights = got < 0 ? NULL : CMSG_FIRSTHDR(&header);
    if (rights != NULL && rights->cmsg_type == SCM_RIGHTS) memcpy(&fd, CMSG_DATA(rights), sizeof fd);
    if (got <= 0) break;
    have += (size_t)got;
  }
  document[have] = 0;
  return fd;
}

int main(int argc, char **argv) {
  static char document[65536];
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  if (argc != 3 || strlen(argv[1]) >= sizeof address.sun_path) return 64;
  strcpy(address.sun_path, argv[1]);
  int server = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (server < 0 || bind(server, (struct sockaddr *)&address, sizeof address) < 0 || listen(server, 1) < 0) return 2;
  setlinebuf(stdout);
  printf("listening\n");
  int connection = accept(server, NULL, NULL), listener = take(connection, document, sizeof document);
  printf("%s\n", document);
  if (listener < 0) return 3;
  for (int left = atoi(argv[2]); left > 0; left--) {
    struct seccomp_notif call = {0};
    struct seccomp_notif_resp answer = {0};
    if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &call) < 0) return 4;
    answer.id = call.id;
    answer.error = -123;
    printf("call %d of %u\n", call.data.nr, call.pid);
    if (ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &answer) < 0) return 5;
  }
  return 0;
}
