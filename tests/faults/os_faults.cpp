// tensor/os.cpp compiled again, with calls that fail on demand in place of the system's. The linker uses
// these functions and leaves the library's own in its archive. Calls that only release (munmap, unlink) and
// calls that cannot fail (the clock) are never refused.
#include "faults.h"

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdarg>
#include <cstring>
#include <dlfcn.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <system_error>
#include <thread>
#include <unistd.h>

namespace {

using ds::test::fault;

constexpr const char *names[] = {"open",
                                 "close",
                                 "fstat",
                                 "stat",
                                 "mmap",
                                 "mprotect",
                                 "madvise",
                                 "pread",
                                 "pwrite",
                                 "fsync",
                                 "rename",
                                 "link",
                                 "readlink",
                                 "dlopen",
                                 "sysconf",
                                 "access",
                                 "sched_getaffinity",
                                 "syscall",
                                 "permission",
                                 "thread"};
std::atomic<bool> armed{false}, for_ever{false};
std::atomic<int64_t> made{0}, fail_at{0};
std::atomic<fault> how{fault::refused};
std::array<std::atomic<int64_t>, std::size(names)> counts{};

size_t place_of(const char *name) {
    for (size_t i = 0; i < std::size(names); ++i)
        if (std::string(names[i]) == name) return i;
    return 0;
}

// Whether this call has the fault.
bool hit(const char *name, fault kind) {
    if (!armed || how != kind) return false;
    for (size_t i = 0; i < std::size(names); ++i)
        if (std::strcmp(names[i], name) == 0) ++counts[i];
    const int64_t n = ++made, at = fail_at;
    return at > 0 && (n == at || (for_ever && n > at));
}
bool refused(const char *name, int code) {
    if (!hit(name, fault::refused)) return false;
    errno = code;
    return true;
}
bool interrupted(const char *name) {
    if (!hit(name, fault::interrupted)) return false;
    errno = EINTR;
    return true;
}

}  // namespace

int64_t ds::test::with_failing_calls(int64_t n, bool ever, fault kind, const std::function<void()> &f) {
    struct disarm {
        ~disarm() { armed = false; }
    } const at_the_end;
    for (auto &c : counts) c = 0;
    made = 0, fail_at = n, for_ever = ever, how = kind;
    armed = true;
    f();
    return made;
}

int64_t ds::test::calls_of(const std::string &name) { return counts[place_of(name.c_str())]; }

namespace faulty {

static int open(const char *path, int flags, mode_t mode = 0) {
    return refused("open", EMFILE) || interrupted("open") ? -1 : ::open(path, flags, mode);
}
static int close(int fd) {  // the descriptor is closed even on failure
    const bool fails = refused("close", EIO);
    const int code = errno, result = ::close(fd);
    if (!fails) return result;
    errno = code;
    return -1;
}
static int fstat(int fd, struct stat *s) { return refused("fstat", EIO) ? -1 : ::fstat(fd, s); }
static int stat(const char *path, struct stat *s) { return refused("stat", EIO) ? -1 : ::stat(path, s); }
static void *mmap(void *p, size_t n, int protection, int flags, int fd, off_t offset) {
    return refused("mmap", ENOMEM) ? MAP_FAILED : ::mmap(p, n, protection, flags, fd, offset);
}
static int munmap(void *p, size_t n) { return ::munmap(p, n); }
static int mprotect(void *p, size_t n, int protection) {
    return refused("mprotect", ENOMEM) ? -1 : ::mprotect(p, n, protection);
}
static int madvise(void *p, size_t n, int advice) {
    return refused("madvise", EAGAIN) ? -1 : ::madvise(p, n, advice);
}
static ssize_t pread(int fd, void *to, size_t n, off_t offset) {
    if (refused("pread", EIO) || interrupted("pread")) return -1;
    return ::pread(fd, to, n > 1 && hit("pread", fault::shortened) ? n / 2 : n, offset);
}
static ssize_t pwrite(int fd, const void *from, size_t n, off_t offset) {
    if (refused("pwrite", ENOSPC) || interrupted("pwrite")) return -1;
    return ::pwrite(fd, from, n > 1 && hit("pwrite", fault::shortened) ? n / 2 : n, offset);
}
static int fsync(int fd) { return refused("fsync", EIO) || interrupted("fsync") ? -1 : ::fsync(fd); }
static int rename(const char *from, const char *to) {
    return refused("rename", EIO) ? -1 : ::rename(from, to);
}
static int link(const char *from, const char *to) { return refused("link", EIO) ? -1 : ::link(from, to); }
static ssize_t readlink(const char *path, char *to, size_t n) {
    return refused("readlink", EIO) ? -1 : ::readlink(path, to, n);
}
static int unlink(const char *path) { return ::unlink(path); }
static void *dlopen(const char *path, int mode) {
    return ::dlopen(hit("dlopen", fault::refused) ? "/absent/there is none" : path, mode);
}
static long sysconf(int name) { return refused("sysconf", EINVAL) ? -1 : ::sysconf(name); }
static int access(const char *path, int mode) {
    return refused("access", EACCES) ? -1 : ::access(path, mode);
}
static int sched_getaffinity(pid_t pid, size_t n, cpu_set_t *set) {
    return refused("sched_getaffinity", EPERM) ? -1 : ::sched_getaffinity(pid, n, set);
}
template <class... A> [[maybe_unused]] static long syscall(long number, long first, A... rest) {
    constexpr long request_permission = 0x1023;  // ARCH_REQ_XCOMP_PERM
    return refused(first == request_permission ? "permission" : "syscall", EPERM)
               ? -1
               : ::syscall(number, first, rest...);
}
static std::thread thread(std::function<void()> run) {
    if (refused("thread", EAGAIN)) throw std::system_error(EAGAIN, std::generic_category());
    return std::thread(std::move(run));
}

}  // namespace faulty

#define DS_SYSTEM(call) faulty::call
#define DS_THREAD faulty::thread
#include "../../tensor/os.cpp"
