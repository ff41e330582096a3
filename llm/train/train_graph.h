// A training step's graph: the engine's forward pass over a batch of sequences, cross entropy, and gradients.
// Its memory is planned and allocated at construction for the largest batch.
// Invariant: the forward part is made by the same builders as the engine's, so it has the engine's bits.
#pragma once

#include "../../tensor/backward.h"
#include "../../tensor/plan.h"
#include "../model/kv_layout.h"
#include "../model/model.h"

namespace ds {

struct train_sizes {
    int64_t rows = 0;       // most tokens in a batch
    int64_t targets = 0;    // most tokens that are to be predicted
    int64_t sequences = 0;  // most sequences
    int64_t context = 0;    // most tokens of a sequence
    // The weight in the loss of the mean over the layers of `balance`; 0: it is not computed.
    float balance = 0;
};

struct train_formats {
    format stored = format::f32;  // of values that gradients need (backward.h)
    format pages = format::f32;   // of keys and values
};

// A batch, sequence after sequence. Contents are the caller's until `run` returns.
struct train_batch {
    std::span<const int32_t> ids;      // [rows]
    std::span<const int32_t> lengths;  // [sequences], rows in all
    // [targets]: the rows whose next token is predicted, in ascending order; that token; the weight of its
    // negative log-probability in the loss
    std::span<const int32_t> rows, targets;
    std::span<const float> weights;
};

class train_graph {
public:
    // Which results are computed again instead of being retained for their gradients.
    enum class again { none, cheap, gates, blocks };

    struct bytes {
        size_t activations, work, pages, inputs;
    };
    static bytes measure(const arch &a, const hparams &h, const model_weights &w,
                         std::span<const gradient_sum> sums, const train_sizes &s, again policy,
                         const train_formats &f, const backend &b, const adaptation *adapters = nullptr);

    // The weights, those of `adapters` (kept by the caller), and the sums of gradients are in the backend's
    // memory. Throws status::unsupported if the backend has no kernel for one of the operations.
    train_graph(const arch &a, const hparams &h, const model_weights &w, std::span<const gradient_sum> sums,
                const train_sizes &s, again policy, const train_formats &f, std::shared_ptr<backend> b,
                const ds::host &host, const adaptation *adapters = nullptr);

    // Adds the gradients of the batch's loss, times scale, to the sums, but for those of the embedding's
    // rows, which are kept until `finish`: where the embedding is the output head as well, its sum takes all
    // that it gets as the head first, however a batch was cut into runs. False if `*stop` became true
    // meanwhile: the sums are then incomplete. The batch is consistent and fits the sizes.
    bool run(const train_batch &batch, float scale = 1, const std::atomic<bool> *stop = nullptr);
    void finish();
    void forget();  // what is kept for `finish`
    // Of the last run: log-probabilities of the targets, [targets].
    std::span<const float> log_probabilities() const { return {log_probabilities_.data(), targets_}; }
    std::span<const float> balances() const { return balances_; }  // by layers that have one

private:
    void fill(const train_batch &batch, float scale);
    const arch &arch_;
    const hparams &h_;
    const model_weights &weights_;
    std::vector<gradient_sum> sums_;
    train_sizes sizes_;
    again policy_;
    format stored_;
    std::vector<bool> narrow_;
    const adaptation *adapters_;
    std::shared_ptr<backend> backend_;
    page_layout layout_;
    graph graph_;
    plan plan_;
    block inputs_;
    backend_memory pages_, arena_, work_;
    std::vector<float> log_probabilities_, balances_;
    std::vector<float> embedding_rows_;  // gradients of the rows of embedding_ids_
    std::vector<int32_t> embedding_ids_;
    size_t targets_ = 0;
};

}  // namespace ds
