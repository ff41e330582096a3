// Split models, as llama.cpp's gguf-split writes them: PREFIX-00001-of-00003.gguf and so on. Each part is a
// GGUF file with its own tensors and three keys: split.no (from 0), split.count and split.tensors.count (of
// all parts). The first has the metadata. Each part is parsed and checked like any file; here the parts are
// checked against each other. Mappings stay, descriptors do not: a set of parts costs address space only.
#include "gguf.h"

#include <cstring>

namespace ds {

static const char *const no_key = "split.no", *const count_key = "split.count",
                         *const tensors_key = "split.tensors.count";

bool is_split_key(std::string_view key) { return key == no_key || key == count_key || key == tensors_key; }

std::string gguf_part_path(const std::string &prefix, uint64_t no, uint64_t count) {
    return prefix +
           format_text("-%05u-of-%05u.gguf", static_cast<unsigned>(no + 1), static_cast<unsigned>(count));
}

// The path without the suffix of gguf_part_path; no value if it has another.
static std::optional<std::string> prefix_of(const std::string &path, uint64_t no, uint64_t count) {
    const std::string end = gguf_part_path("", no, count);
    if (!path.ends_with(end)) return {};
    return path.substr(0, path.size() - end.size());
}

gguf_source map_gguf(const std::string &path) { return {os::mapping::map_file(path), path}; }

uint64_t gguf_file::file_bytes() const {
    uint64_t n = bytes_.size();
    for (const held_part &o : others_) n += o.bytes.size();
    return n;
}

static bool same_value(const gguf_value &a, const gguf_value &b) {
    return a.type == b.type && a.is_array == b.is_array && a.bytes == b.bytes &&
           std::memcmp(a.data, b.data, a.bytes) == 0;
}

// Checks a part after the first: its split keys, and that its other keys agree with the first part's.
void gguf_file::check_part(const gguf_file &first, uint64_t no) const {
    for (const char *const key : {count_key, tensors_key}) {
        const uint64_t here = get_uint(key, UINT64_MAX), there = first.get_uint(key, UINT64_MAX);
        if (here != there)
            fail(key, "is " + std::to_string(here) + ", but " + std::to_string(there) + " in " + first.name_);
    }
    const uint64_t here = get_uint(no_key, UINT64_MAX);
    if (here != no)
        fail(no_key, "is " + std::to_string(here) + ", but the file's name and " + first.name_ + " make it " +
                         std::to_string(no));
    for (size_t i = 0; i < keys_.size(); ++i) {
        const gguf_value *const theirs = first.find(keys_[i]);
        if (is_split_key(keys_[i]) || keys_[i] == "general.alignment" || !theirs ||
            same_value(values_[i], *theirs))
            continue;
        fail(keys_[i], "is " + quoted(gguf_value_text(values_[i], 4)) + ", but " +
                           quoted(gguf_value_text(*theirs, 4)) + " in " + first.name_ +
                           ": a part of another model");
    }
}

void gguf_file::append(gguf_file part) {
    const size_t no = part_count();
    for (gguf_tensor &t : part.tensors_) {
        const auto [at, added] = tensor_index_.emplace(t.name, tensors_.size());
        if (!added) part.fail(t.name, "the same tensor is in " + name_of(tensors_[at->second]));
        t.part = no;
        tensors_.push_back(t);
    }
    others_.push_back({std::move(part.bytes_), std::move(part.name_), std::move(part.header_)});
}

// The name of the first part, for a caller who opened another one.
static std::string name_of_first(const gguf_file &f, uint64_t no, uint64_t count) {
    const std::optional<std::string> prefix = prefix_of(f.name(), no, count);
    return prefix ? gguf_part_path(*prefix, 0, count) : "the first";
}

gguf_file gguf_file::open(const std::string &path, const gguf_opener &open_file, const host &h) {
    gguf_file f(open_file(path), h);
    const uint64_t count = f.get_uint(count_key, gguf_max_parts, 0);
    if (count <= 1) return f;
    const uint64_t no = f.get_uint(no_key, count - 1), tensors = f.get_uint(tensors_key, gguf_max_tensors);
    if (no != 0)
        throw error(status::argument, f.name_ + ": " + no_key + ": is " + std::to_string(no) +
                                          ", the file is part " + std::to_string(no + 1) + " of " +
                                          std::to_string(count) + "; the model is loaded by the path of " +
                                          name_of_first(f, no, count));
    const std::optional<std::string> prefix = prefix_of(path, 0, count);
    if (!prefix)
        f.fail(count_key, "is " + std::to_string(count) + ", but the file's name does not end in " +
                              gguf_part_path("", 0, count) + ", so that the other parts are not known");
    for (uint64_t i = 1; i < count; ++i) {
        gguf_file part(open_file(gguf_part_path(*prefix, i, count)), h);
        part.check_part(f, i);
        f.append(std::move(part));
    }
    if (f.tensors_.size() != tensors)
        f.fail(tensors_key, "is " + std::to_string(tensors) + ", but the parts have " +
                                std::to_string(f.tensors_.size()) + " tensors");
    return f;
}

gguf_file gguf_file::again(const host &h) const {
    size_t i = 0;
    const auto next = [&](const std::string &) {
        const os::mapping &m = i == 0 ? bytes_ : others_[i - 1].bytes;
        return gguf_source{os::mapping::borrow(m.data(), m.size()), part_name(i++)};
    };
    if (others_.empty()) return gguf_file(next({}).bytes, name_, h);
    return open(name_, next, h);
}

}  // namespace ds
