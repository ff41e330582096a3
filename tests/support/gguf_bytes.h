// GGUF files made byte by byte for the tests, sharing nothing with gguf_writer, and checks of how they are
// read.
#pragma once

#include "../../tensor/gguf.h"

#include <doctest/doctest.h>

#include <sys/mman.h>

#include <cstring>
#include <functional>

namespace gguf_bytes {

using namespace ds;

enum : uint32_t { U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 };

template <class number> std::string le(number v) { return {reinterpret_cast<const char *>(&v), sizeof v}; }
inline std::string le_string(const std::string &s) { return le<uint64_t>(s.size()) + s; }
inline std::string zeros(size_t n) { return std::string(n, '\0'); }

struct spec_key {
    std::string name;
    uint32_t type;
    std::string payload;
};
struct spec_tensor {
    std::string name;
    std::vector<uint64_t> dims;  // as in the file, innermost first
    uint32_t type;
    uint64_t offset;
};
struct spec {
    uint32_t version = 3;
    std::vector<spec_key> keys = {};
    std::vector<spec_tensor> tensors = {};
    std::string data = {};
    size_t alignment = 32;

    std::string header() const {
        std::string s = "GGUF" + le(version) + le<uint64_t>(tensors.size()) + le<uint64_t>(keys.size());
        for (const spec_key &k : keys) s += le_string(k.name) + le(k.type) + k.payload;
        for (const spec_tensor &t : tensors) {
            s += le_string(t.name) + le<uint32_t>(static_cast<uint32_t>(t.dims.size()));
            for (const uint64_t d : t.dims) s += le(d);
            s += le(t.type) + le(t.offset);
        }
        return s;
    }
    std::string bytes() const {
        std::string s = header();
        if (!tensors.empty()) s.resize((s.size() + alignment - 1) / alignment * alignment, '\0');
        return s + data;
    }
};

inline std::string array_of(uint32_t element, uint64_t count, const std::string &payload) {
    return le(element) + le(count) + payload;
}

// A copy of the bytes that ends where an inaccessible page begins, so that reading one byte too many faults
// in any build. Only one may exist at a time: they share one buffer.
class guarded {
public:
    explicit guarded(const std::string &s) : size_(s.size()) {
        static char *const end = [] {
            void *p = mmap(nullptr, room + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            REQUIRE(p != MAP_FAILED);
            REQUIRE(mprotect(static_cast<char *>(p) + room, page, PROT_NONE) == 0);
            return static_cast<char *>(p) + room;
        }();
        REQUIRE(size_ <= room);
        data_ = end - size_;
        if (size_) memcpy(data_, s.data(), size_);
    }
    os::mapping view() const { return os::mapping::borrow(data_, size_); }

private:
    static constexpr size_t room = 4 << 20, page = 65536;
    char *data_;
    size_t size_;
};

// Reads all that a user of the file would: every value as text, every tensor's first and last byte.
inline uint64_t touch(const gguf_file &f) {
    uint64_t sum = 0;
    for (size_t i = 0; i < f.key_count(); ++i) sum += gguf_value_text(f.value(i), 100).size();
    for (const gguf_tensor &t : f.tensors()) sum += t.data[0] + t.data[t.bytes - 1];
    return sum;
}

struct outcome {
    status code = status::ok;
    std::string text = {};
    uint64_t touched = 0;
};
inline outcome load(const std::string &bytes) {
    const guarded g(bytes);
    try {
        const gguf_file f(g.view(), "bad.gguf");
        return {status::ok, "", touch(f)};
    } catch (const error &e) {
        return {e.code, e.text};
    }
}

inline void check_bad(const std::string &bytes, status code, std::initializer_list<const char *> parts) {
    const outcome o = load(bytes);
    CAPTURE(o.text);
    CHECK(o.code == code);
    CHECK(o.text.find("bad.gguf: ") == 0);
    for (const char *part : parts) {
        CAPTURE(std::string(part));
        CHECK(o.text.find(part) != std::string::npos);
    }
}
inline void check_bad(const spec &s, status code, std::initializer_list<const char *> parts) {
    check_bad(s.bytes(), code, parts);
}
inline void check_good(const spec &s) {
    const outcome o = load(s.bytes());
    CAPTURE(o.text);
    CHECK(o.code == status::ok);
}
inline void check_throws(status code, const char *part, const std::function<void()> &f) {
    try {
        f();
        CHECK_MESSAGE(false, "nothing was thrown; expected: ", part);
    } catch (const error &e) {
        CAPTURE(e.text);
        CHECK(e.code == code);
        CHECK(e.text.find(part) != std::string::npos);
    }
}

inline spec one_key(uint32_t type, const std::string &payload, const std::string &name = "test.key") {
    return {.keys = {{name, type, payload}}};
}
inline spec one_tensor(std::vector<uint64_t> dims, uint32_t type, uint64_t offset = 0, size_t data = 4096) {
    return {.tensors = {{"test.weight", std::move(dims), type, offset}}, .data = zeros(data)};
}

// A small file with every type of value, and three tensors.
inline spec tiny() {
    spec s;
    s.keys = {
        {"general.architecture", STRING, le_string("llama")},
        {"general.alignment", U32, le<uint32_t>(32)},
        {"t.u8", U8, le<uint8_t>(200)},
        {"t.i8", I8, le<int8_t>(-100)},
        {"t.u16", U16, le<uint16_t>(50000)},
        {"t.i16", I16, le<int16_t>(-30000)},
        {"t.u32", U32, le<uint32_t>(4000000000u)},
        {"t.i32", I32, le<int32_t>(-2000000000)},
        {"t.u64", U64, le<uint64_t>(UINT64_MAX)},
        {"t.i64", I64, le<int64_t>(INT64_MIN)},
        {"t.f32", F32, le(0.1f)},
        {"t.f64", F64, le(1e300)},
        {"t.bool", BOOL, le<uint8_t>(1)},
        {"t.strings", ARRAY,
         array_of(STRING, 3, le_string("a") + le_string("") + le_string("\xe2\x80\xa6\"\\\n\xff"))},
        {"t.ints", ARRAY, array_of(I16, 3, le<int16_t>(-1) + le<int16_t>(0) + le<int16_t>(7))},
        {"t.floats", ARRAY, array_of(F32, 2, le(0.5f) + le(-1e-5f))},
        {"t.none", ARRAY, array_of(U64, 0, "")},
    };
    s.tensors = {{"a.weight", {4, 3, 2}, 0, 0}, {"b.weight", {64}, 8, 96}, {"c.weight", {5}, 30, 192}};
    for (int i = 0; i < 202; ++i) s.data += static_cast<char>(i);
    return s;
}

}  // namespace gguf_bytes
