/*
 * berth-shim: picks the role. `launcher RUN_DIR LOCK_FILE`, `shim POD_ID [NAME]` (for people reading ps) and `pause`
 * are executed by the engine, the launcher and the interpreter. Under the name `berth-oci` it is the OCI command line that callers start.
 */
#include "plan.h"
#include "roles.h"
#include <string.h>
#include <unistd.h>

static const char *base_of(const char *path) { return strrchr(path, '/') ? strrchr(path, '/') + 1 : path; }

int main(int argc, char **argv) {
  static const char usage[] = "berth-shim is started by berth: berth-shim launcher RUN_DIR LOCK_FILE\n";
  char path[4096] = "";
  /* By its name, or by that of the file behind a link of another name. */
  bool is_front = argc > 0 && strcmp(base_of(argv[0]), "berth-oci") == 0;
  if (!is_front && argc > 0 && readlink("/proc/self/exe", path, sizeof path - 1) > 0) is_front = strcmp(base_of(path), "berth-oci") == 0;
  if (is_front) oci_main(argv);
  if (argc == 4 && strcmp(argv[1], "launcher") == 0) launcher_main(argv[2], argv[3]);
  if ((argc == 3 || argc == 4) && strcmp(argv[1], "shim") == 0) shim_main();
  if (argc == 2 && strcmp(argv[1], "pause") == 0) pause_main();
  if (write(2, usage, sizeof usage - 1) < 0) return 1;
  return 64;
}
