// The GGUF writer: metadata and tensor descriptions are collected, then laid out as version 3. Tensor data
// follow in the order added, each at a multiple of the default alignment of 32. So the file states no
// alignment: a key general.alignment copied from another file is dropped.
#include "gguf.h"

#include <cstring>

namespace ds {

static constexpr uint64_t alignment = 32;
static uint64_t to_next_aligned(uint64_t n) { return (alignment - n % alignment) % alignment; }

template <class number> static void put(std::string &out, number v) {
    out.append(reinterpret_cast<const char *>(&v), sizeof v);
}
static void put_string(std::string &out, std::string_view s) {
    put<uint64_t>(out, s.size());
    out += s;
}
static void put_type(std::string &out, gguf_type t) { put(out, static_cast<uint32_t>(t)); }
static std::string array_head(gguf_type element, uint64_t count) {
    std::string out;
    put_type(out, gguf_type::array);
    put_type(out, element);
    put(out, count);
    return out;
}
template <class number> static std::string scalar(gguf_type t, number v) {
    std::string out;
    put_type(out, t);
    put(out, v);
    return out;
}
template <class number> static std::string numbers(gguf_type element, std::span<const number> v) {
    std::string out = array_head(element, v.size());
    out.append(reinterpret_cast<const char *>(v.data()), v.size_bytes());
    return out;
}

void gguf_writer::set(const std::string &key, std::string encoded) {
    if (key.empty() || key.size() > 65535)
        throw error(status::argument,
                    "a key of " + std::to_string(key.size()) + " bytes: 1 to 65535 are possible");
    if (key == "general.alignment") return;
    const auto [i, added] = key_index_.emplace(key, keys_.size());
    if (added) keys_.emplace_back(key, std::move(encoded));
    else keys_[i->second].second = std::move(encoded);
}

void gguf_writer::set_u16(const std::string &key, uint16_t v) { set(key, scalar(gguf_type::u16, v)); }
void gguf_writer::set_u32(const std::string &key, uint32_t v) { set(key, scalar(gguf_type::u32, v)); }
void gguf_writer::set_i32(const std::string &key, int32_t v) { set(key, scalar(gguf_type::i32, v)); }
void gguf_writer::set_u64(const std::string &key, uint64_t v) { set(key, scalar(gguf_type::u64, v)); }
void gguf_writer::set_f32(const std::string &key, float v) { set(key, scalar(gguf_type::f32, v)); }
void gguf_writer::set_bool(const std::string &key, bool v) {
    set(key, scalar<uint8_t>(gguf_type::boolean, v));
}
void gguf_writer::set_i32s(const std::string &key, std::span<const int32_t> v) {
    set(key, numbers(gguf_type::i32, v));
}
void gguf_writer::set_f32s(const std::string &key, std::span<const float> v) {
    set(key, numbers(gguf_type::f32, v));
}

void gguf_writer::set_string(const std::string &key, std::string_view v) {
    std::string out;
    put_type(out, gguf_type::string);
    put_string(out, v);
    set(key, std::move(out));
}
void gguf_writer::set_strings(const std::string &key, std::span<const std::string> v) {
    std::string out = array_head(gguf_type::string, v.size());
    for (const std::string &s : v) put_string(out, s);
    set(key, std::move(out));
}
void gguf_writer::set_raw(std::string_view key, const gguf_value &v) {
    std::string out;
    if (v.is_array) out = array_head(v.type, v.count);
    else put_type(out, v.type);
    out.append(reinterpret_cast<const char *>(v.data), v.bytes);
    set(std::string(key), std::move(out));
}

void gguf_writer::erase(const std::string &key) {
    const auto found = key_index_.find(key);
    if (found == key_index_.end()) return;
    const size_t at = found->second;
    keys_.erase(keys_.begin() + static_cast<std::ptrdiff_t>(at));
    key_index_.erase(found);
    for (auto &[name, i] : key_index_)
        if (i > at) --i;
}
bool gguf_writer::has(const std::string &key) const { return key_index_.count(key) != 0; }

static uint64_t checked_bytes(const std::string &name, format type, std::span<const int64_t> ne) {
    const auto refuse = [&](const std::string &text) {
        throw error(status::argument, "tensor " + quoted(name) + ": " + text);
    };
    if (name.empty() || name.size() > 63)
        refuse("its name has " + std::to_string(name.size()) + " bytes: 1 to 63 are possible");
    if (ne.empty() || ne.size() > 4)
        refuse("its rank is " + std::to_string(ne.size()) + ": 1 to 4 are possible");
    const format_info &f = info(type);
    if (ne.back() % f.block != 0)
        refuse("rows of " + std::to_string(ne.back()) + " are not whole blocks of " +
               std::to_string(f.block) + " (" + f.text + ")");
    uint64_t bytes = f.bytes;
    for (size_t i = 0; i < ne.size(); ++i) {
        if (ne[i] < 1) refuse("a dimension is " + std::to_string(ne[i]));
        const auto n = static_cast<uint64_t>(i + 1 == ne.size() ? ne[i] / f.block : ne[i]);
        if (!mul_ok(bytes, n, &bytes) || bytes > INT64_MAX / 2) refuse("it is too large");
    }
    return bytes;
}

void gguf_writer::add_tensor(const std::string &name, format type, std::span<const int64_t> ne) {
    const uint64_t bytes = checked_bytes(name, type, ne);
    uint64_t end;
    if (!add_ok(data_bytes_, bytes + to_next_aligned(bytes), &end) || end > INT64_MAX)
        throw error(status::argument, "tensor " + quoted(name) + ": the file becomes too large");
    if (!tensor_index_.emplace(name, tensors_.size()).second)
        throw error(status::argument, "tensor " + quoted(name) + ": already added");
    tensors_.push_back({name, type, {ne.begin(), ne.end()}, bytes, data_bytes_});
    data_bytes_ = end;
}

std::string gguf_writer::header() const {
    std::string out = "GGUF";
    put<uint32_t>(out, 3);
    put<uint64_t>(out, tensors_.size());
    put<uint64_t>(out, keys_.size());
    for (const auto &[key, encoded] : keys_) {
        put_string(out, key);
        out += encoded;
    }
    for (const entry &t : tensors_) {
        put_string(out, t.name);
        put(out, static_cast<uint32_t>(t.ne.size()));
        // the file's order is innermost first
        for (size_t i = t.ne.size(); i-- > 0;) put<uint64_t>(out, static_cast<uint64_t>(t.ne[i]));
        put<uint32_t>(out, info(t.type).gguf_id);
        put<uint64_t>(out, t.offset);
    }
    out.append(to_next_aligned(out.size()), '\0');
    return out;
}

uint64_t gguf_writer::padding(size_t i) const { return to_next_aligned(tensors_[i].bytes); }

uint64_t gguf_writer::description_bytes(const entry &t) {
    return 8 + t.name.size() + 4 + 8 * t.ne.size() + 4 + 8;
}
uint64_t gguf_writer::file_bytes_with(const entry *one_more) const {
    uint64_t n = 4 + 4 + 8 + 8, data = data_bytes_;
    for (const auto &[key, encoded] : keys_) n += 8 + key.size() + encoded.size();
    for (const entry &t : tensors_) n += description_bytes(t);
    if (one_more) {
        n += description_bytes(*one_more);
        data += one_more->bytes + to_next_aligned(one_more->bytes);
    }
    return n + to_next_aligned(n) + data;
}
uint64_t gguf_writer::file_bytes() const { return file_bytes_with(nullptr); }

// ---- Several files (see gguf_split.cpp)

// A part's keys. Readers need only the split keys; with the scalar general.* keys they detect a part of
// another model.
gguf_writer gguf_writer::part(uint64_t no) const {
    gguf_writer w;
    for (const auto &[key, encoded] : keys_) {
        gguf_type type;
        std::memcpy(&type, encoded.data(), sizeof type);
        if (no == 0 || (key.starts_with("general.") && type != gguf_type::array)) w.set(key, encoded);
    }
    w.set_u16("split.no", static_cast<uint16_t>(no));
    w.set_u16("split.count", 0);  // set when the number is known; the size does not change
    w.set_i32("split.tensors.count", static_cast<int32_t>(tensors_.size()));
    return w;
}

std::vector<gguf_writer> gguf_writer::split(const gguf_split_limits &l) const {
    std::vector<gguf_writer> parts = {part(0)};
    for (const entry &t : tensors_) {
        const size_t held = parts.back().tensor_count();
        if (held > 0 && (held >= l.tensors || parts.back().file_bytes_with(&t) > l.bytes))
            parts.push_back(part(parts.size()));
        parts.back().add_tensor(t.name, t.type, t.ne);
        if (parts.size() > gguf_max_parts)
            throw error(status::argument,
                        "more than " + std::to_string(gguf_max_parts) + " parts would be needed");
    }
    for (gguf_writer &w : parts) w.set_u16("split.count", static_cast<uint16_t>(parts.size()));
    return parts;
}

}  // namespace ds
