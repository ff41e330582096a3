// Status codes, errors, and the host program's hooks for memory and log lines.
// Inside the library every failure that a file, a user or a machine can cause is `throw error(status, text)`;
// api/boundary.h converts it to the caller's ds_error. A programmer's error is an assert.
#pragma once

#include <cstdarg>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <string>
#include <utility>

namespace ds {

// The values are those of ds_status in deepseek.h; deepseek.cpp asserts it.
enum class status : int {
    ok = 0,
    argument = 1,     // a value outside its documented range
    io = 2,           // the operating system refused
    format = 3,       // bytes of a file are not what they claim to be
    unsupported = 4,  // well-formed, but this build cannot do it
    memory = 5,       // an allocation failed
    cancelled = 6,    // a callback asked to stop
    buffer = 7,       // the caller's buffer is too small; the size needed is reported
    too_long = 8,     // the request can never fit
    numeric = 9,      // NaN or infinity where a finite value was needed
    state = 10,       // the call is not legal now
    busy = 11,        // the queue is full; try again after a step
    device = 12,      // the device failed or is lost
    internal = 13,    // a bug in the library
    no_device = 14,   // no such device, or a driver or library that it needs is missing
};

struct error : std::exception {
    status code;
    std::string text;
    error(status c, std::string t) : code(c), text(std::move(t)) {}
    const char *what() const noexcept override { return text.c_str(); }
};

// printf-style formatting into a string. Floats depend on the process's locale: never format with it what is
// parsed again; use shortest().
__attribute__((format(printf, 1, 2))) std::string format_text(const char *fmt, ...);

// A file's bytes for a message: at most 64 of them, control characters and ill-formed UTF-8 as \xNN.
std::string quoted(const char *bytes, size_t n);
inline std::string quoted(const std::string &s) { return quoted(s.data(), s.size()); }

// The shortest decimal text that reads back as the same float or double, whatever the locale.
std::string shortest(float v);
std::string shortest(double v);

// Checked arithmetic for sizes that come from a file: false when the result does not fit.
inline bool mul_ok(uint64_t a, uint64_t b, uint64_t *out) { return !__builtin_mul_overflow(a, b, out); }
inline bool add_ok(uint64_t a, uint64_t b, uint64_t *out) { return !__builtin_add_overflow(a, b, out); }

enum class log_level : int { debug = 0, info = 1, warning = 2, error = 3 };

// The host's hooks for one model or one engine. Bulk memory (weights read into memory, KV pages, activations)
// comes from `alloc`, small bookkeeping from operator new. Log lines go to log_fn, or nowhere.
struct host {
    void *(*alloc_fn)(void *user, size_t bytes, size_t alignment) = nullptr;
    void (*free_fn)(void *user, void *p, size_t bytes, size_t alignment) = nullptr;
    void *alloc_user = nullptr;
    void (*log_fn)() = nullptr;  // its real type is known to log_call
    void *log_user = nullptr;
    void (*log_call)(void (*fn)(), void *user, log_level level, const char *line) = nullptr;

    void *alloc(size_t bytes, size_t alignment) const;  // throws status::memory
    void release(void *p, size_t bytes, size_t alignment) const noexcept;
    __attribute__((format(printf, 3, 4))) void log(log_level level, const char *fmt, ...) const;
};

// An owned block of bulk memory.
class block {
public:
    block() = default;
    block(const host &h, size_t bytes)
        : h_(h), bytes_(bytes), data_(bytes ? h.alloc(bytes, alignment) : nullptr) {}
    block(block &&o) noexcept
        : h_(o.h_), bytes_(std::exchange(o.bytes_, 0)), data_(std::exchange(o.data_, nullptr)) {}
    block &operator=(block &&o) noexcept {
        std::swap(h_, o.h_);
        std::swap(bytes_, o.bytes_);
        std::swap(data_, o.data_);
        return *this;
    }
    ~block() {
        if (data_) h_.release(data_, bytes_, alignment);
    }
    void *data() const { return data_; }
    size_t size() const { return bytes_; }

    static constexpr size_t alignment = 64;  // a cache line

private:
    host h_;
    size_t bytes_ = 0;
    void *data_ = nullptr;
};

}  // namespace ds
