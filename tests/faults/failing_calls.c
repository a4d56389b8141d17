/* Kill the process at its Nth file-system call below a folder, or let that call fail.

Preloaded into the fork server of tests/faults; inactive until `arm_fault` is called in a forked process. It sees the
calls of Python, Arrow, Rust and libc alike. Only calls that change something on disk are counted. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { KILL = 0 };  /* the fault, or the error number of the call that fails */

static long *calls;  /* shared with forked processes and, by a file, with the test */
static long nth;
static int fault;
static char root[PATH_MAX];

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

void arm_fault(const char *counter, long which, int what, const char *folder) {
    int file = open(counter, O_RDWR);
    calls = mmap(NULL, sizeof *calls, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    nth = which;
    fault = what;
    strncpy(root, folder, sizeof root - 1);
}

static int is_below(const char *path) { return strncmp(path, root, strlen(root)) == 0; }

/* 1 if this call is to fail. A disk that is full stays full; every other error happens once. */
static int fails(int needs_space) {
    long call = __atomic_add_fetch(calls, 1, __ATOMIC_SEQ_CST);
    if (call == nth && fault == KILL) kill(getpid(), SIGKILL);
    if (fault == KILL || (fault == ENOSPC ? call < nth || !needs_space : call != nth)) return 0;
    errno = fault;
    return 1;
}

static int path_fails(int folder, const char *path, int needs_space) {
    char link[64], name[2 * PATH_MAX];
    if (calls == NULL || path == NULL) return 0;
    if (path[0] == '/') return is_below(path) && fails(needs_space);
    if (folder == AT_FDCWD) strcpy(link, "/proc/self/cwd");
    else snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
    ssize_t length = readlink(link, name, PATH_MAX);
    if (length < 0) return 0;
    snprintf(name + length, PATH_MAX, "/%s", path);
    return is_below(name) && fails(needs_space);
}

static int file_fails(int file, int needs_space) {
    char link[64], name[PATH_MAX];
    struct stat status;
    if (calls == NULL || fstat(file, &status) || !(S_ISREG(status.st_mode) || S_ISDIR(status.st_mode))) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, name, sizeof name - 1);
    if (length < 0) return 0;
    name[length] = 0;
    return is_below(name) && fails(needs_space);
}

/* ---------------------------------------------------------------------------------------------- by path */

#define WITH_MODE                          \
    mode_t mode = 0;                       \
    if (flags & (O_CREAT | O_TMPFILE)) {   \
        va_list rest;                      \
        va_start(rest, flags);             \
        mode = va_arg(rest, mode_t);       \
        va_end(rest);                      \
    }

#define OPEN(name)                                                               \
    int name(const char *path, int flags, ...) {                                 \
        WITH_MODE                                                                \
        if ((flags & O_CREAT) && path_fails(AT_FDCWD, path, 1)) return -1;       \
        return REAL(name)(path, flags, mode);                                    \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                             \
    int name(int folder, const char *path, int flags, ...) {                     \
        WITH_MODE                                                                \
        if ((flags & O_CREAT) && path_fails(folder, path, 1)) return -1;         \
        return REAL(name)(folder, path, flags, mode);                            \
    }
OPENAT(openat)
OPENAT(openat64)

#define BY_PATH(name, folder, path, needs_space, parameters, arguments)          \
    int name parameters {                                                        \
        if (path_fails(folder, path, needs_space)) return -1;                    \
        return REAL(name) arguments;                                             \
    }
BY_PATH(mkdir, AT_FDCWD, path, 1, (const char *path, mode_t mode), (path, mode))
BY_PATH(mkdirat, folder, path, 1, (int folder, const char *path, mode_t mode), (folder, path, mode))
BY_PATH(rmdir, AT_FDCWD, path, 0, (const char *path), (path))
BY_PATH(unlink, AT_FDCWD, path, 0, (const char *path), (path))
BY_PATH(unlinkat, folder, path, 0, (int folder, const char *path, int flags), (folder, path, flags))
BY_PATH(rename, AT_FDCWD, to, 0, (const char *from, const char *to), (from, to))
BY_PATH(renameat, folder, to, 0, (int source, const char *from, int folder, const char *to),
        (source, from, folder, to))
BY_PATH(link, AT_FDCWD, to, 1, (const char *from, const char *to), (from, to))
BY_PATH(linkat, folder, to, 1, (int source, const char *from, int folder, const char *to, int flags),
        (source, from, folder, to, flags))
BY_PATH(symlink, AT_FDCWD, to, 1, (const char *from, const char *to), (from, to))

/* ---------------------------------------------------------------------------------------- by descriptor */

#define BY_FILE(type, name, needs_space, parameters, arguments)                  \
    type name parameters {                                                       \
        if (file_fails(file, needs_space)) return -1;                            \
        return REAL(name) arguments;                                             \
    }
BY_FILE(ssize_t, write, 1, (int file, const void *bytes, size_t size), (file, bytes, size))
BY_FILE(ssize_t, pwrite, 1, (int file, const void *bytes, size_t size, off_t at), (file, bytes, size, at))
BY_FILE(ssize_t, pwrite64, 1, (int file, const void *bytes, size_t size, off64_t at), (file, bytes, size, at))
BY_FILE(ssize_t, writev, 1, (int file, const struct iovec *parts, int count), (file, parts, count))
BY_FILE(ssize_t, sendfile, 1, (int file, int from, off_t *at, size_t size), (file, from, at, size))
BY_FILE(ssize_t, sendfile64, 1, (int file, int from, off64_t *at, size_t size), (file, from, at, size))
BY_FILE(int, ftruncate, 1, (int file, off_t size), (file, size))
BY_FILE(int, ftruncate64, 1, (int file, off64_t size), (file, size))
BY_FILE(int, fsync, 0, (int file), (file))
BY_FILE(int, fdatasync, 0, (int file), (file))

ssize_t copy_file_range(int from, off64_t *at, int file, off64_t *to, size_t size, unsigned flags) {
    if (file_fails(file, 1)) return -1;
    return REAL(copy_file_range)(from, at, file, to, size, flags);
}
