/*
 * Starts commands one after another and tells how long each took from its start to its end. In: one command a line on standard input, words separated by the unit separator
 * (0x1f): a file for its output, then the command. Or `reap` and a process id: waits for that child. Out: one line each, nanoseconds and exit status (128 + n after signal n).
 * It is small, so that starting a process from it costs next to nothing, and adopts what loses its parent, as callers of an OCI runtime do.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>

extern char **environ;

static uint64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static int describe(int status) { return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status); }

int main(void) {
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    char *line = NULL;
    size_t capacity = 0;
    for (ssize_t size; (size = getline(&line, &capacity, stdin)) > 0;) {
        if (line[size - 1] == '\n') line[size - 1] = 0;
        char *words[64];
        size_t count = 0;
        for (char *rest = line, *word; count < 63 && (word = strsep(&rest, "\x1f")) != NULL;) words[count++] = word;
        words[count] = NULL;
        if (count < 2) return 2;
        int status = 0;
        uint64_t start = now();
        if (strcmp(words[0], "reap") == 0) {
            if (waitpid((pid_t)atoi(words[1]), &status, 0) < 0) status = 127 << 8;
        } else {
            posix_spawn_file_actions_t actions;
            posix_spawn_file_actions_init(&actions);
            posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
            posix_spawn_file_actions_addopen(&actions, 1, words[0], O_WRONLY | O_CREAT | O_TRUNC, 0600);
            posix_spawn_file_actions_adddup2(&actions, 1, 2);
            pid_t child;
            start = now();
            if (posix_spawnp(&child, words[1], &actions, NULL, words + 1, environ) != 0) status = 127 << 8;
            else if (waitpid(child, &status, 0) < 0) return 1;
            posix_spawn_file_actions_destroy(&actions);
        }
        printf("%llu %d\n", (unsigned long long)(now() - start), describe(status));
        fflush(stdout);
    }
    return 0;
}
