// The safetensors container: a u64 length, that many bytes of JSON {name: {dtype, shape, data_offsets}}, then
// the data. Tensors must cover the data exactly once, without holes, as the specification requires. All
// products are checked for overflow.

#include "safetensors.h"

#include <algorithm>
#include <cstring>

namespace ds {

namespace {

// Element types of the specification. Those without a format are accepted, so that a tensor that is not
// needed does not stop a conversion.
struct dtype_row {
    const char *text;
    unsigned bits;
    std::optional<format> type;
};
constexpr dtype_row dtypes[] = {
    {"F32", 32, format::f32},
    {"F16", 16, format::f16},
    {"BF16", 16, format::bf16},
    {"F64", 64, {}},
    {"F8_E4M3", 8, {}},
    {"F8_E5M2", 8, {}},
    {"F8_E8M0", 8, {}},
    {"F4", 4, {}},
    {"BOOL", 8, {}},
    {"U8", 8, {}},
    {"I8", 8, {}},
    {"U16", 16, {}},
    {"I16", 16, {}},
    {"U32", 32, {}},
    {"I32", 32, {}},
    {"U64", 64, {}},
    {"I64", 64, {}},
    {"C64", 64, {}},
};
constexpr uint64_t max_dimension = uint64_t(1) << 48;  // beyond any file
constexpr size_t max_dimensions = 8;

const dtype_row &find_dtype(const json_node &n) {
    for (const dtype_row &d : dtypes)
        if (n.text() == d.text) return d;
    n.fail(status::unsupported, "element type " + ds::quoted(n.text()) + " is not known");
}

// Checks an entry's shape and dtype against its offsets. The file has `available` bytes of data.
safetensor read_entry(const std::string &name, const json_node &n, const uint8_t *data, uint64_t available) {
    const dtype_row &d = find_dtype(n.at("dtype"));
    const json_node shape = n.at("shape").array(), offsets = n.at("data_offsets").array();
    if (shape.size() > max_dimensions)
        shape.fail(status::format, std::to_string(shape.size()) + " dimensions; at most 8 are read");
    safetensor t{name, d.text, d.type, {}, nullptr, 0, 0};
    uint64_t bits = d.bits;
    for (size_t i = 0; i < shape.size(); ++i) {
        t.ne.push_back(static_cast<int64_t>(shape.at(i).whole(max_dimension)));
        if (!mul_ok(bits, static_cast<uint64_t>(t.ne.back()), &bits))
            shape.fail(status::format, "the product of the dimensions is too large");
    }
    if (offsets.size() != 2) offsets.fail(status::format, "not two numbers");
    const uint64_t begin = offsets.at(size_t(0)).whole(UINT64_MAX), end = offsets.at(1).whole(UINT64_MAX);
    if (begin > end || end > available)
        offsets.fail(status::format,
                     format_text("[%llu, %llu] is not a range of the file's %llu bytes of data",
                                 static_cast<unsigned long long>(begin), static_cast<unsigned long long>(end),
                                 static_cast<unsigned long long>(available)));
    if (bits % 8 != 0 || bits / 8 != end - begin)
        offsets.fail(status::format, format_text("%llu bytes, but the shape asks for %llu",
                                                 static_cast<unsigned long long>(end - begin),
                                                 static_cast<unsigned long long>(bits / 8)));
    t.data = data + begin;
    t.bytes = end - begin;
    return t;
}

}  // namespace

safetensors_file::safetensors_file(os::mapping bytes, std::string name, const stop_asked &stopped)
    : bytes_(std::move(bytes)), name_(std::move(name)) {
    const auto fail = [&](const std::string &text) { throw error(status::format, name_ + ": " + text); };
    uint64_t length = 0;
    if (bytes_.size() < sizeof length) fail("too short for a safetensors file");
    memcpy(&length, bytes_.data(), sizeof length);
    if (length > bytes_.size() - sizeof length || length > json_max_bytes)
        fail(format_text("header length %llu does not fit the file's %llu bytes",
                         static_cast<unsigned long long>(length),
                         static_cast<unsigned long long>(bytes_.size())));
    const auto *const text = reinterpret_cast<const char *>(bytes_.data()) + sizeof length;
    const json_tree header = parse_json(std::string_view(text, length), name_, stopped);
    const json_node root = json_node(header).object();
    const uint8_t *const data = bytes_.data() + sizeof length + length;
    const uint64_t available = bytes_.size() - sizeof length - length;
    tensors_.reserve(root.size());
    root.each([&](std::string_view key, const json_node &value) {
        if (key != "__metadata__") tensors_.push_back(read_entry(std::string(key), value, data, available));
    });

    std::sort(tensors_.begin(), tensors_.end(), [](const safetensor &a, const safetensor &b) {
        return std::tie(a.data, a.bytes) < std::tie(b.data, b.bytes);
    });
    const uint8_t *covered = data;
    for (const safetensor &t : tensors_) {
        if (t.data < covered) fail(ds::quoted(t.name) + ": its bytes overlap another tensor's");
        if (t.data > covered) fail(ds::quoted(t.name) + ": unclaimed bytes before its data");
        covered = t.data + t.bytes;
    }
    if (covered != data + available) fail("bytes after the last tensor's data");
}

void safetensors_file::forget(const safetensor &t) const {
    bytes_.forget(static_cast<size_t>(t.data - bytes_.data()), t.bytes);
}

checkpoint::checkpoint(const std::string &directory, const stop_asked &stopped) {
    const std::string single = directory + "/model.safetensors", index = single + ".index.json";
    if (file_exists(single)) {
        add_file(single, stopped);
        sort_names();
        return;
    }
    if (!file_exists(index))
        throw error(status::io,
                    directory + ": neither model.safetensors nor model.safetensors.index.json exists");
    const json_tree tree = read_json(index, stopped);
    const json_node map = json_node(tree).at("weight_map").object();
    std::vector<std::string_view> shards;
    map.each([&](std::string_view, const json_node &shard) {
        const std::string_view s = shard.view();
        if (s.empty() || s[0] == '.' || s.find('/') != s.npos || s.find('\0') != s.npos)
            shard.fail(status::format,
                       ds::quoted(shard.text()) + " is not the name of a file of this directory");
        shards.push_back(s);
    });
    std::sort(shards.begin(), shards.end());
    shards.erase(std::unique(shards.begin(), shards.end()), shards.end());
    for (const std::string_view s : shards) add_file(directory + "/" + std::string(s), stopped);
    sort_names();
    // The index and the shards must list the same tensors, in the same files.
    map.each([&](std::string_view name, const json_node &shard) {
        const std::string path = directory + "/" + shard.text();
        const safetensor *const t = find(name);
        if (!t || file_name(*t) != path)
            throw error(status::format, index + ": " + ds::quoted(std::string(name)) + ": not in " + path);
    });
    for (const safetensor &t : tensors_)
        if (!map.has(t.name))
            throw error(status::format,
                        index + ": " + ds::quoted(t.name) + ": not listed, but in " + file_name(t));
}

void checkpoint::add_file(const std::string &path, const stop_asked &stopped) {
    files_.emplace_back(os::mapping::map_file(path), path, stopped);
    std::vector<safetensor> list = files_.back().take_tensors();
    if (tensors_.empty()) tensors_.reserve(list.size());
    for (safetensor &t : list) {
        t.file = files_.size() - 1;
        tensors_.push_back(std::move(t));
    }
}

void checkpoint::sort_names() {
    by_name_.resize(tensors_.size());
    for (size_t i = 0; i < by_name_.size(); ++i) by_name_[i] = static_cast<uint32_t>(i);
    std::sort(by_name_.begin(), by_name_.end(), [&](uint32_t a, uint32_t b) {
        return tensors_[a].name != tensors_[b].name ? tensors_[a].name < tensors_[b].name : a < b;
    });
    const auto twice = std::adjacent_find(by_name_.begin(), by_name_.end(), [&](uint32_t a, uint32_t b) {
        return tensors_[a].name == tensors_[b].name;
    });
    if (twice != by_name_.end())
        throw error(status::format, file_name(tensors_[twice[1]]) + ": " + ds::quoted(tensors_[*twice].name) +
                                        ": in another file as well");
}

const safetensor *checkpoint::find(std::string_view name) const {
    const auto i = std::lower_bound(by_name_.begin(), by_name_.end(), name,
                                    [&](uint32_t t, std::string_view n) { return tensors_[t].name < n; });
    return i == by_name_.end() || tensors_[*i].name != name ? nullptr : &tensors_[*i];
}

}  // namespace ds
