// GGUF files: reading (versions 2 and 3) and writing, little endian (ggml's docs/gguf.md). Any byte string is
// a safe input: every length, count, offset and product is checked against the rest of the file before
// anything is allocated. The first fault ends the parse with a status that names the file, the field and the
// value.
// The file lists a tensor's dimensions innermost first; here, as everywhere in the library, they are
// outermost first. Only gguf.cpp and gguf_write.cpp convert.
#pragma once

#include "formats.h"
#include "os.h"

#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

namespace ds {

enum class gguf_type : uint32_t { u8, i8, u16, i16, u32, i32, f32, boolean, string, array, u64, i64, f64 };
const char *gguf_type_text(gguf_type t);

// One metadata value; points into the copy of the header.
struct gguf_value {
    gguf_type type;  // of the value, or of the elements when `is_array`
    bool is_array = false;
    uint64_t count = 1;             // elements
    const uint8_t *data = nullptr;  // first element; a string is a u64 length and its bytes
    size_t bytes = 0;               // from `data`, all elements
};

struct gguf_tensor {
    std::string_view name;
    format type;
    int rank;             // 1 to 4
    int64_t ne[4];        // outermost first, each at least 1; unused ones are 1
    uint64_t bytes;       // of the data
    uint64_t offset;      // of the data, from the start of the file
    const uint8_t *data;  // into the file's bytes
    size_t part = 0;      // which file of a split model, 0 for the first
};

// A file's bytes, and its name in messages.
struct gguf_source {
    os::mapping bytes;
    std::string name;
};
using gguf_opener = std::function<gguf_source(const std::string &path)>;
gguf_source map_gguf(const std::string &path);

// The header, which is all but tensor data, is copied to memory from the host's allocator and parsed there: a
// writer to the file, or to borrowed memory, cannot change a length after it was checked. Later reads of the
// mapping are of tensor data only, at offsets already checked.
class gguf_file {
public:
    gguf_file() = default;
    // Parses `bytes` and keeps it. `name` is for messages. Throws status::format or status::unsupported
    // (version, big endian, a tensor format not in formats.def, a part of a split model, an array of arrays,
    // more than 65,536 keys or gguf_max_tensors tensors).
    gguf_file(os::mapping bytes, std::string name, const host &h = {});

    // Opens the model at `path`: one file, or, given the first file of a split model
    // (PREFIX-00001-of-00003.gguf; gguf_split.cpp), all parts as one. Metadata are the first part's, tensors
    // those of all parts in order. Throws what the constructor throws, and status::argument for the path of
    // another part.
    static gguf_file open(const std::string &path, const gguf_opener &open_file = map_gguf,
                          const host &h = {});

    // The same file, parsed again over the bytes of this one, which must outlive it.
    gguf_file again(const host &h = {}) const;

    const std::string &name() const { return name_; }
    size_t part_count() const { return 1 + others_.size(); }
    const std::string &part_name(size_t i) const { return i == 0 ? name_ : others_[i - 1].name; }
    // the file that holds its data
    const std::string &name_of(const gguf_tensor &t) const { return part_name(t.part); }
    uint32_t version() const { return version_; }
    uint64_t alignment() const { return alignment_; }
    uint64_t data_offset() const { return data_offset_; }
    uint64_t file_bytes() const;  // of all parts

    // Metadata in the file's order.
    size_t key_count() const { return keys_.size(); }
    std::string_view key(size_t i) const { return keys_[i]; }
    const gguf_value &value(size_t i) const { return values_[i]; }
    const gguf_value *find(std::string_view key) const;  // null when absent

    // Typed reads. They throw status::format for another type or a value out of range, and those without
    // `absent` for a missing key. Any integer type is accepted if its value fits; floats may be f32 or f64.
    bool has(std::string_view key) const { return find(key) != nullptr; }
    uint64_t get_uint(std::string_view key, uint64_t max) const;
    uint64_t get_uint(std::string_view key, uint64_t max, uint64_t absent) const;
    double get_float(std::string_view key) const;
    double get_float(std::string_view key, double absent) const;
    bool get_bool(std::string_view key, bool absent) const;
    std::string_view get_string(std::string_view key) const;
    std::string_view get_string(std::string_view key, std::string_view absent) const;
    std::vector<std::string_view> get_strings(std::string_view key) const;  // array of strings
    // array of any integers that fit
    std::vector<int32_t> get_ints(std::string_view key) const;
    std::vector<float> get_floats(std::string_view key) const;  // array of f32 or f64

    const std::vector<gguf_tensor> &tensors() const { return tensors_; }
    const gguf_tensor *find_tensor(std::string_view name) const;  // null when absent
    // its memory pages may be dropped
    void forget(const gguf_tensor &t) const {
        (t.part == 0 ? bytes_ : others_[t.part - 1].bytes).forget(t.offset, t.bytes);
    }

    // Throws status::format, "NAME: FIELD: text"; if the field is a tensor's name, NAME is the part that
    // holds it.
    [[noreturn]] void fail(std::string_view field, const std::string &text) const;

private:
    friend struct gguf_parser;
    struct held_part {
        os::mapping bytes;
        std::string name;
        block header;
    };
    gguf_file(gguf_source part, const host &h);  // parses one file, which may be a part
    void clear_tables();
    void check_part(const gguf_file &first, uint64_t no) const;
    void append(gguf_file part);
    os::mapping bytes_;
    std::string name_;
    block header_;  // what keys, values and names point into
    uint32_t version_ = 0;
    uint64_t alignment_ = 32, data_offset_ = 0;
    std::vector<std::string_view> keys_;
    std::vector<gguf_value> values_;
    // not hashed: a file may choose its names so that they collide
    std::map<std::string_view, size_t> key_index_;
    std::vector<gguf_tensor> tensors_;
    std::map<std::string_view, size_t> tensor_index_;
    std::vector<held_part> others_;  // the parts after the first
};

constexpr uint64_t gguf_max_tensors = 65536;  // per file, and over all parts

// Split models: PREFIX-00001-of-00003.gguf and so on, named and numbered as by llama.cpp.
constexpr uint64_t gguf_max_parts = 65535;                                           // split.count is a u16
std::string gguf_part_path(const std::string &prefix, uint64_t no, uint64_t count);  // `no` counts from 0
bool is_split_key(std::string_view key);  // it describes the parts, not the model

// The most that a part holds, unless a single tensor exceeds it.
struct gguf_split_limits {
    uint64_t bytes = UINT64_MAX;  // of the file
    uint64_t tensors = UINT64_MAX;
};

// A value as text: a string verbatim (inside an array as a JSON string), numbers in shortest form, arrays as
// JSON, cut with "…" after `max_elements`. Floats do not depend on the locale.
std::string gguf_value_text(const gguf_value &v, size_t max_elements);
// The same piece by piece, in little memory whatever its length.
using text_sink = std::function<void(std::string_view)>;
void gguf_value_text(const gguf_value &v, size_t max_elements, const text_sink &put);

// Collects metadata and tensor descriptions, then lays out the header (version 3); tensor data follow in the
// order added. Data are aligned to the default of 32 bytes; a key general.alignment is dropped.
class gguf_writer {
public:
    void set_u16(const std::string &key, uint16_t v);
    void set_u32(const std::string &key, uint32_t v);
    void set_i32(const std::string &key, int32_t v);
    void set_u64(const std::string &key, uint64_t v);
    void set_f32(const std::string &key, float v);
    void set_bool(const std::string &key, bool v);
    void set_string(const std::string &key, std::string_view v);
    void set_strings(const std::string &key, std::span<const std::string> v);
    void set_i32s(const std::string &key, std::span<const int32_t> v);
    void set_f32s(const std::string &key, std::span<const float> v);
    void set_raw(std::string_view key, const gguf_value &v);  // copied verbatim from another file
    void erase(const std::string &key);
    bool has(const std::string &key) const;

    // Dimensions outermost first. Throws status::argument for a duplicate, a name over 63 bytes, a bad rank
    // or rows that are not whole blocks.
    void add_tensor(const std::string &name, format type, std::span<const int64_t> ne);

    // The header, padded to the alignment; then for tensor i its data, and padding(i) zero bytes.
    std::string header() const;
    size_t tensor_count() const { return tensors_.size(); }
    uint64_t tensor_bytes(size_t i) const { return tensors_[i].bytes; }
    uint64_t padding(size_t i) const;  // zero bytes after tensor i's data
    uint64_t file_bytes() const;       // header and all data

    // The same in one or more files: the first has all keys, each has a run of the tensors and the keys that
    // number the parts. Throws status::argument if there would be more than gguf_max_parts.
    std::vector<gguf_writer> split(const gguf_split_limits &l) const;

private:
    struct entry {
        std::string name;
        format type;
        std::vector<int64_t> ne;
        uint64_t bytes, offset;
    };
    static uint64_t description_bytes(const entry &t);
    uint64_t file_bytes_with(const entry *one_more) const;
    gguf_writer part(uint64_t no) const;
    void set(const std::string &key, std::string encoded);
    // key, encoded type and value; in order of first set
    std::vector<std::pair<std::string, std::string>> keys_;
    std::vector<entry> tensors_;
    std::map<std::string, size_t> key_index_, tensor_index_;
    uint64_t data_bytes_ = 0;
};

}  // namespace ds
