// The golden values of tests/data/train: losses, gradients and steps that an independent float64
// implementation in PyTorch computed for the checkpoints of tests/data/micro.
#pragma once

#include "../support/checkpoint_files.h"
#include "../support/golden.h"

#include "../../ggml-cpu/cpu.h"
#include "../../llm/train/train_graph.h"

#include <deque>

namespace golden {

// Tensors of a golden file by name, as numbers.
inline std::vector<double> doubles(const ds::test::raw_tensor &t) {
    const auto read = [&]<class T>(T) {
        std::vector<double> out(t.bytes.size() / sizeof(T));
        for (size_t i = 0; i < out.size(); ++i) {
            T v;
            std::memcpy(&v, &t.bytes[i * sizeof v], sizeof v);
            out[i] = static_cast<double>(v);
        }
        return out;
    };
    if (t.dtype == "F64") return read(double{});
    if (t.dtype == "I64") return read(int64_t{});
    REQUIRE(t.dtype == "F32");
    return read(float{});
}

// The batch of NAME.sft: every position of a sequence is fed; targets are weighted equally.
struct sft {
    std::vector<int32_t> ids, lengths, rows, targets;
    std::vector<float> weights;
    double ce = 0, loss = 0, norm = 0;

    explicit sft(const ds::test::raw_tensors &t) {
        const std::vector<double> all = doubles(t.at("input_ids")), to = doubles(t.at("targets"));
        const int64_t width = t.at("input_ids").shape[1];
        int64_t at = 0;
        for (const double l : doubles(t.at("lengths"))) {
            lengths.push_back(static_cast<int32_t>(l));
            for (int64_t i = 0; i < lengths.back(); ++i) {
                const auto of = static_cast<size_t>(at + i);
                if (to[of] >= 0) {
                    rows.push_back(static_cast<int32_t>(ids.size()));
                    targets.push_back(static_cast<int32_t>(to[of]));
                }
                ids.push_back(static_cast<int32_t>(all[of]));
            }
            at += width;
        }
        weights.assign(rows.size(), 1.0f / static_cast<float>(rows.size()));
        ce = doubles(t.at("ce"))[0];
        loss = doubles(t.at("loss"))[0];
        norm = doubles(t.at("grad_norm"))[0];
    }
    ds::train_batch batch() const { return {ids, lengths, rows, targets, weights}; }
    ds::train_sizes sizes() const {
        return {static_cast<int64_t>(ids.size()), static_cast<int64_t>(rows.size()),
                static_cast<int64_t>(lengths.size()), *std::max_element(lengths.begin(), lengths.end())};
    }
};

// The tensors named prefix + name, as the converter arranges them in a GGUF file of the model.
inline std::unique_ptr<ds::gguf_file> arranged(const std::string &model, const ds::test::raw_tensors &from,
                                               const std::string &prefix) {
    ds::test::checkpoint_files files("micro/" + model);
    std::erase_if(files.tensors, [&](const auto &t) { return !from.count(prefix + t.first); });
    for (auto &[name, t] : files.tensors) t = from.at(prefix + name);
    const ds::test::temp_dir dir;
    files.save(dir / "checkpoint");
    ds::convert(dir / "checkpoint", dir / "out.gguf",
                {.type = ds::format::f32, .vocab_only = false, .name = ""}, {});
    return std::make_unique<ds::gguf_file>(ds::gguf_file::open(dir / "out.gguf"));
}

}  // namespace golden
