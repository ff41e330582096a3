/* Loaded in front of a program (LD_PRELOAD). From main on, the FAIL_AT-th allocation (FAIL_WHAT=memory) or
 * system call (FAIL_WHAT=calls) fails; with FAIL_ON=1 so do all later ones. The total is written to
 * descriptor 9, if that is open, when the program ends. Calls inside the C library are not intercepted. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t),
    *__libc_memalign(size_t, size_t);

static atomic_int armed; /* 1: memory, 2: calls */
static atomic_long count, fail_at = -1;
static int and_later;

static int fails(int what) {
    if (armed != what) return 0;
    const long n = ++count;
    return fail_at > 0 && (n == fail_at || (and_later && n > fail_at));
}

void *malloc(size_t n) { return fails(1) ? (errno = ENOMEM, NULL) : __libc_malloc(n); }
void *calloc(size_t n, size_t size) { return fails(1) ? (errno = ENOMEM, NULL) : __libc_calloc(n, size); }
void *realloc(void *p, size_t n) { return fails(1) ? (errno = ENOMEM, NULL) : __libc_realloc(p, n); }
void *aligned_alloc(size_t a, size_t n) { return fails(1) ? (errno = ENOMEM, NULL) : __libc_memalign(a, n); }
int posix_memalign(void **p, size_t a, size_t n) {
    return fails(1) ? ENOMEM : (*p = __libc_memalign(a, n)) ? 0 : ENOMEM;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define WRAP(type, name, parameters, arguments, code)                                                        \
    type name parameters { return fails(2) ? (errno = code, (type)-1) : REAL(name) arguments; }

WRAP(ssize_t, read, (int fd, void *p, size_t n), (fd, p, n), EIO)
WRAP(ssize_t, pread, (int fd, void *p, size_t n, off_t at), (fd, p, n, at), EIO)
WRAP(ssize_t, write, (int fd, const void *p, size_t n), (fd, p, n), ENOSPC)
WRAP(ssize_t, writev, (int fd, const struct iovec *v, int n), (fd, v, n), ENOSPC)
WRAP(ssize_t, pwrite, (int fd, const void *p, size_t n, off_t at), (fd, p, n, at), ENOSPC)
WRAP(int, fsync, (int fd), (fd), EIO)
WRAP(int, ftruncate, (int fd, off_t n), (fd, n), EIO)
WRAP(int, rename, (const char *a, const char *b), (a, b), EACCES)
WRAP(int, unlink, (const char *a), (a), EACCES)
WRAP(off_t, lseek, (int fd, off_t at, int whence), (fd, at, whence), EIO)
void *mmap(void *at, size_t n, int prot, int flags, int fd, off_t from) {
    return fails(2) ? (errno = ENOMEM, MAP_FAILED) : REAL(mmap)(at, n, prot, flags, fd, from);
}
FILE *fopen(const char *path, const char *mode) {
    return fails(2) ? (errno = EMFILE, NULL) : REAL(fopen)(path, mode);
}
int open(const char *path, int flags, ...) {
    va_list list;
    va_start(list, flags);
    const mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(list, mode_t) : 0;
    va_end(list);
    return fails(2) ? (errno = EMFILE, -1) : REAL(open)(path, flags, mode);
}

static int (*real_main)(int, char **, char **);
static void report_count(void) {
    char text[32];
    armed = 0;
    const int n = snprintf(text, sizeof text, "%ld\n", count);
    if (write(9, text, (size_t)n) < 0) return; /* it is not open */
}
static int counted_main(int argc, char **argv, char **env) {
    const char *what = getenv("FAIL_WHAT"), *at = getenv("FAIL_AT");
    and_later = getenv("FAIL_ON") != NULL;
    fail_at = at ? atol(at) : -1;
    atexit(report_count);
    armed = what && strcmp(what, "calls") == 0 ? 2 : 1;
    return real_main(argc, argv, env);
}
int __libc_start_main(int (*main)(int, char **, char **), int argc, char **argv, void (*init)(void),
                      void (*fini)(void), void (*end)(void), void *stack) {
    real_main = main;
    return REAL(__libc_start_main)(counted_main, argc, argv, init, fini, end, stack);
}
