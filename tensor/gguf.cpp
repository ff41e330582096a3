// The GGUF parser: header, metadata and tensor table, in one pass over untrusted bytes. It runs twice: over
// the file, which finds the header's end and any fault, then over a copy of the header that nobody else can
// write to and whose pointers stay valid. Layout: ggml's docs/gguf.md.
// Invariant: `pos <= size`. Every length is compared with `size - pos` (added to pos it might wrap), and
// every count with the least bytes that its entries need, before anything is allocated. So time and memory
// are bounded by the file's size.
#include "gguf.h"
#include "lfs.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace ds {

static_assert(std::endian::native == std::endian::little, "GGUF is read in place, little endian");

struct gguf_type_row {
    const char *text;
    uint32_t bytes;
};  // 0 bytes: of variable length
static constexpr gguf_type_row type_rows[] = {
    {"u8", 1},   {"i8", 1},     {"u16", 2},   {"i16", 2}, {"u32", 4}, {"i32", 4}, {"f32", 4},
    {"bool", 1}, {"string", 0}, {"array", 0}, {"u64", 8}, {"i64", 8}, {"f64", 8},
};

const char *gguf_type_text(gguf_type t) { return type_rows[static_cast<uint32_t>(t)].text; }

// A model has some tens of keys, and at most some tens of thousands of tensors (one per matrix, expert and
// layer). The bounds keep the memory for the two tables small beside any file.
static constexpr uint64_t max_keys = 65536;
static constexpr uint64_t max_key_bytes = 65535, max_name_bytes = 63;
static constexpr unsigned min_alignment = 8, max_alignment = 1 << 20;
// length, a byte of name, type, a byte of value
static constexpr uint64_t min_key_entry = 8 + 1 + 4 + 1;
// length, a byte of name, rank, one dimension, format, offset
static constexpr uint64_t min_tensor_entry = 8 + 1 + 4 + 8 + 4 + 8;

struct gguf_parser {
    gguf_file &file;
    const uint8_t *base;  // the file, or the copy of its header
    uint64_t size, pos = 0;

    // What is being read, for messages: "header", "key 3 'general.name'", "tensor 7 'output.weight'".
    const char *kind = "header";
    uint64_t index = 0;
    std::string_view item = {};

    std::string where(const char *field) const {
        std::string text = kind;
        if (text != "header") text += format_text(" %llu", static_cast<unsigned long long>(index));
        if (!item.empty()) text += " " + quoted(item.data(), item.size());
        return text + " " + field;
    }
    [[noreturn]] void fail(const char *field, const std::string &text) const {
        file.fail(where(field), text);
    }
    [[noreturn]] void refuse(const char *field, const std::string &text) const {
        throw error(status::unsupported, file.name_ + ": " + where(field) + ": " + text);
    }

    uint64_t left() const { return size - pos; }
    std::string shortage() const {
        return ", but the file has only " + std::to_string(left()) + " more bytes";
    }
    const uint8_t *take(uint64_t n, const char *field) {
        if (n > left())
            fail(field, std::to_string(n) + " bytes at offset " + std::to_string(pos) + shortage());
        const uint8_t *p = base + pos;
        pos += n;
        return p;
    }
    template <class number> number take_number(const char *field) {
        number v;
        std::memcpy(&v, take(sizeof v, field), sizeof v);
        return v;
    }
    std::string_view take_string(const char *field, uint64_t max_bytes) {
        const auto n = take_number<uint64_t>(field);
        if (n > max_bytes)
            fail(field, "its length is " + std::to_string(n) + ", more than " + std::to_string(max_bytes));
        return {reinterpret_cast<const char *>(take(n, field)), static_cast<size_t>(n)};
    }
    uint64_t take_count(const char *field, uint64_t min_entry, uint64_t max) {
        const auto n = take_number<uint64_t>(field);
        if (n > left() / min_entry) fail(field, std::to_string(n) + shortage());
        if (n > max) refuse(field, std::to_string(n) + " is more than " + std::to_string(max));
        return n;
    }

    void read_magic() {
        if (size == 0) fail("magic", "the file is empty");
        const std::string_view magic(reinterpret_cast<const char *>(base), std::min<uint64_t>(size, 4));
        if (magic != "GGUF")
            refuse_lfs_pointer({reinterpret_cast<const char *>(base), static_cast<size_t>(size)}, file.name_);
        if (magic != "GGUF")
            fail("magic", "not a GGUF file, it begins with " + quoted(magic.data(), magic.size()));
        pos = 4;
        const auto version = take_number<uint32_t>("version");
        if (version != 0 && (version & 0xffff) == 0)
            refuse("version", std::to_string(__builtin_bswap32(version)) +
                                  " in big-endian order; only little-endian files are read");
        if (version != 2 && version != 3)
            refuse("version", std::to_string(version) + "; versions 2 and 3 are read");
        file.version_ = version;
    }

    gguf_type take_type(const char *field) {
        const auto t = take_number<uint32_t>(field);
        if (t >= std::size(type_rows)) fail(field, std::to_string(t) + " is not a value type");
        return static_cast<gguf_type>(t);
    }
    void skip_elements(const gguf_value &v) {
        if (v.type == gguf_type::string) {
            if (v.count > left() / 8) fail("count", std::to_string(v.count) + " strings" + shortage());
            for (uint64_t i = 0; i < v.count; ++i) take_string("value", UINT64_MAX);
            return;
        }
        const uint64_t bytes = type_rows[static_cast<uint32_t>(v.type)].bytes;
        if (v.count > left() / bytes)
            fail(v.is_array ? "count" : "value",
                 std::to_string(v.count) + " of type " + gguf_type_text(v.type) + shortage());
        const uint8_t *p = take(v.count * bytes, "value");
        if (v.type != gguf_type::boolean) return;
        for (uint64_t i = 0; i < v.count; ++i)
            if (p[i] > 1) fail("value", "a bool is " + std::to_string(p[i]) + ", neither 0 nor 1");
    }
    void read_value(gguf_value &v) {
        v.type = take_type("type");
        if (v.type == gguf_type::array) {
            v.is_array = true;
            v.type = take_type("element type");
            if (v.type == gguf_type::array) refuse("element type", "arrays of arrays are not read");
            v.count = take_number<uint64_t>("count");
        }
        const uint64_t begin = pos;
        v.data = base + begin;
        skip_elements(v);
        v.bytes = static_cast<size_t>(pos - begin);
    }
    void read_keys(uint64_t n) {
        file.keys_.reserve(n);
        file.values_.reserve(n);
        kind = "key";
        for (index = 0; index < n; ++index) {
            item = {};
            item = take_string("name", max_key_bytes);
            if (item.empty()) fail("name", "it is empty");
            if (!file.key_index_.emplace(item, index).second) fail("name", "the same key occurs twice");
            file.keys_.push_back(item);
            file.values_.emplace_back();
            read_value(file.values_.back());
        }
    }

    void apply_keys() {
        const uint64_t a = file.get_uint("general.alignment", UINT64_MAX, file.alignment_);
        if (!std::has_single_bit(a) || a < min_alignment || a > max_alignment)
            file.fail("general.alignment",
                      std::to_string(a) +
                          format_text(" is not a power of two from %u to %u", min_alignment, max_alignment));
        file.alignment_ = a;
    }

    // Element counts and bytes are multiplied step by step, each step checked: an unchecked product may wrap
    // to something plausible.
    void read_shape(gguf_tensor &t) {
        const auto rank = take_number<uint32_t>("rank");
        if (rank < 1 || rank > 4) fail("rank", std::to_string(rank) + " is not within 1 to 4");
        t.rank = static_cast<int>(rank);
        std::fill(std::begin(t.ne), std::end(t.ne), 1);
        uint64_t elements = 1;
        for (int i = t.rank - 1; i >= 0; --i) {  // the file's order is innermost first
            const auto d = take_number<uint64_t>("dimension");
            if (d < 1 || d > INT64_MAX) fail("dimension", std::to_string(d) + " is not within 1 to 2^63 - 1");
            if (!mul_ok(elements, d, &elements) || elements > INT64_MAX)
                fail("dimension", std::to_string(d) + " makes the tensor larger than 2^63 - 1 elements");
            t.ne[i] = static_cast<int64_t>(d);
        }
    }
    void read_format(gguf_tensor &t) {
        const auto id = take_number<uint32_t>("type");
        if (!format_from_gguf(id, &t.type)) {
            std::string known;
            for (int i = 0; i < static_cast<int>(format::count); ++i)
                known += (i ? ", " : "") + std::string(info(static_cast<format>(i)).text);
            refuse("type", "number format " + std::to_string(id) +
                               " is unknown, or was withdrawn; known are " + known);
        }
        const format_info &f = info(t.type);
        const int64_t row = t.ne[t.rank - 1];
        if (row % f.block != 0)
            fail("dimension", "rows of " + std::to_string(row) + " are not whole blocks of " +
                                  std::to_string(f.block) + " (" + f.text + ")");
        uint64_t blocks = static_cast<uint64_t>(row / f.block);
        // at most the number of elements, which fits
        for (int i = 0; i < t.rank - 1; ++i) blocks *= static_cast<uint64_t>(t.ne[i]);
        if (!mul_ok(blocks, f.bytes, &t.bytes))
            fail("size", std::to_string(blocks) + " blocks of " + std::to_string(f.bytes) +
                             " bytes are more than 2^64 - 1 bytes");
    }
    void read_tensors(uint64_t n) {
        file.tensors_.reserve(n);
        kind = "tensor";
        for (index = 0; index < n; ++index) {
            item = {};
            item = take_string("name", max_name_bytes);
            if (item.empty()) fail("name", "it is empty");
            if (!file.tensor_index_.emplace(item, index).second) fail("name", "the same tensor occurs twice");
            gguf_tensor &t = file.tensors_.emplace_back();
            t.name = item;
            read_shape(t);
            read_format(t);
            t.offset = take_number<uint64_t>("offset");
            if (t.offset % file.alignment_ != 0)
                fail("offset", std::to_string(t.offset) + " is not a multiple of the alignment, " +
                                   std::to_string(file.alignment_));
        }
    }

    // Offsets count from the first aligned byte after the table; here they become offsets from the start of
    // the file.
    void place_tensors() {
        // no wrap: a file has at most 2^63 bytes
        const uint64_t aligned = (pos + file.alignment_ - 1) / file.alignment_ * file.alignment_;
        const uint64_t file_bytes = file.bytes_.size();
        // a file without tensors need not be padded
        file.data_offset_ = std::min<uint64_t>(aligned, file_bytes);
        const uint64_t space = file_bytes - file.data_offset_;
        for (index = 0; index < file.tensors_.size(); ++index) {
            gguf_tensor &t = file.tensors_[index];
            item = t.name;
            if (t.offset > space || t.bytes > space - t.offset)
                fail("data", std::to_string(t.bytes) + " bytes at offset " + std::to_string(t.offset) +
                                 ", but the file's data end at " + std::to_string(space));
            t.offset += file.data_offset_;
            t.data = file.bytes_.data() + t.offset;
        }
    }
    void check_overlap() {
        std::vector<const gguf_tensor *> order;
        order.reserve(file.tensors_.size());
        for (const gguf_tensor &t : file.tensors_) order.push_back(&t);
        std::sort(order.begin(), order.end(),
                  [](const gguf_tensor *a, const gguf_tensor *b) { return a->offset < b->offset; });
        for (size_t i = 1; i < order.size(); ++i) {
            const gguf_tensor &a = *order[i - 1], &b = *order[i];
            if (b.offset - a.offset >= a.bytes) continue;
            index = static_cast<uint64_t>(&b - file.tensors_.data());
            item = b.name;
            fail("data", "it begins inside that of " + quoted(a.name.data(), a.name.size()));
        }
    }

    // Returns the header's size in bytes.
    uint64_t parse() {
        file.clear_tables();
        read_magic();
        const uint64_t tensor_count = take_count("tensor count", min_tensor_entry, gguf_max_tensors);
        const uint64_t key_count = take_count("key count", min_key_entry, max_keys);
        read_keys(key_count);
        apply_keys();
        if (tensor_count > left() / min_tensor_entry) {  // the keys have taken their part of the bytes since
            kind = "header", item = {};
            fail("tensor count", std::to_string(tensor_count) + shortage());
        }
        read_tensors(tensor_count);
        place_tensors();
        check_overlap();
        return pos;
    }
};

void gguf_file::clear_tables() {
    alignment_ = 32;
    keys_.clear();
    values_.clear();
    key_index_.clear();
    tensors_.clear();
    tensor_index_.clear();
}

gguf_file::gguf_file(gguf_source part, const host &h)
    : bytes_(std::move(part.bytes)), name_(std::move(part.name)) {
    const uint64_t n = gguf_parser{*this, bytes_.data(), bytes_.size()}.parse();
    header_ = block(h, n);
    std::memcpy(header_.data(), bytes_.data(), n);
    gguf_parser{*this, static_cast<const uint8_t *>(header_.data()), n}.parse();
    bytes_.forget(0, n);
}

gguf_file::gguf_file(os::mapping bytes, std::string name, const host &h)
    : gguf_file(gguf_source{std::move(bytes), std::move(name)}, h) {
    const uint64_t parts = get_uint("split.count", UINT64_MAX, 0);
    if (parts > 1)
        throw error(status::unsupported,
                    name_ + ": split.count: the model is split into " + std::to_string(parts) +
                        " files; it is loaded by the path of the first, or joined into one file before");
}

const gguf_value *gguf_file::find(std::string_view key) const {
    const auto i = key_index_.find(key);
    return i == key_index_.end() ? nullptr : &values_[i->second];
}

const gguf_tensor *gguf_file::find_tensor(std::string_view name) const {
    const auto i = tensor_index_.find(name);
    return i == tensor_index_.end() ? nullptr : &tensors_[i->second];
}

void gguf_file::fail(std::string_view field, const std::string &text) const {
    const gguf_tensor *const t = find_tensor(field);
    throw error(status::format, (t ? name_of(*t) : name_) + ": " + std::string(field) + ": " + text);
}

}  // namespace ds
