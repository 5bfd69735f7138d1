/* Preloaded into a process whose store is tested: logs when data reach the disk, and fails or delays on demand.

   MATYAN_TEST_LOG    a file: each call on a write-ahead log appends one line to it
   MATYAN_TEST_FAIL   while a file of this name exists, fdatasync fails with EIO
   MATYAN_TEST_DELAY  microseconds that each fdatasync of a write-ahead log takes longer
   MATYAN_TEST_SLEEP  microseconds that one in four of them, at random, takes longer; the log says so when it is the main thread's */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int is_log(int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 4) return 0;
    path[n] = 0;
    return strcmp(path + n - 4, ".log") == 0;
}

static void note(const char *line) {
    static ssize_t (*real)(int, const void *, size_t);
    const char *name = getenv("MATYAN_TEST_LOG");
    if (!name) return;
    if (!real) real = dlsym(RTLD_NEXT, "write");
    int fd = open(name, O_WRONLY | O_APPEND | O_CREAT, 0600);
    real(fd, line, strlen(line));
    close(fd);
}

ssize_t write(int fd, const void *data, size_t size) {
    static ssize_t (*real)(int, const void *, size_t);
    if (!real) real = dlsym(RTLD_NEXT, "write");
    ssize_t done = real(fd, data, size);
    int error = errno;
    if (fd > 2 && is_log(fd)) note("written\n");
    errno = error;
    return done;
}

int fdatasync(int fd) {
    static int (*real)(int);
    if (!real) real = dlsym(RTLD_NEXT, "fdatasync");
    if (!is_log(fd)) return real(fd);
    note("sync begins\n");
    const char *delay = getenv("MATYAN_TEST_DELAY"), *fail = getenv("MATYAN_TEST_FAIL");
    if (delay) usleep(atoi(delay));
    const char *sleep = getenv("MATYAN_TEST_SLEEP");
    if (sleep && rand() % 4 == 0) {
        note(gettid() == getpid() ? "the loop sleeps\n" : "the thread sleeps\n");
        usleep(atoi(sleep));
    }
    if (fail && access(fail, F_OK) == 0) {
        note("sync fails\n");
        errno = EIO;
        return -1;
    }
    int done = real(fd);
    note("sync ends\n");
    return done;
}
