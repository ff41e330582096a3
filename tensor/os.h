// The library's calls to the operating system: files, mappings, shared objects, time, threads. A port to
// another system rewrites os.cpp alone.
#pragma once

#include "base.h"

#include <functional>
#include <span>
#include <thread>

namespace ds::os {

// A read-only view of a file's bytes.
class mapping {
public:
    mapping() = default;
    mapping(mapping &&o) noexcept;
    mapping &operator=(mapping &&o) noexcept;
    ~mapping();
    const uint8_t *data() const { return data_; }
    size_t size() const { return size_; }

    // Maps the file; the file must not be truncated while the mapping lives (the system would raise SIGBUS).
    static mapping map_file(const std::string &path);
    // Maps the descriptor's file, which must be a regular one; the descriptor stays the caller's.
    static mapping map_fd(int fd, const std::string &name);
    // Reads into memory from the host's allocator; EINTR and short reads are handled. `progress`, unless
    // empty, is called with the bytes read so far and in all; returning false stops the read
    // (status::cancelled).
    using progress_fn = std::function<bool(uint64_t done, uint64_t total)>;
    static mapping read_file(const std::string &path, const host &h, const progress_fn &progress);
    static mapping read_fd(int fd, const std::string &name, const host &h, const progress_fn &progress);
    // The caller's memory, which must outlive the mapping.
    static mapping borrow(const void *data, size_t size);

    // A hint for a mapped file: these bytes may be dropped from memory; they are read again when touched.
    // Never fails.
    void forget(size_t offset, size_t n) const;

private:
    const uint8_t *data_ = nullptr;
    size_t size_ = 0;
    bool mapped_ = false;
    block owned_;
};

// A file read in pieces. If it shrinks meanwhile, that is an error, not a signal as with a mapping.
class input_file {
public:
    explicit input_file(const std::string &path);  // a regular file
    input_file(const input_file &) = delete;
    ~input_file();
    uint64_t size() const { return size_; }  // when it was opened
    // reads all n bytes; throws status::io naming the path and the reason
    void read(uint64_t offset, void *data, size_t n) const;

private:
    std::string path_;
    int fd_;
    uint64_t size_ = 0;
};

// A file written under a temporary name beside `path` and renamed to it when complete: `commit` writes out,
// syncs and renames. Until then `path` is unchanged; destroyed without commit, it leaves no trace. If `path`
// is a link, this applies to its target, and the link stays.
class output_file {
public:
    explicit output_file(const std::string &path);
    output_file(const output_file &) = delete;
    ~output_file();
    // throws status::io naming the path and the reason
    void write(const void *data, size_t n);
    void write_at(uint64_t offset, const void *data, size_t n);  // over bytes written before
    uint64_t size() const { return size_; }
    // writes out, syncs and closes: only the rename is left to do
    void finish();
    void commit();

    // Commits files of one directory that belong together: either all are in place, or the old ones are.
    // (Without hard links in the file system, an old file is lost in the rare case that a later rename
    // fails.)
    static void commit_all(std::span<const std::unique_ptr<output_file>> files);

private:
    void flush();
    void rename();
    void keep_old();
    void put_back();
    // target: path with links resolved; old: a second name of the file being replaced
    std::string path_, target_, temp_, old_;
    int fd_ = -1;
    uint64_t size_ = 0;
    std::string pending_;
};

// Address space for memory that grows: reserved up front, usable as far as committed.
class reserved_memory {
public:
    reserved_memory() = default;
    explicit reserved_memory(size_t bytes);  // throws status::memory
    reserved_memory(reserved_memory &&o) noexcept;
    reserved_memory &operator=(reserved_memory &&o) noexcept;
    ~reserved_memory();
    // the first `bytes` bytes become usable, zeroed
    void commit(size_t bytes);
    // memory after the first `bytes` bytes goes back to the system, in whole pages
    void uncommit(size_t bytes);
    void *data() const { return data_; }
    size_t size() const { return size_; }
    size_t committed() const { return committed_; }

private:
    void *data_ = nullptr;
    size_t size_ = 0, committed_ = 0;
};

// Shared objects opened at run time, never unloaded. open_library throws status::io with the system's reason;
// find_symbol returns null if there is none.
void *open_library(const std::string &path);  // the system searches for a name without a slash
void *find_symbol(void *library, const char *name);
// the directory of the file that this code was loaded from; empty if unknown
std::string code_directory();
bool file_exists(const std::string &path);

unsigned processor_count();  // processors this process may run on, at least 1
double seconds();            // a monotonic clock
// A thread that the process's signals do not reach. Throws std::system_error or std::bad_alloc.
std::thread start_thread(std::function<void()> run);
#if defined(__aarch64__)
bool has_dot_product();  // the byte dot products of ARMv8.2
#endif

// Asks the system to let this process, with all its threads, use the AMX tile registers; false if there are
// none or it refuses. May be called again.
bool allow_tiles();
// whether there are such registers and the system supports them; asks for no permission
bool has_tiles();

// Holds the floating-point control register at its default (round to nearest, denormals kept, no traps) for
// this object's lifetime: the host may have changed it, and results must not depend on that.
class default_float_mode {
public:
    default_float_mode();
    ~default_float_mode();

private:
    uint64_t saved_;
};

}  // namespace ds::os
