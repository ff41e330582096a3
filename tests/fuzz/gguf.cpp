// GGUF's reader: a file, or several as one model. Every value and tensor is read, and the result is written
// and read again. Input: the file, or parts (fuzz.h) after a byte 'P'.
#include "fuzz.h"

#include <algorithm>

namespace ds::fuzz {

static uint64_t touched(const gguf_file &f) {
    uint64_t sum = 0;
    const auto typed = [&](auto read) {
        try {
            sum += static_cast<uint64_t>(read());
        } catch (const error &e) {
            must(e.code == status::format, e.what());
        }
    };
    for (size_t i = 0; i < f.key_count(); ++i) {
        const std::string_view key = f.key(i);
        must(f.find(key) != nullptr, "a key of the file is found");
        sum += gguf_value_text(f.value(i), 16).size();
        // Most typed reads throw, which is slow, so each key tries only one type, in rotation.
        const bool list = f.value(i).is_array && f.value(i).count <= 4096;
        switch ((i + f.key(0).size() + f.tensors().size()) % (list ? 12 : 9)) {
        case 0: typed([&] { return f.get_uint(key, UINT32_MAX); }); break;
        case 1: typed([&] { return f.get_uint(key, 100, 7); }); break;
        case 2: typed([&] { return f.get_float(key) > 0; }); break;
        case 3: typed([&] { return f.get_float(key, 1) > 0; }); break;
        case 4: typed([&] { return f.get_bool(key, true); }); break;
        case 5: typed([&] { return f.get_string(key).size(); }); break;
        case 6: typed([&] { return f.get_string(key, "").size(); }); break;
        case 9: typed([&] { return f.get_strings(key).size(); }); break;
        case 10: typed([&] { return f.get_ints(key).size(); }); break;
        case 11: typed([&] { return f.get_floats(key).size(); }); break;
        default: break;
        }
    }
    typed([&] { return f.get_uint("no such key", 100, 7); });
    if (f.tensors().size() == 1) typed([&] { return f.get_uint("no such key", 100); });
    for (const gguf_tensor &t : f.tensors()) {
        must(f.find_tensor(t.name) != nullptr, "a tensor of the file is found");
        for (const uint64_t at : {uint64_t(0), t.bytes / 2, t.bytes - 1}) sum += t.data[at];
    }
    return sum;
}

static std::string written(const gguf_file &f, const gguf_writer &w, size_t &next) {
    std::string out = w.header();
    for (size_t i = 0; i < w.tensor_count(); ++i) {
        const gguf_tensor &t = f.tensors()[next++];
        out.append(reinterpret_cast<const char *>(t.data), t.bytes).append(w.padding(i), '\0');
    }
    must(out.size() == w.file_bytes(), "a file has the size that the writer reports");
    return out;
}

static void same(const gguf_file &a, const gguf_file &b) {
    must(a.tensors().size() == b.tensors().size(), "all tensors are written");
    for (size_t i = 0; i < a.tensors().size(); ++i) {
        const gguf_tensor &x = a.tensors()[i], &y = b.tensors()[i];
        must(x.name == y.name && x.type == y.type && x.rank == y.rank && std::equal(x.ne, x.ne + 4, y.ne) &&
                 x.bytes == y.bytes && memcmp(x.data, y.data, x.bytes) == 0,
             "a tensor is read as it was written");
    }
    for (size_t i = 0; i < a.key_count(); ++i) {
        if (a.key(i) == "general.alignment" || is_split_key(a.key(i))) continue;
        const gguf_value *const v = b.find(a.key(i));
        must(v && gguf_value_text(*v, 64) == gguf_value_text(a.value(i), 64),
             "a key is read as it was written");
    }
}

static void write_again(const gguf_file &f) {
    gguf_writer w;
    for (size_t i = 0; i < f.key_count(); ++i)
        if (f.key(i) != "general.alignment" && !is_split_key(f.key(i))) w.set_raw(f.key(i), f.value(i));
    for (const gguf_tensor &t : f.tensors()) {
        if (t.name.size() > 63) return;
        w.add_tensor(std::string(t.name), t.type, std::span(t.ne, static_cast<size_t>(t.rank)));
    }
    size_t next = 0;
    const std::string bytes = written(f, w, next);
    same(f, gguf_file(os::mapping::borrow(bytes.data(), bytes.size()), "again"));
    if (f.tensors().size() < 2) return;
    std::vector<std::string> parts;
    next = 0;
    for (const gguf_writer &p : w.split({.bytes = bytes.size() / 2, .tensors = 3}))
        parts.push_back(written(f, p, next));
    const gguf_file joined = gguf_file::open(
        gguf_part_path("again", 0, parts.size()), [&](const std::string &path) -> gguf_source {
            for (size_t i = 0; i < parts.size(); ++i)
                if (path == gguf_part_path("again", i, parts.size()))
                    return {os::mapping::borrow(parts[i].data(), parts[i].size()), path};
            broken("there is no part " + path);
        });
    same(f, joined);
}

// Every second key is erased and two are added; the rest is written and read.
static void edit(const gguf_file &f) {
    gguf_writer w;
    const auto copied = [&](size_t i) { return f.key(i) != "general.alignment" && !is_split_key(f.key(i)); };
    for (size_t i = 0; i < f.key_count(); ++i)
        if (copied(i)) w.set_raw(f.key(i), f.value(i));
    for (size_t i = 0; i < f.key_count(); i += 2) w.erase(std::string(f.key(i)));
    w.erase("fuzz.absent");
    const float floats[] = {0.5f, -1};
    w.set_u64("fuzz.count", f.key_count());
    w.set_f32s("fuzz.floats", floats);
    const std::string bytes = w.header();
    const gguf_file g(os::mapping::borrow(bytes.data(), bytes.size()), "edited");
    must(g.get_uint("fuzz.count", UINT32_MAX) == f.key_count() && g.get_floats("fuzz.floats").size() == 2,
         "added keys are read as they were set");
    for (size_t i = 0; i < f.key_count(); ++i) {
        if (!copied(i) || f.key(i).starts_with("fuzz.")) continue;
        const std::string key(f.key(i));
        must(w.has(key) == (i % 2 == 1) && (g.find(key) != nullptr) == w.has(key), "an erased key is gone");
    }
}

void run(std::string_view input) {
    const bool several = !input.empty() && input[0] == 'P';
    const std::vector<std::string> parts =
        several ? unpacked(input.substr(1), 6) : std::vector<std::string>{std::string(input)};
    // A separate block, so that a read beyond the end is detected.
    std::vector<std::vector<uint8_t>> blocks;
    for (const std::string &p : parts) blocks.emplace_back(p.begin(), p.end());
    const auto part = [&](size_t i) { return os::mapping::borrow(blocks[i].data(), blocks[i].size()); };
    if (!several) {
        const gguf_file f(part(0), "input");
        touched(f);
        edit(f);
        return write_again(f);
    }
    if (blocks.empty()) return;
    const gguf_file f = gguf_file::open(gguf_part_path("input", 0, blocks.size()),
                                        [&](const std::string &path) -> gguf_source {
                                            for (size_t i = 0; i < blocks.size(); ++i)
                                                if (path == gguf_part_path("input", i, blocks.size()))
                                                    return {part(i), path};
                                            throw error(status::io, path + ": is not there");
                                        });
    touched(f);
    edit(f);
    write_again(f);
}

std::string mutated(std::string input, dice &d) {
    if (input.empty() || input[0] != 'P') return changed_gguf(input, gguf_words, d);
    std::vector<std::string> parts = unpacked(std::string_view(input).substr(1), 6);
    if (parts.empty()) return "";
    if (d.one_in(6)) parts.push_back(d.of(parts));
    else if (d.one_in(6)) parts.erase(parts.begin() + static_cast<ptrdiff_t>(d.below(parts.size())));
    else if (d.one_in(6)) std::swap(d.of(parts), d.of(parts));
    else {
        std::string &p = d.of(parts);
        p = changed_gguf(p, gguf_words, d);
    }
    return "P" + packed(parts);
}

}  // namespace ds::fuzz
