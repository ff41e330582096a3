// A model's forward pass for measurements: one sequence at a time on the CPU, with the logits of every
// position and, if wanted, the input of each product.
#pragma once

#include "../llm/engine/runner.h"

namespace ds {

struct forward_options {
    int64_t window;  // positions of a sequence, at most
    unsigned threads = 1;
    format kv = format::f32;   // of the pages
    bool keep_inputs = false;  // every product's input can be read in `look`
};

class forward {
public:
    // `w` may differ from the model's own weights; both must outlive this.
    forward(const model &m, const model_weights &w, const forward_options &o);

    // Runs ids, at most a window of them, from position 0, in steps of up to 64. After each, `look` gets the
    // graph that ran, the logits [rows, vocab] and the position of their first row.
    using look = std::function<void(const graph &g, const tensor &logits, int64_t first)>;
    void run(std::span<const token_id> ids, const look &each);
    static uint64_t steps(size_t ids);  // of a run of so many ids; each step reads all weights

private:
    block pages_;
    runner runner_;
};

// The matrix products of a node: x, normed if there is a norm, by each of the weights. Another operation
// has no weights.
struct products {
    const tensor *x = nullptr, *norm = nullptr;
    float eps = 0;
    std::vector<const tensor *> weights = {};
};
products products_of(const node &n);

}  // namespace ds
