/* Copies the own executable into a sealed memfd and executes from there; see sealed.h. It knows no role. */
#include "sealed.h"
#include "syscalls.h"
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>

#define SEALS (F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE)
#define EXECUTABLE_MODE 0555
#ifndef F_SEAL_EXEC
#define F_SEAL_EXEC 0x0020
#endif
#ifndef MFD_EXEC
#define MFD_EXEC 0x10u
#endif

static int copy_sealed(int from) {
  struct stat st;
  int fd = memfd_create("berth-shim", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_EXEC);
  if (fd < 0 && errno == EINVAL) fd = memfd_create("berth-shim", MFD_CLOEXEC | MFD_ALLOW_SEALING); /* before Linux 6.3 */
  if (fd < 0 || fstat(from, &st) < 0) return -1;
  for (off_t at = 0; at < st.st_size;)
    if (sendfile(fd, from, &at, (size_t)(st.st_size - at)) <= 0) return -1;
  if (fchmod(fd, EXECUTABLE_MODE) < 0) return -1;
  /* SAFETY: with these seals nobody can change the bytes that every helper executes, root in a container included (CVE-2019-5736),
   * nor take away the right to execute them; before Linux 6.3 the mode is put back at each use instead. */
  return fcntl(fd, F_ADD_SEALS, SEALS | F_SEAL_EXEC) < 0 && fcntl(fd, F_ADD_SEALS, SEALS) < 0 ? -1 : fd;
}

static bool has_seals(int fd) {
  int seals = fcntl(fd, F_GET_SEALS);
  return seals >= 0 && (seals & SEALS) == SEALS;
}

bool is_sealed(void) {
  int self = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
  bool sealed = self >= 0 && has_seals(self);
  if (self >= 0) close(self);
  return sealed;
}

int ensure_sealed(char *const argv[], char *const env[]) {
  int self = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
  if (self < 0) return -1;
  if (has_seals(self)) {
    int fd = fcntl(self, F_DUPFD_CLOEXEC, 10); /* above what is handed over */
    close(self);
    return fd;
  }
  int sealed = copy_sealed(self);
  if (sealed >= 0) sys_execveat(sealed, "", argv, env, AT_EMPTY_PATH);
  return -1;
}

void make_executable(int executable) { fchmod(executable, EXECUTABLE_MODE); }
