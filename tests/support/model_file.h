// A model's keys and tensors in memory, changed and written again: how tests make files that are wrong in one
// respect.
#pragma once

#include "golden.h"

#include "../../llm/model/model.h"
#include "../../tensor/gguf.h"

#include <algorithm>
#include <functional>
#include <map>

namespace golden {

// Bytes at an address that is a multiple of 64, as ds_model_load_memory requires.
class aligned_bytes {
public:
    explicit aligned_bytes(const std::string &s) : room_(s.size() + 64, '\0'), size_(s.size()) {
        std::memcpy(data(), s.data(), s.size());
    }
    char *data() { return room_.data() + (64 - reinterpret_cast<uintptr_t>(room_.data()) % 64) % 64; }
    size_t size() const { return size_; }

private:
    std::string room_;
    size_t size_;
};

struct model_file {
    struct part {
        std::string name;
        ds::format type;
        std::vector<int64_t> ne;
        std::string bytes;

        float *f32() { return reinterpret_cast<float *>(bytes.data()); }
    };
    ds::gguf_writer keys;
    std::vector<part> parts;

    part &find(const std::string &name) {
        const auto p =
            std::find_if(parts.begin(), parts.end(), [&](const part &x) { return x.name == name; });
        REQUIRE(p != parts.end());
        return *p;
    }
    void erase(const std::string &name) {
        std::erase_if(parts, [&](const part &x) { return x.name == name; });
    }
    std::string bytes() const {
        ds::gguf_writer w = keys;
        for (const part &p : parts) w.add_tensor(p.name, p.type, p.ne);
        std::string out = w.header();
        for (size_t i = 0; i < parts.size(); ++i) {
            REQUIRE(parts[i].bytes.size() == w.tensor_bytes(i));
            out += parts[i].bytes + std::string(w.padding(i), '\0');
        }
        return out;
    }
};

inline model_file read_model_file(const std::string &path) {
    const ds::gguf_file f(ds::os::mapping::map_file(path), path);
    model_file out;
    for (size_t i = 0; i < f.key_count(); ++i) out.keys.set_raw(f.key(i), f.value(i));
    for (const ds::gguf_tensor &t : f.tensors())
        out.parts.push_back({std::string(t.name),
                             t.type,
                             {t.ne, t.ne + t.rank},
                             {reinterpret_cast<const char *>(t.data), t.bytes}});
    return out;
}

// A checkpoint of tests/data, converted. Each is converted once and then cached.
inline const model_file &micro_file(const std::string &name, ds::format type = ds::format::f32) {
    static std::map<std::pair<std::string, ds::format>, model_file> made;
    const auto [i, added] = made.try_emplace({name, type});
    if (added) {
        const temp_file file;
        ds::convert(data_dir(name), file.path, {.type = type, .vocab_only = false, .name = ""}, {});
        i->second = read_model_file(file.path);
    }
    return i->second;
}

// The hyper-parameters that the checkpoint's architecture reads after a change of its keys.
using key_change = std::function<void(ds::gguf_writer &)>;
inline ds::hparams changed_hparams(const std::string &checkpoint, const key_change &change) {
    ds::gguf_writer w = micro_file(checkpoint).keys;
    change(w);
    const std::string bytes = w.header();
    const ds::gguf_file f(ds::os::mapping::borrow(bytes.data(), bytes.size()), "changed");
    return ds::arch_of(f)->read(f);
}

// A model and the memory that it is loaded from.
struct held_model {
    std::unique_ptr<aligned_bytes> memory;
    model_ptr model;
};
inline held_model hold(const std::string &bytes, const ds_model_config *config = nullptr) {
    held_model h{std::make_unique<aligned_bytes>(bytes), nullptr};
    ds_model *m = nullptr;
    MUST(ds_model_load_memory(h.memory->data(), h.memory->size(), config, &m, &err));
    h.model.reset(m);
    return h;
}
inline held_model hold(const model_file &f, const ds_model_config *config = nullptr) {
    return hold(f.bytes(), config);
}

inline ds_model_config model_config() {
    ds_model_config c{};
    c.struct_size = sizeof c;
    return c;
}

}  // namespace golden
