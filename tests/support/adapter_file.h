// Adapters made for tests, as files of the tests' own making: random pairs of matrices for a model's
// products.
#pragma once

#include "model_file.h"

namespace golden {

struct adapter_free {
    void operator()(ds_adapter *a) const { ds_adapter_free(a); }
};
using adapter_ptr = std::unique_ptr<ds_adapter, adapter_free>;

inline adapter_ptr load_adapter(const model_ptr &m, const std::string &path) {
    ds_adapter *a = nullptr;
    MUST(ds_adapter_load(m.get(), path.c_str(), nullptr, &a, &err));
    return adapter_ptr(a);
}

// The products that an adapter may change in a test model of this architecture, by the ends of their names.
inline bool is_adapted(const model_file &base, const model_file::part &p) {
    if (p.ne.size() != 2) return false;
    const bool r1 = std::any_of(base.parts.begin(), base.parts.end(), [](const model_file::part &x) {
        return x.name.find("attn_head_mix") != std::string::npos;
    });
    // a block that predicts further tokens is not run
    const std::string block = p.name.substr(0, p.name.find('.', 4) + 1);
    for (const model_file::part &x : base.parts)
        if (x.name.starts_with(block + "nextn.")) return false;
    for (const char *const end :
         {"attn_q.weight", "attn_k.weight", "attn_v.weight", "attn_output.weight", "attn_q_a.weight",
          "attn_q_b.weight", "attn_kv_a_mqa.weight", "ffn_gate.weight", "ffn_up.weight", "ffn_down.weight",
          "ffn_gate_shexp.weight", "ffn_up_shexp.weight", "ffn_down_shexp.weight"})
        if (p.name.ends_with(std::string(".") + end))
            return !(r1 && (p.name.ends_with(".attn_q.weight") || p.name.ends_with(".attn_q_b.weight")));
    return false;
}

// `every`: each so many matrices are adapted, beginning with the first. Values are uniform: a's of the size
// of weights, b's smaller.
inline model_file random_adapter(const model_file &base, const std::string &architecture, int64_t rank,
                                 float alpha, uint32_t seed, size_t every = 1) {
    model_file out;
    out.keys.set_string("general.architecture", architecture);
    out.keys.set_string("general.type", "adapter");
    out.keys.set_string("adapter.type", "lora");
    out.keys.set_f32("adapter.lora.alpha", alpha);
    uint32_t state = seed;
    const auto uniform = [&] {
        return static_cast<float>((state = state * 1664525u + 1013904223u) >> 8) * 0x1p-23f - 1.0f;
    };
    const auto add = [&](const std::string &name, int64_t rows, int64_t columns, float size) {
        model_file::part &p = out.parts.emplace_back();
        p = {name,
             ds::format::f32,
             {rows, columns},
             std::string(static_cast<size_t>(4 * rows * columns), '\0')};
        for (int64_t i = 0; i < rows * columns; ++i) p.f32()[i] = size * uniform();
    };
    size_t count = 0;
    for (const model_file::part &p : base.parts) {
        if (!is_adapted(base, p) || count++ % every) continue;
        add(p.name + ".lora_a", rank, p.ne[1], 0.15f);
        add(p.name + ".lora_b", p.ne[0], rank, 0.05f);
    }
    return out;
}

// A model in F32 with an adapter's products added to its weights, in double.
inline model_file merged(model_file base, model_file adapter, float alpha, double scale = 1) {
    for (model_file::part &w : base.parts) {
        const auto a = std::find_if(adapter.parts.begin(), adapter.parts.end(),
                                    [&](const model_file::part &p) { return p.name == w.name + ".lora_a"; });
        if (a == adapter.parts.end()) continue;
        model_file::part &b = adapter.find(w.name + ".lora_b");
        const int64_t rank = a->ne[0], columns = w.ne[1];
        const double factor =
            alpha == 0 ? scale : scale * static_cast<double>(alpha) / static_cast<double>(rank);
        for (int64_t i = 0; i < w.ne[0]; ++i)
            for (int64_t k = 0; k < columns; ++k) {
                double sum = 0;
                for (int64_t r = 0; r < rank; ++r)
                    sum += static_cast<double>(b.f32()[i * rank + r]) *
                           static_cast<double>(a->f32()[r * columns + k]);
                float &x = w.f32()[i * columns + k];
                x = static_cast<float>(static_cast<double>(x) + factor * sum);
            }
    }
    return base;
}

}  // namespace golden
