// Shared by all files of the C interface: the handles, the guard that turns exceptions into statuses, and the
// checks of arguments that deepseek.h promises.
// Invariant: no exception leaves a C function, so every function that can throw runs inside guard().
#pragma once

#include "../deepseek.h"

#include "../ggml-cpu/cpu.h"
#include "../ggml-cuda/host/cuda.h"
#include "../llm/engine/engine.h"
#include "../llm/train/trainer.h"
#include "../tensor/utf8.h"

#include <algorithm>

struct ds_model {
    std::shared_ptr<const ds::model> m;
    uint32_t device;                // holds the weights, from 1; 0: the host
    std::vector<std::string> keys;  // NUL-terminated, for ds_model_metadata_key
};

struct ds_adapter {
    std::shared_ptr<const ds::adapter> a;
};

struct ds_decoder {
    std::shared_ptr<const ds::model> m;
    bool special;
    ds::utf8_stream stream;
    std::string text;
};

struct ds_engine {
    std::unique_ptr<ds::engine> e;
    std::vector<ds_event> events;
    std::vector<const ds_event *> list;  // points to each of `events`
};

namespace ds {

// NUL-terminated, cut at a character boundary; ill-formed UTF-8 becomes U+FFFD.
template <size_t room> void copy_text(char (&to)[room], std::string_view from) noexcept {
    size_t n = 0;
    for (const char *p = from.data(), *const end = p + from.size(); p < end && *p;) {
        uint32_t part;
        const std::string_view piece =
            utf8_sequence(p, end, &part) ? std::string_view(p, part) : std::string_view("\uFFFD");
        if (n + piece.size() >= room) break;
        std::memcpy(to + n, piece.data(), piece.size());
        n += piece.size();
        p += part;
    }
    to[n] = 0;
}
inline ds_status fail(ds_error *err, status code, const char *text) noexcept {
    if (err) {
        err->status = static_cast<ds_status>(code);
        copy_text(err->message, text);
    }
    return static_cast<ds_status>(code);
}
template <class F> ds_status guard(ds_error *err, F &&body) noexcept {
    try {
        body();
        if (err) *err = {DS_OK, ""};
        return DS_OK;
    } catch (const error &e) {
        return fail(err, e.code, e.what());
    } catch (const std::bad_alloc &) {
        return fail(err, status::memory, "out of memory");
    } catch (const std::exception &e) {
        return fail(err, status::internal, e.what());
    } catch (...) {
        return fail(err, status::internal, "an exception of unknown type");
    }
}
inline void require(bool ok, const char *text) {
    if (!ok) throw error(status::argument, text);
}
#define REQUIRE_POINTER(p) require((p) != nullptr, #p ": is NULL")

// Every version of every structure that begins with struct_size is a multiple of 8 bytes.
inline void check_struct_size(size_t size, const char *name) {
    if (size < sizeof size || size > 65536 || size % 8)
        throw error(
            status::argument,
            format_text("%s.struct_size: is %zu, which no version of the structure can have", name, size));
}
// Copies the caller's configuration. Fields that a shorter, earlier version lacks become zero; the unknown
// bytes of a longer, later version must be zero.
template <class T> T read_config(const T *c, const char *name) {
    T out{};
    if (!c) return out;
    size_t size;
    std::memcpy(&size, c, sizeof size);
    check_struct_size(size, name);
    const char *bytes = reinterpret_cast<const char *>(c);
    for (size_t i = sizeof(T); i < size; ++i)
        if (bytes[i])
            throw error(
                status::argument,
                format_text("%s: byte %zu is set, which this version of the library does not know", name, i));
    std::memcpy(&out, c, std::min(size, sizeof out));
    return out;
}
inline void check_reserved(uint32_t v, const char *name) {
    if (v) throw error(status::argument, std::string(name) + ".reserved: must be 0");
}
// Fills the caller's structure: the fields that its version has. Fields that this version does not know
// become zero.
template <class T> void write_info(T *to, T from, const char *name) {
    size_t size;
    std::memcpy(&size, to, sizeof size);
    check_struct_size(size, name);
    from.struct_size = size;
    std::memcpy(static_cast<void *>(to), &from, std::min(size, sizeof from));
    if (size > sizeof from) std::memset(reinterpret_cast<char *>(to) + sizeof from, 0, size - sizeof from);
}
// A C program may store any number in an enumeration; reading an invalid value as the enumeration is
// undefined in C++.
template <class E> int number_of(const E &e) {
    int v;
    static_assert(sizeof e == sizeof v);
    std::memcpy(&v, &e, sizeof v);
    return v;
}
template <class E> void check_enum(const char *field, const E &e, E last) {
    const int v = number_of(e);
    if (v < 0 || v > last)
        throw error(status::argument,
                    format_text("%s: is %d, must be from 0 to %d", field, v, static_cast<int>(last)));
}
inline void check_flags(uint32_t flags, uint32_t known, const char *name) {
    if (flags & ~known)
        throw error(status::argument, format_text("%s: has unknown bits, 0x%x", name, flags & ~known));
}
// Copies to the caller's buffer. `size` is set even if the buffer is too small.
template <class T>
void hand_out(std::span<const T> from, T *to, size_t capacity, size_t *size, const char *what) {
    *size = from.size();
    if (from.size() > capacity)
        throw error(status::buffer,
                    format_text("%s: needs room for %zu, has %zu", what, from.size(), capacity));
    if (!from.empty()) std::memcpy(to, from.data(), from.size_bytes());
}
inline void hand_out_text(const std::string &from, char *to, size_t capacity, size_t *size) {
    hand_out(std::span<const char>(from.data(), from.size()), to, capacity, size, "buffer");
}
inline ds::host host_of(const ds_host *callbacks) {
    const ds_host h = read_config(callbacks, "host");
    require(!h.alloc == !h.free, "host: alloc and free must both be set, or neither");
    ds::host out;
    out.alloc_fn = h.alloc;
    out.free_fn = h.free;
    out.alloc_user = h.alloc_user;
    out.log_fn = reinterpret_cast<void (*)()>(h.log);
    out.log_user = h.log_user;
    out.log_call = [](void (*fn)(), void *user, log_level level, const char *line) {
        reinterpret_cast<ds_log_fn>(fn)(user, static_cast<ds_log_level>(level), line);
    };
    return out;
}

// ---- Functions that several files of the interface use

backend_ptr open_device(uint32_t device);  // from 1; throws status::no_device
std::vector<chat_part> render(const model &m, const ds_message *messages, size_t count,
                              const ds_chat_config &c);
ds_thinking thinking_of(const ds_request &r);
request_options request_options_of(const ds_request &r, const model &m);  // everything except the prompt

}  // namespace ds
