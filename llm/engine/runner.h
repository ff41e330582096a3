// Runs steps: rows in, logits out. Memory for the largest step is planned and allocated at construction; no
// step allocates any.
#pragma once

#include "../../tensor/plan.h"
#include "../model/kv_layout.h"
#include "../model/model.h"
#include "page_pool.h"
#include "sampler.h"

namespace ds {

struct step_sizes {
    int64_t rows = 0, logits = 0;  // most in a step
    int64_t sequences = 0, sequence_pages = 0;
    int64_t pool_pages = 0;
    int32_t form = 0;  // see build_args
    op_set expanded;   // fused operations that are built as primitives
    // The largest rank of adapters; 0: steps have none.
    int32_t adapter_rank = 0;
};

// What a measurement changes in a step's graph.
struct graph_changes {
    const model_weights *weights = nullptr;  // in place of the model's own
    void (*keep)(graph &g) = nullptr;        // keeps further results to the end of a run (graph::keep)
};

class runner {
public:
    // The memory that these sizes need, without allocating it.
    struct bytes {
        size_t activations, work, inputs;
    };
    static bytes measure(const model &m, const page_layout &layout, step_sizes s, const backend &b);

    // `pages` and the model's weights are in the backend's memory. Throws status::unsupported if the backend
    // has no kernel for one of the operations.
    runner(const model &m, page_layout layout, const step_sizes &s, std::shared_ptr<backend> b,
           const ds::host &host, void *pages, const graph_changes &changes = {});

    // Inputs of the next step, filled by the caller: one entry per row, and a table of pages per sequence.
    std::span<int32_t> ids() { return array(0); }
    std::span<int32_t> positions() { return array(1); }
    std::span<int32_t> sequence() { return array(2); }
    std::span<int32_t> slots() { return array(3); }
    std::span<int32_t> outputs() { return {inputs_ + 4 * sizes_.rows, static_cast<size_t>(sizes_.logits)}; }
    // For each output, the factor at which leading_logits::total is summed; 0: not at all.
    std::span<float> factors() {
        return {reinterpret_cast<float *>(inputs_ + 4 * sizes_.rows + sizes_.logits),
                static_cast<size_t>(sizes_.logits)};
    }
    int32_t *table(int64_t sequence) {
        return inputs_ + 4 * sizes_.rows + 2 * sizes_.logits + sequence * sizes_.sequence_pages;
    }

    // What the rows of a sequence are adapted by, until it is set anew; with an adapter_rank only.
    lora_slot &adapter(int64_t sequence) { return slots_[static_cast<size_t>(sequence)]; }

    // Computes the first `rows` rows and `outputs` outputs. False if `*stop` became true meanwhile; the
    // results are then undefined. Throws status::device.
    // adapted: whether any row has an adapter; else those are as if there were none, and products are fused.
    bool run(int64_t rows, int64_t outputs, const std::atomic<bool> *stop = nullptr, bool adapted = false);
    // Logits [outputs, vocabulary] of the last run's outputs from `first` on, valid until the next run. On a
    // device, this call downloads them. Throws status::device.
    const float *logits(int64_t first, int64_t outputs = 1);
    // Whether leading() is available: on a device only, since on the host all logits are at hand.
    bool leads() const { return !backend_->fn->host_memory; }
    leading_logits leading(int64_t output) const;  // of the last run
    // The last run's graph, until the next run; its logits [outputs, vocabulary] are in the backend's memory.
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
    plan plan_, adapted_plan_;
    std::vector<lora_slot> slots_;  // by sequence
    tensor slots_bytes_;
    adaptation adaptation_;
    block input_block_;
    backend_memory arena_, work_;
    // Copies of inputs and results, for a backend whose memory is not the host's.
    backend_memory device_inputs_, host_logits_, host_leading_;
    int32_t *inputs_, *read_inputs_;  // filled by the caller; read by the graph
    void *pages_;
    int64_t built_rows_ = 0, built_outputs_ = 0;  // sizes of the step that graph_ was built for
    bool built_adapted_ = false;
    const tensor *logits_ = nullptr, *leading_ = nullptr;
};

}  // namespace ds
