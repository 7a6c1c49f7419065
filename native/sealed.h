/* The sealed executable that everything privileged here runs from. */
#pragma once
#include <stdbool.h>

/* True where this process executes from a sealed memfd. */
bool is_sealed(void);

/*
 * Returns a descriptor of the sealed memfd that this process executes from. Where it does not yet, executes again from one with
 * these arguments and this environment; comes back with -1 where that fails.
 */
int ensure_sealed(char *const argv[], char *const env[]);
/* Puts the mode back that makes the memfd executable, for kernels without F_SEAL_EXEC (before Linux 6.3). */
void make_executable(int executable);
