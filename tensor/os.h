// Every call to the operating system that the library makes: files, mappings, shared objects, time, threads.
// os.cpp is the one file to write again for another system.
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
    // Maps what the descriptor names, which must be a regular file; the descriptor stays the caller's.
    static mapping map_fd(int fd, const std::string &name);
    // Reads into memory from the host's allocator; EINTR and short reads are handled. `progress` is called
    // with the bytes read so far and in all, and stops the read (status::cancelled) when it returns false; it
    // may be empty.
    using progress_fn = std::function<bool(uint64_t done, uint64_t total)>;
    static mapping read_file(const std::string &path, const host &h, const progress_fn &progress);
    static mapping read_fd(int fd, const std::string &name, const host &h, const progress_fn &progress);
    // The caller's memory, which must outlive the mapping.
    static mapping borrow(const void *data, size_t size);

    // Of a mapped file: these bytes need not stay in memory; they come back from the file when touched. A
    // hint: it never fails.
    void forget(size_t offset, size_t n) const;

private:
    const uint8_t *data_ = nullptr;
    size_t size_ = 0;
    bool mapped_ = false;
    block owned_;
};

// A file to be read in pieces. Unlike a mapping it may shrink meanwhile: that is an error then, not a signal.
class input_file {
public:
    explicit input_file(const std::string &path);  // a regular file
    input_file(const input_file &) = delete;
    ~input_file();
    uint64_t size() const { return size_; }  // when it was opened
    // all of them; throws status::io naming the path and the reason
    void read(uint64_t offset, void *data, size_t n) const;

private:
    std::string path_;
    int fd_;
    uint64_t size_ = 0;
};

// A file written beside its place and renamed over it when complete: `commit` writes out, syncs and renames,
// and until then nothing is to be seen under `path`; destroyed without commit, it leaves nothing behind.
// Where `path` is a link, all this is of what it points to, and it stays a link.
class output_file {
public:
    explicit output_file(const std::string &path);
    output_file(const output_file &) = delete;
    ~output_file();
    // throws status::io naming the path and the reason
    void write(const void *data, size_t n);
    void write_at(uint64_t offset, const void *data, size_t n);  // over bytes written before
    uint64_t size() const { return size_; }
    // written out, synced and closed: what is left to do is the rename
    void finish();
    void commit();

    // Files that belong together, of one directory: all are there, or what was there before. (Where the file
    // system has no hard links, a file that was there before is lost in the rare case that a later rename
    // fails.)
    static void commit_all(std::span<const std::unique_ptr<output_file>> files);

private:
    void flush();
    void rename();
    void keep_old();
    void put_back();
    // target: where path leads, if it is a link; old: the second name of what is being replaced
    std::string path_, target_, temp_, old_;
    int fd_ = -1;
    uint64_t size_ = 0;
    std::string pending_;
};

// Address space for memory that grows: reserved at once, usable as far as it was committed.
class reserved_memory {
public:
    reserved_memory() = default;
    explicit reserved_memory(size_t bytes);  // throws status::memory
    reserved_memory(reserved_memory &&o) noexcept;
    reserved_memory &operator=(reserved_memory &&o) noexcept;
    ~reserved_memory();
    // the first `bytes` bytes become usable, zeroed
    void commit(size_t bytes);
    // what lies behind the first `bytes` bytes goes back to the system, but for part of a page of its own
    void uncommit(size_t bytes);
    void *data() const { return data_; }
    size_t size() const { return size_; }
    size_t committed() const { return committed_; }

private:
    void *data_ = nullptr;
    size_t size_ = 0, committed_ = 0;
};

// Shared objects opened at run time, which stay in the process. open_library throws status::io with the
// system's reason; find_symbol gives null.
void *open_library(const std::string &path);  // a name without a slash: where the system looks
void *find_symbol(void *library, const char *name);
// of the file that this code was loaded from; empty when unknown
std::string code_directory();
bool file_exists(const std::string &path);

unsigned processor_count();  // processors this process may run on, at least 1
double seconds();            // a monotonic clock
// that the process's signals do not reach. Throws std::system_error or std::bad_alloc
std::thread start_thread(std::function<void()> run);
#if defined(__aarch64__)
bool has_dot_product();  // the byte products of ARMv8.2
#endif

// Asks the system to let this process, with all its threads, use the tile registers of AMX; false where there
// are none or it refuses. It may be asked again.
bool allow_tiles();
// whether there are such, and the system knows of the permission: without asking for it
bool has_tiles();

// The floating-point control register at its default (round to nearest, denormals kept, no traps) while this
// object lives: a host may have changed it, and our bits must not depend on that.
class default_float_mode {
public:
    default_float_mode();
    ~default_float_mode();

private:
    uint64_t saved_;
};

}  // namespace ds::os
