/* Preloaded into the tracker by test_power_cut.py: logs, in the order in which they happen, the calls
 * that decide what survives a power cut. One line a call: what, file descriptor, length, path.
 * The log is written with one write(2) a line to a descriptor opened with O_APPEND, so lines never mix. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static int log_fd = -1;
static ssize_t (*real_write)(int, const void *, size_t);
static ssize_t (*real_send)(int, const void *, size_t, int);
static ssize_t (*real_recv)(int, void *, size_t, int);
static int (*real_fdatasync)(int);
static int (*real_fsync)(int);

__attribute__((constructor)) static void start(void) {
    const char *path = getenv("MATYAN_TEST_CALLS_LOG");
    real_write = dlsym(RTLD_NEXT, "write");
    real_send = dlsym(RTLD_NEXT, "send");
    real_recv = dlsym(RTLD_NEXT, "recv");
    real_fdatasync = dlsym(RTLD_NEXT, "fdatasync");
    real_fsync = dlsym(RTLD_NEXT, "fsync");
    if (path != NULL)
        log_fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

static void note(const char *what, int fd, ssize_t length) {
    char link[64], path[512], line[640];
    if (log_fd < 0)
        return;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    path[n < 0 ? 0 : n] = 0;
    int size = snprintf(line, sizeof line, "%s\t%d\t%zd\t%s\n", what, fd, length, path);
    real_write(log_fd, line, (size_t)size);
}

ssize_t write(int fd, const void *data, size_t size) {
    ssize_t done = real_write(fd, data, size);
    if (fd != log_fd && done > 0)
        note("write", fd, done);
    return done;
}

ssize_t recv(int fd, void *data, size_t size, int flags) {
    ssize_t done = real_recv(fd, data, size, flags);
    if (done > 0)
        note("recv", fd, done);
    return done;
}

/* Noted before it happens: nothing that comes later in the log can have made it safe. */
ssize_t send(int fd, const void *data, size_t size, int flags) {
    note("send", fd, (ssize_t)size);
    return real_send(fd, data, size, flags);
}

int fdatasync(int fd) {
    note("sync-begin", fd, 0);
    int result = real_fdatasync(fd);
    note(result == 0 ? "sync-end" : "sync-failed", fd, 0);
    return result;
}

int fsync(int fd) {
    note("sync-begin", fd, 0);
    int result = real_fsync(fd);
    note(result == 0 ? "sync-end" : "sync-failed", fd, 0);
    return result;
}
