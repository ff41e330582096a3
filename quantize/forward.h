// A model's forward pass as measurements need it: one sequence at a time, logits of every position, and, if
// asked for, what went into each product.
#pragma once

#include "../llm/engine/page_pool.h"
#include "../llm/model/kv_layout.h"
#include "../llm/model/model.h"
#include "../tensor/plan.h"

namespace ds {

struct forward_options {
    int64_t window;  // positions of a sequence, at most
    unsigned threads = 1;
    format kv = format::f32;   // of the pages
    bool keep_inputs = false;  // every product's input can be read when `look` is called
};

class forward {
public:
    // `w` may differ from the model's own weights; both must outlive this.
    forward(const model &m, const model_weights &w, const forward_options &o);

    // Runs ids, at most a window of them, from position 0, some rows at a time. `look` gets the graph that
    // ran, the logits [rows, vocab] and the position of the first of them.
    using look = std::function<void(const graph &g, const tensor &logits, int64_t first)>;
    void run(std::span<const token_id> ids, const look &each);
    static uint64_t steps(size_t ids);  // how often a run of so many calls `look`, and reads all weights

private:
    const tensor *build(int64_t rows);
    const model &model_;
    const model_weights &weights_;
    forward_options options_;
    backend_ptr backend_;
    page_layout layout_;
    graph graph_;
    plan plan_;
    std::vector<int32_t> inputs_, table_;
    block pages_, arena_, work_;
};

// What a node multiplies with: x, normed where there is a norm, by each of the weights; none, if it is
// another operation.
struct products {
    const tensor *x = nullptr, *norm = nullptr;
    float eps = 0;
    std::vector<const tensor *> weights = {};
};
products products_of(const node &n);

// The slot of a tensor row in `w`.
const tensor *&slot_of(model_weights &w, const tensor_row &row);

}  // namespace ds
