// A checkpoint of tests/data in F32 that is trained in a test.
#pragma once

#include "golden_train.h"

#include "../support/skip.h"

#include "../../llm/train/optimizer.h"

#include <cmath>

namespace golden {

struct trained {
    std::shared_ptr<const ds::model> m;
    ds::model_weights weights;                      // the model's, or after own() copies
    std::deque<std::vector<float>> memory, values;  // sums of gradients; copies of weights
    std::vector<std::vector<float>> before;
    std::deque<ds::tensor> tensors;
    std::vector<ds::gradient_sum> list;
    std::vector<ds::trained_weight> optimized;
    std::vector<std::string> names;

    explicit trained(const std::string &name) {
        const temp_file file;
        ds::convert(data_dir("micro/" + name), file.path,
                    {.type = ds::format::f32, .vocab_only = false, .name = ""}, {});
        m = std::make_shared<const ds::model>(ds::gguf_file::open(file.path), ds::model_options{});
        weights = m->weights;
        each([&](const ds::tensor_row &row, const ds::tensor *&w) {
            ds::tensor &sum = tensors.emplace_back(*w);
            sum.data = memory.emplace_back(static_cast<size_t>(ds::elements(*w))).data();
            list.push_back({w, &sum});
            names.push_back(row.name);
        });
    }

    // f(row, weight) for all weights that are trained.
    template <class F> void each(const F &f) {
        for (const ds::tensor_row &row : m->architecture->tensors(m->h)) {
            // not run, or constants
            if (row.layer >= m->h.layers || row.what == ds::role::rope_divisors ||
                row.name.find("exp_probs_b") != std::string::npos)
                continue;
            if (const ds::tensor *&w = ds::slot_of(weights, row)) f(row, w);
        }
    }

    // Copies the weights, so that they can be changed.
    void own() {
        size_t i = 0;
        each([&](const ds::tensor_row &row, const ds::tensor *&w) {
            const auto *const from = static_cast<const float *>(w->data);
            const auto n = static_cast<size_t>(ds::elements(*w));
            before.emplace_back(from, from + n);
            ds::tensor &t = tensors.emplace_back(*w);
            t.data = values.emplace_back(from, from + n).data();
            w = list[i].weight = &t;
            optimized.push_back(
                {&t, nullptr, list[i].sum, row.what != ds::role::norm && row.what != ds::role::bias});
            ++i;
        });
    }
    // Matrices in another format.
    void round(ds::format type) {
        size_t i = 0;
        each([&](const ds::tensor_row &row, const ds::tensor *&w) {
            ds::gradient_sum &sum = list[i++];
            if (row.stays_f32()) return;
            const auto *const from = static_cast<const float *>(w->data);
            const auto n = static_cast<size_t>(ds::elements(*w));
            ds::tensor &t =
                tensors.emplace_back(ds::make_tensor(type, {w->ne, static_cast<size_t>(w->rank)}));
            t.name = w->name;
            t.data = values.emplace_back(n).data();
            ds::encode_row(type, from, t.data, n);
            w = sum.weight = &t;
        });
    }
    void clear() {
        for (auto &v : memory) std::fill(v.begin(), v.end(), 0.0f);
    }
    static std::shared_ptr<ds::backend> cpu(unsigned threads = 1, const char *isa = nullptr) {
        ds::cpu_options o;
        o.threads = threads;
        o.isa = isa;
        return ds::cpu_backend(o);
    }
};

inline double relative_difference(const float *got, const float *wanted, size_t n) {
    double off = 0, size = 0;
    for (size_t i = 0; i < n; ++i) {
        off += (double(got[i]) - wanted[i]) * (double(got[i]) - wanted[i]);
        size += double(wanted[i]) * wanted[i];
    }
    return std::sqrt(off / size);
}

}  // namespace golden
