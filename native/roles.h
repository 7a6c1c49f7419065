/* The roles of the one executable, and the descriptors that their starters hand over. */
#pragma once

#define LAUNCHER_CONTROL_FD 3
#define SHIM_CONNECTION_FD 3
#define SHIM_DATA_FD 4

/* Becomes the launcher: `launcher RUN_DIR LOCK_FILE`, see docs/native.md. */
_Noreturn void launcher_main(const char *run_directory, const char *lock_file);
_Noreturn void shim_main(void);
/* Becomes the front of an OCI command line; see front.h. */
_Noreturn void oci_main(char **argv);
