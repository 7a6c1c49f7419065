/*
 * berth-shim: picks the role. `launcher RUN_DIR LOCK_FILE`, `shim POD_ID [NAME]` (for people reading ps) and `pause`
 * are executed by the engine, the launcher and the interpreter; nobody else has a use for this program.
 */
#include "plan.h"
#include "roles.h"
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv) {
  static const char usage[] = "berth-shim is started by berth: berth-shim launcher RUN_DIR LOCK_FILE\n";
  if (argc == 4 && strcmp(argv[1], "launcher") == 0) launcher_main(argv[2], argv[3]);
  if ((argc == 3 || argc == 4) && strcmp(argv[1], "shim") == 0) shim_main();
  if (argc == 2 && strcmp(argv[1], "pause") == 0) pause_main();
  if (write(2, usage, sizeof usage - 1) < 0) return 1;
  return 64;
}
