// Runs steps: rows in, logits out. Memory for the largest step is planned and taken at construction; a step
// of any size takes none.
#pragma once

#include "../../tensor/plan.h"
#include "../model/kv_layout.h"
#include "../model/model.h"
#include "page_pool.h"
#include "sampler.h"

namespace ds {

struct step_sizes {
    int64_t rows = 0, logits = 0;  // of a step, at most
    int64_t sequences = 0, sequence_pages = 0;
    int64_t pool_pages = 0;
    mla_form mla = mla_form::absorbed;
};

// What a measurement changes in a step's graph.
struct graph_changes {
    const model_weights *weights = nullptr;  // in place of the model's own
    void (*keep)(graph &g) = nullptr;        // keeps further results to the end of a run (graph::keep)
};

class runner {
public:
    // The graph's bytes for these sizes, without taking any.
    struct bytes {
        size_t activations, work, inputs;
    };
    static bytes measure(const model &m, const page_layout &layout, step_sizes s, const backend &b);

    // `pages` are in the backend's memory, as the model's weights are. Throws status::unsupported when the
    // backend has no kernel for one of the operations.
    runner(const model &m, page_layout layout, const step_sizes &s, std::shared_ptr<backend> b,
           const ds::host &host, void *pages, const graph_changes &changes = {});

    // Inputs of the next step, filled by the caller: one entry a row, and the pages of each sequence.
    std::span<int32_t> ids() { return array(0); }
    std::span<int32_t> positions() { return array(1); }
    std::span<int32_t> sequence() { return array(2); }
    std::span<int32_t> slots() { return array(3); }
    std::span<int32_t> outputs() { return {inputs_ + 4 * sizes_.rows, static_cast<size_t>(sizes_.logits)}; }
    // By which factor an output's weights are summed (leading_logits); 0: not at all.
    std::span<float> factors() {
        return {reinterpret_cast<float *>(inputs_ + 4 * sizes_.rows + sizes_.logits),
                static_cast<size_t>(sizes_.logits)};
    }
    int32_t *table(int64_t sequence) {
        return inputs_ + 4 * sizes_.rows + 2 * sizes_.logits + sequence * sizes_.sequence_pages;
    }

    // Computes the first `rows` rows and `outputs` outputs. False when `*stop` became true on the way: what
    // was computed is worth nothing then.
    // throws status::device
    bool run(int64_t rows, int64_t outputs, const std::atomic<bool> *stop = nullptr);
    // Of the last run, until the next one: logits [outputs, vocabulary], of which the first `outputs` from
    // `first` on are there. From a device they come now.
    const float *logits(int64_t first, int64_t outputs = 1);  // throws status::device
    // Of the last run on a device; on the host nobody needs it, for the logits are there.
    bool leads() const { return !backend_->fn->host_memory; }
    leading_logits leading(int64_t output) const;
    // Of the last run, until the next one; the logits [outputs, vocabulary] are in the backend's memory.
    const graph &last_graph() const { return graph_; }
    const tensor &last_logits() const { return *logits_; }
    const backend &device() const { return *backend_; }

private:
    std::span<int32_t> array(int64_t i) {
        return {inputs_ + i * sizes_.rows, static_cast<size_t>(sizes_.rows)};
    }
    const model &model_;
    page_layout layout_;
    step_sizes sizes_;
    graph_changes changes_;
    std::shared_ptr<backend> backend_;
    graph graph_;
    plan plan_;
    block input_block_;
    backend_memory arena_, work_;
    // where the backend's memory is not the host's: the inputs there, results here
    backend_memory far_inputs_, near_logits_, near_leading_;
    int32_t *inputs_, *read_inputs_;  // filled by the caller; read by the graph
    void *pages_;
    int64_t built_rows_ = 0, built_outputs_ = 0;  // what graph_ now stands for
    const tensor *logits_ = nullptr, *leading_ = nullptr;
};

}  // namespace ds
