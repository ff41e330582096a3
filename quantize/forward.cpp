// Every row of a step is an output. The sequence has the pool's pages to itself, in their order, so that a
// position's slot is the position.

#include "forward.h"

#include "../ggml-cpu/cpu.h"

#include <algorithm>
#include <numeric>

namespace ds {

static constexpr int64_t step_rows = 64;  // kept inputs take (4 hidden + ffn) * layers floats a row

static step_sizes sizes_for(int64_t window) {
    const int64_t rows = std::min(step_rows, window), pages = pages_for(window);
    return {.rows = rows, .logits = rows, .sequences = 1, .sequence_pages = pages, .pool_pages = pages};
}

static void keep_product_inputs(graph &g) {
    for (const node &n : g.nodes())
        if (!products_of(n).weights.empty()) g.keep(n.src[0]);
}

forward::forward(const model &m, const model_weights &w, const forward_options &o)
    : pages_({}, pool_bytes(make_page_layout(*m.architecture, m.h, o.kv).page_bytes, pages_for(o.window))),
      runner_(m, make_page_layout(*m.architecture, m.h, o.kv), sizes_for(o.window),
              cpu_backend({.threads = std::min(o.threads, 256u)}), {}, pages_.data(),
              {&w, o.keep_inputs ? keep_product_inputs : nullptr}) {
    std::iota(runner_.table(0), runner_.table(0) + pages_for(o.window), 0);
}

products products_of(const node &n) {
    const tensor *const *const s = n.src;
    const auto list = [&](int first, int last) {
        std::vector<const tensor *> weights(s + first, s + last);
        std::erase(weights, nullptr);
        return weights;
    };
    if (n.kind == op::matmul) return {s[0], nullptr, 0, list(1, 2)};
    // A matrix's heads, all of which read the same rows.
    if (n.kind == op::routed_matmul && s[0]->rank == 2 && s[1]->base) return {s[0], nullptr, 0, {s[1]->base}};
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
            const auto at = static_cast<size_t>(i), from = static_cast<size_t>(first + i);
            runner_.ids()[at] = ids[from];
            runner_.positions()[at] = runner_.slots()[at] = static_cast<int32_t>(from);
            runner_.outputs()[at] = static_cast<int32_t>(i);
        }
        runner_.run(rows, rows);
        each(runner_.last_graph(), runner_.last_logits(), first);
    }
}

}  // namespace ds
