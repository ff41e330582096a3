// Formatted text for messages; memory and log lines through the host's hooks.
// Nothing here prints: vsnprintf writes into our own strings only.
#include "base.h"

#include "utf8.h"

#include <cassert>
#include <charconv>
#include <cstdio>
#include <new>

namespace ds {

static std::string format_arguments(const char *fmt, va_list args) {
    va_list again;
    va_copy(again, args);
    const int n = vsnprintf(nullptr, 0, fmt, args);
    std::string text(n > 0 ? static_cast<size_t>(n) : 0, '\0');
    if (n > 0) vsnprintf(text.data(), text.size() + 1, fmt, again);
    va_end(again);
    return text;
}

std::string format_text(const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    std::string text = format_arguments(fmt, args);
    va_end(args);
    return text;
}

// Appends one UTF-8 sequence, or control characters and ill-formed bytes as \xNN; returns the bytes consumed.
// C1 controls (U+0080 to U+009F) can steer a terminal as C0 controls do.
static size_t append_shown(std::string &out, const char *p, const char *end) {
    const uint32_t n = utf8_sequence(p, end);
    const auto first = static_cast<uint8_t>(*p);
    const bool control = (n == 1 && (first < 0x20 || first == 0x7f)) ||
                         (n == 2 && first == 0xc2 && static_cast<uint8_t>(p[1]) < 0xa0);
    if (n > 0 && !control) {
        out.append(p, n);
        return n;
    }
    for (uint32_t i = 0; i < (n > 0 ? n : 1); ++i)
        out += format_text("\\x%02x", static_cast<unsigned>(static_cast<uint8_t>(p[i])));
    return n > 0 ? n : 1;
}

std::string quoted(const char *bytes, size_t n) {
    constexpr size_t limit = 64;
    std::string out = "'";
    for (size_t i = 0; i < n;) {
        const uint32_t length = utf8_sequence(bytes + i, bytes + n);
        if (i + (length ? length : 1) > limit) {
            out += "…";
            break;
        }
        i += append_shown(out, bytes + i, bytes + n);
    }
    return out + "'";
}

template <class number> static std::string shortest_text(number v) {
    char text[64];
    return {text, std::to_chars(text, text + sizeof text, v).ptr};
}
std::string shortest(float v) { return shortest_text(v); }
std::string shortest(double v) { return shortest_text(v); }

[[noreturn]] static void no_memory(size_t bytes) {
    throw error(status::memory, format_text("no memory for %zu bytes", bytes));
}

void *host::alloc(size_t bytes, size_t alignment) const {
    assert(alignment != 0 && (alignment & (alignment - 1)) == 0);
    // Allocators round sizes up to the alignment; in some that wraps around to a small block.
    if (bytes > PTRDIFF_MAX - alignment) no_memory(bytes);
    void *p = alloc_fn ? alloc_fn(alloc_user, bytes, alignment)
                       : ::operator new(bytes, std::align_val_t(alignment), std::nothrow);
    if (!p) no_memory(bytes);
    if ((reinterpret_cast<uintptr_t>(p) & (alignment - 1)) != 0) {
        release(p, bytes, alignment);
        throw error(status::argument,
                    format_text("the allocator's block is not aligned to %zu bytes", alignment));
    }
    return p;
}

void host::release(void *p, size_t bytes, size_t alignment) const noexcept {
    if (!alloc_fn) ::operator delete(p, std::align_val_t(alignment));
    // an arena that is freed as a whole needs none
    else if (free_fn) free_fn(alloc_user, p, bytes, alignment);
}

void host::log(log_level level, const char *fmt, ...) const {
    if (!log_fn) return;
    va_list args;
    va_start(args, fmt);
    const std::string line = format_arguments(fmt, args);
    va_end(args);
    log_call(log_fn, log_user, level, line.c_str());
}

}  // namespace ds
