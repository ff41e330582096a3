// Runs windows through the architecture's own graph on the CPU backend. To look at a product's input after
// the run, its bytes are kept to the end of the graph; the plan of the largest step serves the smaller ones.

#include "forward.h"

#include "../ggml-cpu/cpu.h"

#include <algorithm>

namespace ds {

static constexpr int64_t step_rows = 64;  // kept inputs take (4 hidden + ffn) * layers floats a row

const tensor *&slot_of(model_weights &w, const tensor_row &row) {
    return row.slot ? w.layer[static_cast<size_t>(row.layer)].*row.slot : w.*row.top;
}

forward::forward(const model &m, const model_weights &w, const forward_options &o)
    : model_(m), weights_(w), options_(o), layout_(make_page_layout(*m.architecture, m.h, o.kv)),
      graph_(static_cast<size_t>(32 + 32 * m.h.layers)) {
    backend_ = cpu_backend({.threads = std::min(o.threads, 256u)});
    const int64_t pages = pages_for(o.window), rows = std::min(step_rows, o.window);
    for (int32_t p = 0; p < pages; ++p) table_.push_back(p);
    inputs_.resize(static_cast<size_t>(5 * rows));
    pages_ = block({}, pool_bytes(layout_.page_bytes, pages));
    build(rows);
    plan_ = make_plan(graph_, *backend_);
    arena_ = block({}, plan_.arena_bytes);
    work_ = block({}, plan_.work_bytes);
}

// Inputs by fives: ids, positions, sequence, slots, outputs, each of `rows`.
const tensor *forward::build(int64_t rows) {
    graph_.reset();
    const auto input = [&](int64_t i, const char *name) {
        return graph_.input(format::i32, {rows}, inputs_.data() + i * rows, name);
    };
    const auto pages = static_cast<int64_t>(table_.size());
    step_inputs in;
    in.ids = input(0, "ids");
    in.positions = input(1, "positions");
    in.sequence = input(2, "sequence");
    in.slots = input(3, "slots");
    in.outputs = input(4, "outputs");
    in.tables = graph_.input(format::i32, {1, pages}, table_.data(), "tables");
    in.pages =
        graph_.input(format::i8, {pages, static_cast<int64_t>(layout_.page_bytes)}, pages_.data(), "pages");
    const tensor *const logits = model_.architecture->build({graph_, model_.h, weights_, in, layout_.layer});
    if (options_.keep_inputs)
        for (const node &n : graph_.nodes())
            if (!products_of(n).weights.empty()) graph_.keep(n.src[0]);
    return logits;
}

products products_of(const node &n) {
    const tensor *const *const s = n.src;
    const auto list = [&](int first, int last) {
        std::vector<const tensor *> weights(s + first, s + last);
        std::erase(weights, nullptr);
        return weights;
    };
    if (n.kind == op::matmul) return {s[0], nullptr, 0, list(1, 2)};
    if (n.kind == op::projections)
        return {s[0], s[1], n.as<rms_norm_params>().eps, list(2, 2 + most_projections)};
    if (n.kind == op::gated_projection) return {s[0], s[1], n.as<gated_params>().eps, list(2, 4)};
    return {};
}

uint64_t forward::steps(size_t ids) { return (ids + step_rows - 1) / step_rows; }

void forward::run(std::span<const token_id> ids, const look &each) {
    const auto n = static_cast<int64_t>(ids.size());
    for (int64_t first = 0; first < n; first += step_rows) {
        const int64_t rows = std::min(step_rows, n - first);
        for (int64_t i = 0; i < rows; ++i) {
            const auto position = static_cast<int32_t>(first + i);
            const int32_t row[] = {ids[static_cast<size_t>(first + i)], position, 0, position,
                                   static_cast<int32_t>(i)};
            for (size_t k = 0; k < std::size(row); ++k)
                inputs_[k * static_cast<size_t>(rows) + static_cast<size_t>(i)] = row[k];
        }
        const tensor *const logits = build(rows);
        place(graph_, plan_, arena_.data());
        backend_->fn->run(backend_.get(), graph_, work_.data(), nullptr);
        each(graph_, *logits, first);
    }
}

}  // namespace ds
