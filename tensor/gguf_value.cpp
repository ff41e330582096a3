// Metadata values as C++ values and as text. Values are unaligned in the header, so every number is copied
// out. Arrays are walked by the lengths that the parser has checked to be within the header's copy.
#include "gguf.h"

#include "utf8.h"

#include <cmath>
#include <cstring>
#include <utility>

namespace ds {

template <class number> static number load(const uint8_t *p) {
    number v;
    std::memcpy(&v, p, sizeof v);
    return v;
}

static bool is_float(gguf_type t) { return t == gguf_type::f32 || t == gguf_type::f64; }
static bool is_integer(gguf_type t) {
    return !is_float(t) && t != gguf_type::boolean && t != gguf_type::string && t != gguf_type::array;
}

// An integer of any type: 64 bits of two's complement, and whether they are a negative number.
struct any_int {
    uint64_t bits;
    bool negative;
    std::string text() const {
        return negative ? std::to_string(static_cast<int64_t>(bits)) : std::to_string(bits);
    }
};
template <class number> static any_int load_as(const uint8_t *p, uint64_t i) {
    const auto v = load<number>(p + sizeof(number) * i);
    return {static_cast<uint64_t>(v), v < 0};
}
static any_int load_int(gguf_type type, const uint8_t *p, uint64_t i) {
    switch (type) {
    case gguf_type::u8: return load_as<uint8_t>(p, i);
    case gguf_type::i8: return load_as<int8_t>(p, i);
    case gguf_type::u16: return load_as<uint16_t>(p, i);
    case gguf_type::i16: return load_as<int16_t>(p, i);
    case gguf_type::u32: return load_as<uint32_t>(p, i);
    case gguf_type::i32: return load_as<int32_t>(p, i);
    case gguf_type::u64: return load_as<uint64_t>(p, i);
    default: return load_as<int64_t>(p, i);
    }
}
static double load_float(gguf_type type, const uint8_t *p, uint64_t i) {
    return type == gguf_type::f32 ? static_cast<double>(load<float>(p + 4 * i)) : load<double>(p + 8 * i);
}
static std::string_view load_string(const uint8_t *&p) {
    const auto n = load<uint64_t>(p);
    const std::string_view s(reinterpret_cast<const char *>(p + 8), static_cast<size_t>(n));
    p += 8 + n;
    return s;
}

static const gguf_value &require(const gguf_file &f, std::string_view key) {
    const gguf_value *v = f.find(key);
    if (!v) f.fail(key, "missing");
    return *v;
}
[[noreturn]] static void wrong_type(const gguf_file &f, std::string_view key, const gguf_value &v,
                                    const char *wanted) {
    f.fail(key, std::string(v.is_array ? "an array of " : "a value of type ") + gguf_type_text(v.type) +
                    ", not " + wanted);
}

static uint64_t scalar_uint(const gguf_file &f, std::string_view key, const gguf_value &v, uint64_t max) {
    if (v.is_array || !is_integer(v.type)) wrong_type(f, key, v, "an integer");
    const any_int n = load_int(v.type, v.data, 0);
    if (n.negative || n.bits > max) f.fail(key, n.text() + " is not within 0 to " + std::to_string(max));
    return n.bits;
}
uint64_t gguf_file::get_uint(std::string_view key, uint64_t max) const {
    return scalar_uint(*this, key, require(*this, key), max);
}
uint64_t gguf_file::get_uint(std::string_view key, uint64_t max, uint64_t absent) const {
    const gguf_value *v = find(key);
    return v ? scalar_uint(*this, key, *v, max) : absent;
}

static double scalar_float(const gguf_file &f, std::string_view key, const gguf_value &v) {
    if (v.is_array || !is_float(v.type)) wrong_type(f, key, v, "f32 or f64");
    return load_float(v.type, v.data, 0);
}
double gguf_file::get_float(std::string_view key) const {
    return scalar_float(*this, key, require(*this, key));
}
double gguf_file::get_float(std::string_view key, double absent) const {
    const gguf_value *v = find(key);
    return v ? scalar_float(*this, key, *v) : absent;
}

bool gguf_file::get_bool(std::string_view key, bool absent) const {
    const gguf_value *v = find(key);
    if (!v) return absent;
    if (v->is_array || v->type != gguf_type::boolean) wrong_type(*this, key, *v, "a bool");
    return v->data[0] != 0;
}

static std::string_view scalar_string(const gguf_file &f, std::string_view key, const gguf_value &v) {
    if (v.is_array || v.type != gguf_type::string) wrong_type(f, key, v, "a string");
    const uint8_t *p = v.data;
    return load_string(p);
}
std::string_view gguf_file::get_string(std::string_view key) const {
    return scalar_string(*this, key, require(*this, key));
}
std::string_view gguf_file::get_string(std::string_view key, std::string_view absent) const {
    const gguf_value *v = find(key);
    return v ? scalar_string(*this, key, *v) : absent;
}

std::vector<std::string_view> gguf_file::get_strings(std::string_view key) const {
    const gguf_value &v = require(*this, key);
    if (!v.is_array || v.type != gguf_type::string) wrong_type(*this, key, v, "an array of string");
    std::vector<std::string_view> out(v.count);
    const uint8_t *p = v.data;
    for (std::string_view &s : out) s = load_string(p);
    return out;
}

std::vector<int32_t> gguf_file::get_ints(std::string_view key) const {
    const gguf_value &v = require(*this, key);
    if (!v.is_array || !is_integer(v.type)) wrong_type(*this, key, v, "an array of integers");
    std::vector<int32_t> out(v.count);
    for (uint64_t i = 0; i < v.count; ++i) {
        const any_int n = load_int(v.type, v.data, i);
        const bool fits = n.negative ? static_cast<int64_t>(n.bits) >= INT32_MIN : n.bits <= INT32_MAX;
        if (!fits)
            fail(key, "element " + std::to_string(i) + " is " + n.text() + ", which 32 bits do not hold");
        out[i] = static_cast<int32_t>(n.bits);
    }
    return out;
}

std::vector<float> gguf_file::get_floats(std::string_view key) const {
    const gguf_value &v = require(*this, key);
    if (!v.is_array || !is_float(v.type)) wrong_type(*this, key, v, "an array of f32 or f64");
    std::vector<float> out(v.count);
    for (uint64_t i = 0; i < v.count; ++i) out[i] = static_cast<float>(load_float(v.type, v.data, i));
    return out;
}

// ---- Values as text

// JSON is UTF-8: ill-formed bytes become U+FFFD.
static void put_json(const text_sink &put, std::string_view s) {
    char piece[1024];
    size_t n = 0;
    const auto add = [&](const char *p, size_t bytes) {  // at most 4
        if (n + bytes > sizeof piece) put({piece, std::exchange(n, 0)});
        std::memcpy(piece + n, p, bytes);
        n += bytes;
    };
    add("\"", 1);
    for (const char *p = s.data(), *end = p + s.size(); p < end;) {
        uint32_t part;
        const uint32_t length = utf8_sequence(p, end, &part);
        const auto c = static_cast<unsigned char>(*p);
        if (length == 0) add("\uFFFD", 3);
        else if (c == '"' || c == '\\') add("\\", 1), add(p, 1);
        else if (c == '\n') add("\\n", 2);
        else if (c < 0x20) add("\\u00", 4), add(c < 0x10 ? "0" : "1", 1), add(&"0123456789abcdef"[c % 16], 1);
        else add(p, length);
        p += part;
    }
    add("\"", 1);
    put({piece, n});
}

static std::string number_text(gguf_type type, const uint8_t *p, uint64_t i) {
    if (type == gguf_type::boolean) return p[i] ? "true" : "false";
    if (type == gguf_type::f32) return shortest(load<float>(p + 4 * i));
    if (type == gguf_type::f64) return shortest(load<double>(p + 8 * i));
    return load_int(type, p, i).text();
}

void gguf_value_text(const gguf_value &v, size_t max_elements, const text_sink &put) {
    const uint8_t *p = v.data;
    if (!v.is_array)
        return v.type == gguf_type::string ? put(load_string(p)) : put(number_text(v.type, p, 0));
    put("[");
    for (uint64_t i = 0; i < v.count; ++i) {
        if (i > 0) put(", ");
        if (i == max_elements) {
            put("…");
            break;
        }
        if (v.type == gguf_type::string) put_json(put, load_string(p));
        // JSON has no NaN or infinity
        else if (is_float(v.type) && !std::isfinite(load_float(v.type, p, i))) put("null");
        else put(number_text(v.type, p, i));
    }
    put("]");
}

std::string gguf_value_text(const gguf_value &v, size_t max_elements) {
    std::string out;
    gguf_value_text(v, max_elements, [&](std::string_view part) { out += part; });
    return out;
}

}  // namespace ds
