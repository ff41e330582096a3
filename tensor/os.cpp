// The calls of os.h for Linux: files, mappings, address space, the clock and the floating-point control
// register. POSIX, except for what is marked as Linux's, the processor mask and a few flags.
// Files are opened by name without blocking, so that a pipe in place of a model is refused, not waited for.
#include "os.h"
#include "lfs.h"

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <ctime>
#include <dlfcn.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <cpuid.h>
#include <xmmintrin.h>
#elif defined(__aarch64__)
#include <sys/auxv.h>
#endif

// tests/faults/os_faults.cpp compiles this file a second time, with its own calls in place of the system's.
#ifndef DS_SYSTEM
#define DS_SYSTEM(call) ::call
#define DS_THREAD std::thread
#endif

namespace ds::os {

// glibc's strerror_r returns the text; POSIX's returns a number and puts the text in the buffer.
[[maybe_unused]] static std::string error_text(const char *text, const char *) { return text; }
[[maybe_unused]] static std::string error_text(int, const char *buffer) { return buffer; }
static std::string reason(int code) {
    char buffer[256] = "";
    return error_text(strerror_r(code, buffer, sizeof buffer), buffer);
}
[[noreturn]] static void fail(const std::string &path, const char *doing, int code) {
    throw error(status::io, path + ": " + doing + ": " + reason(code));
}

namespace {
struct descriptor {  // closed at the end of a call
    int fd;
    ~descriptor() {
        if (fd >= 0) DS_SYSTEM(close)(fd);
    }
};
}  // namespace

// The host's signals may interrupt any of these calls on some file systems.
template <class F> static auto uninterrupted(const F &call) {
    for (;;)
        if (const auto result = call(); result >= 0 || errno != EINTR) return result;
}

static int open_file(const std::string &path) {
    const int fd = uninterrupted(
        [&] { return DS_SYSTEM(open)(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY); });
    if (fd < 0) fail(path, "cannot open", errno);
    return fd;
}

static size_t file_size(int fd, const std::string &name) {
    struct stat s;
    if (DS_SYSTEM(fstat)(fd, &s) != 0) fail(name, "cannot stat", errno);
    if (!S_ISREG(s.st_mode)) throw error(status::io, name + ": not a regular file");
    if (static_cast<uint64_t>(s.st_size) > PTRDIFF_MAX) fail(name, "cannot address", EFBIG);
    return static_cast<size_t>(s.st_size);
}

// 0 if unknown
static size_t page_size() { return static_cast<size_t>(std::max(0l, DS_SYSTEM(sysconf)(_SC_PAGESIZE))); }

// ---- mapping

mapping::mapping(mapping &&o) noexcept { *this = std::move(o); }
mapping &mapping::operator=(mapping &&o) noexcept {
    std::swap(data_, o.data_);
    std::swap(size_, o.size_);
    std::swap(mapped_, o.mapped_);
    std::swap(owned_, o.owned_);
    return *this;
}
mapping::~mapping() {
    if (mapped_) DS_SYSTEM(munmap)(const_cast<uint8_t *>(data_), size_);
}

mapping mapping::map_file(const std::string &path) {
    const descriptor file{open_file(path)};
    return map_fd(file.fd, path);
}

mapping mapping::map_fd(int fd, const std::string &name) {
    mapping m;
    m.size_ = file_size(fd, name);
    if (m.size_ == 0) return m;  // mmap refuses a size of 0
    void *p = DS_SYSTEM(mmap)(nullptr, m.size_, PROT_READ, MAP_PRIVATE, fd, 0);
    if (p == MAP_FAILED) fail(name, "cannot map", errno);
    m.data_ = static_cast<const uint8_t *>(p);
    m.mapped_ = true;
    refuse_lfs_pointer({reinterpret_cast<const char *>(m.data_), m.size_}, name);
    return m;
}

mapping mapping::read_file(const std::string &path, const host &h, const progress_fn &progress) {
    const descriptor file{open_file(path)};
    return read_fd(file.fd, path, h, progress);
}

// Uses pread: the caller's descriptor keeps its position. `size` is the file's expected size.
static void read_all(int fd, const std::string &name, uint64_t offset, void *to, size_t n, uint64_t size) {
    for (auto *bytes = static_cast<uint8_t *>(to); n > 0;) {
        const ssize_t got =
            uninterrupted([&] { return DS_SYSTEM(pread)(fd, bytes, n, static_cast<off_t>(offset)); });
        if (got < 0) fail(name, "cannot read", errno);
        if (got == 0)
            throw error(status::io, name + format_text(": ends after %llu of %llu bytes",
                                                       static_cast<unsigned long long>(offset),
                                                       static_cast<unsigned long long>(size)));
        bytes += got;
        offset += static_cast<uint64_t>(got);
        n -= static_cast<size_t>(got);
    }
}

mapping mapping::read_fd(int fd, const std::string &name, const host &h, const progress_fn &progress) {
    constexpr size_t step = size_t(8) << 20;  // bytes between two calls of `progress`
    const size_t size = file_size(fd, name);
    mapping m;
    m.owned_ = block(h, size);
    auto *bytes = static_cast<uint8_t *>(m.owned_.data());
    for (size_t done = 0; done < size;) {
        const size_t n = std::min(step, size - done);
        read_all(fd, name, done, bytes + done, n, size);
        done += n;
        if (progress && !progress(done, size))
            throw error(status::cancelled, name + ": reading was cancelled");
    }
    m.data_ = bytes;
    m.size_ = size;
    refuse_lfs_pointer({reinterpret_cast<const char *>(bytes), size}, name);
    return m;
}

mapping mapping::borrow(const void *data, size_t size) {
    mapping m;
    m.data_ = static_cast<const uint8_t *>(data);
    m.size_ = size;
    return m;
}

void mapping::forget(size_t offset, size_t n) const {
    assert(offset <= size_ && n <= size_ - offset);
    if (!mapped_) return;
    // Only whole pages inside the range: its neighbours' bytes may still be in use.
    const size_t page = page_size();
    if (page == 0) return;
    const size_t first = (offset + page - 1) / page * page, last = (offset + n) / page * page;
    if (first < last) DS_SYSTEM(madvise)(const_cast<uint8_t *>(data_) + first, last - first, MADV_DONTNEED);
}

// ---- input_file

input_file::input_file(const std::string &path) : path_(path), fd_(open_file(path)) {
    try {
        size_ = file_size(fd_, path_);
    } catch (...) {
        DS_SYSTEM(close)(fd_);
        throw;
    }
}

input_file::~input_file() { DS_SYSTEM(close)(fd_); }

void input_file::read(uint64_t offset, void *data, size_t n) const {
    read_all(fd_, path_, offset, data, n, size_);
}

// ---- output_file

static std::string directory_of(const std::string &path) {
    const size_t slash = path.rfind('/');
    return slash == std::string::npos ? "." : slash == 0 ? "/" : path.substr(0, slash);
}

static void write_all(int fd, const std::string &path, uint64_t offset, const char *data, size_t n) {
    while (n > 0) {
        const ssize_t written =
            uninterrupted([&] { return DS_SYSTEM(pwrite)(fd, data, n, static_cast<off_t>(offset)); });
        if (written <= 0) fail(path, "cannot write", written < 0 ? errno : ENOSPC);
        data += written;
        offset += static_cast<uint64_t>(written);
        n -= static_cast<size_t>(written);
    }
}

// Follows links, possibly to a file that does not exist yet.
static std::string end_of_links(const std::string &path) {
    constexpr int most_links = 40;  // as many as Linux follows
    std::string at = path;
    for (int i = 0; i <= most_links; ++i) {
        char to[4096];
        const ssize_t n = DS_SYSTEM(readlink)(at.c_str(), to, sizeof to);
        if (n < 0 && (errno == EINVAL || errno == ENOENT)) return at;  // not a link, or does not exist
        if (n < 0) fail(path, "cannot create", errno);
        if (static_cast<size_t>(n) == sizeof to) fail(path, "cannot create", ENAMETOOLONG);
        const std::string target(to, static_cast<size_t>(n));
        at = target.starts_with('/') ? target : directory_of(at) + "/" + target;
    }
    fail(path, "cannot create", ELOOP);
}

output_file::output_file(const std::string &path) : path_(path), target_(end_of_links(path)) {
    // The rename at the end would replace a device or fail on a directory: report it now, not after hours of
    // work.
    struct stat s;
    const bool exists = DS_SYSTEM(stat)(path.c_str(), &s) == 0;
    if (!exists && errno != ENOENT) fail(path, "cannot create", errno);
    if (exists && !S_ISREG(s.st_mode)) throw error(status::io, path + ": cannot write: not a regular file");
    constexpr int attempts = 100;
    for (int i = 0; i < attempts; ++i) {
        std::string name = target_ + format_text(".part-%ld-%d", static_cast<long>(::getpid()), i);
        fd_ = uninterrupted(
            [&] { return DS_SYSTEM(open)(name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666); });
        if (fd_ < 0 && errno == EEXIST) continue;
        if (fd_ < 0) fail(path, "cannot create", errno);
        temp_ = std::move(name);
        return;
    }
    fail(path, "cannot create", EEXIST);
}

output_file::~output_file() {
    if (fd_ >= 0) DS_SYSTEM(close)(fd_);
    if (!temp_.empty()) DS_SYSTEM(unlink)(temp_.c_str());
    if (!old_.empty()) DS_SYSTEM(unlink)(old_.c_str());
}

void output_file::write(const void *data, size_t n) {
    constexpr size_t limit = size_t(1) << 20;
    const auto *bytes = static_cast<const char *>(data);
    if (pending_.size() + n > limit) flush();
    if (n > limit) write_all(fd_, path_, size_, bytes, n);
    else pending_.append(bytes, n);
    size_ += n;
}

void output_file::write_at(uint64_t offset, const void *data, size_t n) {
    assert(offset <= size_ && n <= size_ - offset);
    flush();
    write_all(fd_, path_, offset, static_cast<const char *>(data), n);
}

void output_file::flush() {
    write_all(fd_, path_, size_ - pending_.size(), pending_.data(), pending_.size());
    pending_.clear();
}

// Opened before anything is renamed, so that afterwards only the disk can fail.
static int open_directory(const std::string &path) {
    const int fd =
        uninterrupted([&] { return DS_SYSTEM(open)(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC); });
    // EACCES: it may be writable but not listable; the file is then complete, only its name may be lost with
    // a power failure. ENOENT: the rename will report it.
    if (fd < 0 && errno != EACCES && errno != ENOENT) fail(path, "cannot open", errno);
    return fd;
}

static void sync_directory(const descriptor &d, const std::string &path) {
    if (d.fd < 0) return;
    if (uninterrupted([&] { return DS_SYSTEM(fsync)(d.fd); }) != 0 && errno != EINVAL && errno != ENOTSUP)
        fail(path, "cannot sync", errno);
}

void output_file::finish() {
    assert(fd_ >= 0);
    flush();
    if (uninterrupted([&] { return DS_SYSTEM(fsync)(fd_); }) != 0) fail(path_, "cannot sync", errno);
    if (DS_SYSTEM(close)(std::exchange(fd_, -1)) != 0 && errno != EINTR) fail(path_, "cannot write", errno);
}

void output_file::rename() {
    if (DS_SYSTEM(rename)(temp_.c_str(), target_.c_str()) != 0)
        fail(path_, "cannot rename into place", errno);
    temp_.clear();
}

void output_file::commit() {
    const std::string path = directory_of(target_);  // made first: after the rename only the system may fail
    const descriptor directory{open_directory(path)};
    finish();
    rename();
    sync_directory(directory, path);
}

// Gives the file about to be replaced a second name, if the file system has hard links.
void output_file::keep_old() {
    std::string name = temp_ + ".old";
    if (DS_SYSTEM(link)(target_.c_str(), name.c_str()) == 0) old_ = std::move(name);
    else if (const int why = errno; why == EIO || why == ENOMEM || why == ENOSPC || why == EDQUOT)
        fail(path_, "cannot keep the old file", why);
}

void output_file::put_back() {
    if (old_.empty()) DS_SYSTEM(unlink)(target_.c_str());
    else DS_SYSTEM(rename)(old_.c_str(), target_.c_str());
    old_.clear();  // if even that fails, the old file stays under its second name
}

// The first file is renamed last: a set is opened by its first file, and by then all others exist.
void output_file::commit_all(std::span<const std::unique_ptr<output_file>> files) {
    if (files.empty()) return;
    const std::string path = directory_of(files[0]->target_);
    const descriptor directory{open_directory(path)};
    for (const auto &f : files)
        if (f->fd_ >= 0) f->finish();
    for (const auto &f : files) f->keep_old();
    size_t left = files.size();
    try {
        for (; left > 0; --left) files[left - 1]->rename();
    } catch (...) {
        for (size_t i = left; i < files.size(); ++i) files[i]->put_back();
        throw;
    }
    sync_directory(directory, path);
}

// ---- reserved_memory

[[noreturn]] static void no_memory(const char *what, size_t bytes, int code) {
    throw error(status::memory, format_text("%s for %zu bytes: ", what, bytes) + reason(code));
}

reserved_memory::reserved_memory(size_t bytes) : size_(bytes) {
    if (bytes == 0) return;
    void *p = DS_SYSTEM(mmap)(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) no_memory("no address space", bytes, errno);
    data_ = p;
}
reserved_memory::reserved_memory(reserved_memory &&o) noexcept { *this = std::move(o); }
reserved_memory &reserved_memory::operator=(reserved_memory &&o) noexcept {
    std::swap(data_, o.data_);
    std::swap(size_, o.size_);
    std::swap(committed_, o.committed_);
    return *this;
}
reserved_memory::~reserved_memory() {
    if (data_) DS_SYSTEM(munmap)(data_, size_);
}

void reserved_memory::commit(size_t bytes) {
    assert(bytes <= size_);
    if (bytes <= committed_) return;
    if (DS_SYSTEM(mprotect)(data_, bytes, PROT_READ | PROT_WRITE) != 0) no_memory("no memory", bytes, errno);
    committed_ = bytes;
}

void reserved_memory::uncommit(size_t bytes) {
    const size_t page = page_size();
    const size_t first = page ? (bytes + page - 1) / page * page : committed_;
    if (first >= committed_) return;
    void *const p = static_cast<char *>(data_) + first;
    if (DS_SYSTEM(madvise)(p, committed_ - first, MADV_DONTNEED) == 0 &&
        DS_SYSTEM(mprotect)(p, committed_ - first, PROT_NONE) == 0)
        committed_ = first;
}

// ---- shared objects

void *open_library(const std::string &path) {
    void *const library = DS_SYSTEM(dlopen)(path.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (library) return library;
    const char *const why = ::dlerror();
    throw error(status::io, why ? why : path + ": cannot open");
}

void *find_symbol(void *library, const char *name) { return ::dlsym(library, name); }

std::string code_directory() {
    Dl_info where;
    if (::dladdr(reinterpret_cast<void *>(&code_directory), &where) == 0 || !where.dli_fname) return "";
    const std::string path = where.dli_fname;
    return directory_of(path);
}

bool file_exists(const std::string &path) { return DS_SYSTEM(access)(path.c_str(), F_OK) == 0; }

// ---- processor, threads and clock

unsigned processor_count() {
    // The mask must be as wide as the kernel's, which may know more processors than cpu_set_t holds.
    for (size_t width = CPU_SETSIZE; width <= size_t(CPU_SETSIZE) * 64; width *= 2) {
        cpu_set_t *set = CPU_ALLOC(width);
        if (!set) break;
        const size_t bytes = CPU_ALLOC_SIZE(width);
        const bool got = DS_SYSTEM(sched_getaffinity)(0, bytes, set) == 0;
        const int count = got ? CPU_COUNT_S(bytes, set) : 0;
        const bool too_narrow = !got && errno == EINVAL;
        CPU_FREE(set);
        if (count > 0) return static_cast<unsigned>(count);
        if (!too_narrow) break;
    }
    return 1;
}

// A thread inherits its creator's mask. Ours handle only the signals that their own instructions cause, so
// that the host's handlers run in the host's threads.
std::thread start_thread(std::function<void()> run) {
    struct blocked {
        sigset_t before;
        blocked() {
            sigset_t all;
            sigfillset(&all);
            for (const int own : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS}) sigdelset(&all, own);
            pthread_sigmask(SIG_BLOCK, &all, &before);
        }
        ~blocked() { pthread_sigmask(SIG_SETMASK, &before, nullptr); }
    } const blocked;
    return DS_THREAD(std::move(run));
}

double seconds() {
    timespec t;
    ::clock_gettime(CLOCK_MONOTONIC, &t);
    return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

#if defined(__x86_64__)
// XCR0: which of the processor's state the system saves for a process; 0 if it cannot be read.
static uint64_t saved_state() {
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE)) return 0;
    __asm__ volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
    return static_cast<uint64_t>(d) << 32 | a;
}
// Linux, Documentation/arch/x86/xstate.rst: tile state is large, so that a process must ask before it first
// touches the tiles. Once granted, the permission stays.
static constexpr long tile_data = 18;  // XFEATURE_XTILEDATA
static constexpr uint64_t tiles = uint64_t(1) << 17 | uint64_t(1) << tile_data;
bool allow_tiles() {
    constexpr long request_permission = 0x1023;  // ARCH_REQ_XCOMP_PERM
    return (saved_state() & tiles) == tiles &&
           DS_SYSTEM(syscall)(SYS_arch_prctl, request_permission, tile_data) == 0;
}
bool has_tiles() {
    constexpr long supported = 0x1021;  // ARCH_GET_XCOMP_SUPP
    uint64_t mask = 0;
    return (saved_state() & tiles) == tiles && DS_SYSTEM(syscall)(SYS_arch_prctl, supported, &mask) == 0 &&
           (mask & tiles) == tiles;
}
#else
bool allow_tiles() { return false; }
bool has_tiles() { return false; }
#endif

#if defined(__x86_64__)
static uint64_t float_control() { return _mm_getcsr(); }
static void set_float_control(uint64_t v) { _mm_setcsr(static_cast<unsigned>(v)); }
// all exceptions masked, round to nearest, no flush to zero
static constexpr uint64_t default_control = 0x1f80;
#elif defined(__aarch64__)
static uint64_t float_control() {
    uint64_t v;
    __asm__ volatile("mrs %0, fpcr" : "=r"(v));
    return v;
}
static void set_float_control(uint64_t v) { __asm__ volatile("msr fpcr, %0" : : "r"(v)); }
// the same; halves as in IEEE 754, a NaN keeps its bits
static constexpr uint64_t default_control = 0;

bool has_dot_product() {
    const unsigned long has = ::getauxval(AT_HWCAP);
    return (has & HWCAP_ASIMD) && (has & HWCAP_ASIMDDP);
}
#else
#error "say here how this processor's floating-point control register is read and set"
#endif

default_float_mode::default_float_mode() : saved_(float_control()) { set_float_control(default_control); }
default_float_mode::~default_float_mode() { set_float_control(saved_); }

}  // namespace ds::os
