// A trainer: a model's weights that can change, the steps that change them, and saving and resuming all of
// it. Invariant: weights after a step depend on the weights before, the options and the batch alone, to the
// bit: not on threads, instruction set, what is computed again, or how the batch is cut (with shared blocks
// or a balance loss, how it is cut counts).
#pragma once

#include "lora.h"
#include "optimizer.h"
#include "schedule.h"
#include "train_graph.h"

#include <functional>

namespace ds {

struct trainer_options {
    // f32; bf16, with 16 more bits for the optimizer alone; f16 or i8, made of weights in f32 after each
    // step. With bf16 and f16, what gradients need is stored in that format, too.
    format weights = format::f32;
    format pages = format::f32;  // of keys and values: f32, f16 or i8
    adamw_options adamw;
    schedule rate;
    train_graph::again again = train_graph::again::none;
    int64_t lora_rank = 0;      // of the adapter that is trained instead of the weights; 0: these are
    float lora_alpha = 0;       // 0: the rank
    float balance = 0;          // see train_sizes
    int64_t context = 0;        // most tokens of a sequence; 0: the model's
    int64_t rows = 0;           // most tokens of a run; 0: the largest power of two that fits `memory`
    uint64_t memory = 0;        // bytes for everything; 0: any
    int32_t skips_in_row = 10;  // steps with gradients that are not finite, after which training fails
    ds::host host;
};

struct train_plan {
    uint64_t weights, gradients, states, activations, work, pages, inputs;
    int64_t rows;
    uint64_t total() const { return weights + gradients + states + activations + work + pages + inputs; }
};

// Tokens, and for each the weight of its negative log-probability in the loss; the first token's is not used.
struct train_sequence {
    std::span<const int32_t> tokens;
    std::span<const float> weights;  // as many, or none: 1 for all
};

struct train_report {
    int64_t step = 0;  // the number of steps made, this one included
    double loss = 0;   // the weighted mean of negative log-probabilities, with the balance loss
    double norm = 0;   // of all gradients, before clipping
    double rate = 0;
    int64_t tokens = 0, targets = 0, runs = 0;
    int64_t rows = 0;      // the most of a run
    bool skipped = false;  // the gradients were not finite, the weights are as before
    double scale = 1;      // of the loss, for gradients in f16
};

class trainer {
public:
    // The plan, without allocating it. Throws status::unsupported for an architecture or memory that will not
    // do.
    static train_plan plan(const model &m, const trainer_options &o, const backend &b);

    // The weights start as the model's, decoded if they are packed. Both throw status::memory if `memory`
    // does not hold the smallest run. The model is the host's, and is kept. Where an allocation for the
    // passes fails, here (with `rows` 0) or in a step, runs are halved, down to 32 tokens or the batch's
    // longest sequence.
    trainer(std::shared_ptr<const model> m, const trainer_options &o, std::shared_ptr<backend> b);

    // One step of the optimizer. Throws status::argument, and changes nothing, for a batch that cannot be
    // run; status::cancelled if `*stop` became true, the weights being as before; status::numeric after too
    // many skips.
    train_report step(std::span<const train_sequence> batch, const std::atomic<bool> *stop = nullptr);
    // The loss alone, without the balance loss.
    train_report evaluate(std::span<const train_sequence> batch, const std::atomic<bool> *stop = nullptr);

    // Everything that the next steps depend on, and the caller's own bytes, to a file. It appears as a whole.
    void save(const std::string &path, std::string_view own) const;
    // Throws status::format for a damaged file, status::argument for one of another model or other options;
    // the trainer is then as before. `own` receives the caller's bytes before anything changes; what it
    // throws leaves the trainer as before.
    void resume(const std::string &path, const std::function<void(std::string_view)> &own);
    // A GGUF file of the weights: matrices in `type`, or the nearest that holds their rows; all metadata are
    // the model's.
    void write_model(const std::string &path, format type) const;

    // Of a trainer of an adapter: its file, and a copy for engines.
    void write_adapter(const std::string &path) const;
    std::shared_ptr<const ds::adapter> adapter() const;
    bool trains_adapter() const { return options_.lora_rank > 0; }

    // The model with the weights as they are. They change in its memory: engines may run on it between
    // `publish` and the next step.
    const std::shared_ptr<model> &trained() const { return trained_; }
    void publish();

private:
    struct weight {
        tensor_row row;
        tensor w, low, sum;
        tensor master, scale;  // of weights in f16 or i8: in f32, from which w is made; w's scales
        const tensor &exact() const { return master.data ? master : w; }
    };
    void put(weight &x, const tensor &from);  // its first values
    void make_copies();                       // of weights in f16 or i8
    void check(std::span<const train_sequence> batch) const;
    bool run(train_graph &g, std::span<const train_sequence> batch, float scale, train_report &r,
             const std::atomic<bool> *stop);
    train_graph &graph();
    train_graph &forward();
    void halving(int64_t least, const std::function<void()> &f);
    struct part {
        const void *data;
        size_t bytes;
    };
    std::vector<part> parts() const;  // of a saved file, in order
    uint64_t identity() const;        // of what a saved file belongs to
    std::shared_ptr<const model> base_;
    trainer_options options_;
    std::shared_ptr<backend> backend_;
    train_plan plan_;
    std::shared_ptr<model> trained_;
    backend_memory memory_;
    float lora_alpha() const;
    void add_adapter(char *&at, std::vector<trained_weight> &list);
    std::vector<lora_matrix> lora_matrices() const;  // by adaptable_rows
    std::deque<weight> weights_;
    adaptation adaptation_;  // of a trainer of an adapter, whose weights are in the order of lora_rows
    std::vector<gradient_sum> sums_;
    ds::graph copies_;  // that make_copies runs
    std::unique_ptr<optimizer> optimizer_;
    int64_t rows_;  // of a run
    std::unique_ptr<train_graph> graph_, forward_;
    int64_t steps_ = 0, updates_ = 0;  // updates_: steps that were not skipped
    int32_t skips_ = 0;
    // F16's gradients are those of the loss times a power of two, which is halved when they overflow, and
    // doubled after `scale_steps` steps without that.
    static constexpr float first_scale = 65536, most_scale = 16777216;
    static constexpr int32_t scale_steps = 1000;
    bool is_loss_scale(float scale) const;  // one that a run may have
    float loss_scale_ = 1;
    int32_t scaled_steps_ = 0;
};

}  // namespace ds
