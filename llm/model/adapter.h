// Adapters (LoRA, arXiv 2106.09685): pairs of small matrices that change a model's products. The file is GGUF
// as llama.cpp reads it (src/llama-adapter.cpp, convert_lora_to_gguf.py): for each adapted matrix NAME [out,
// in] the tensors NAME.lora_a [rank, in] and NAME.lora_b [out, rank]; products get scale * b (a x), scale =
// adapter.lora.alpha / rank, or 1 if alpha is 0. Invariant: matrices are f32 in memory, finite, of the
// model's shapes, and immutable.
#pragma once

#include "model.h"

namespace ds {

constexpr int64_t lora_most_rank = 1024;
constexpr float lora_most_alpha = 1e6f;

// The rows of the model's tensors that an adapter may change, in the architecture's order:
// lora_slot::matrices has one entry for each.
std::vector<tensor_row> adaptable_rows(const model &m);

inline float lora_scale(float alpha, int64_t rank) {
    return alpha == 0 ? 1.0f : alpha / static_cast<float>(rank);
}

class adapter {
public:
    // Checks every byte of the file against the model. Throws status::format or status::unsupported naming
    // file, tensor and value. The matrices are copied.
    adapter(std::shared_ptr<const ds::model> m, const gguf_file &f, const ds::host &h);
    // The same of matrices in memory, by adaptable_rows, of these shapes and finite; their scales are not
    // used.
    adapter(std::shared_ptr<const ds::model> m, float alpha, std::span<const lora_matrix> matrices,
            const ds::host &h);
    adapter(const adapter &) = delete;

    const ds::model &model() const { return *model_; }
    std::span<const lora_matrix> matrices() const { return matrices_; }  // by adaptable_rows
    int64_t rank() const { return rank_; }                               // the largest
    int64_t count() const { return count_; }                             // of adapted matrices
    float alpha() const { return alpha_; }
    uint64_t bytes() const { return memory_.size(); }
    // Identities of this adapter at a scale: in this process, where no other has it, never 0; and by
    // contents, in any process.
    uint64_t key(float scale) const;
    uint64_t fingerprint(float scale) const;

private:
    void finish();
    std::shared_ptr<const ds::model> model_;
    std::vector<lora_matrix> matrices_;
    block memory_;
    int64_t rank_ = 0, count_ = 0;
    float alpha_ = 0;
    uint32_t number_ = 0;
    uint64_t sum_ = 0;
};

// For writing: the two matrices of a row, f32 and contiguous.
struct lora_pair {
    const tensor_row *row;
    const float *a, *b;
};
void write_adapter(const std::string &path, std::string_view architecture, int64_t rank, float alpha,
                   std::span<const lora_pair> pairs);

// Adds to row r of a matrix, of n elements, what the adapter adds to its products: in double, rounded once.
void add_lora_row(const lora_matrix &m, float scale, int64_t r, float *w, size_t n);

}  // namespace ds
