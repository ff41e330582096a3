// AdamW over all weights of a model (tensor/ops/adamw.cpp): the states, the norm of all gradients, and steps.
// Invariant: a step's result depends on the sums of gradients and the states alone, to the bit.
#pragma once

#include "../../tensor/backend.h"
#include "../../tensor/ops.h"

#include <deque>

namespace ds {

struct adamw_options {
    float beta1 = 0.9f, beta2 = 0.95f, epsilon = 1e-8f;
    float decay = 0.1f;        // of matrices, per unit of learning rate
    float clip = 1.0f;         // the most that the norm of all gradients may be; 0: any
    bool byte_states = false;  // m and v as bytes with a scale for each 256
};

// One weight: all tensors are contiguous, and in the backend's memory.
struct trained_weight {
    const tensor *w;    // f32, or bf16 with its lower bits
    const tensor *low;  // i8 [2n]; null with f32
    const tensor *sum;  // of gradients, f32
    bool decays;
};

class optimizer {
public:
    // Bytes of the states of weights with so many elements.
    static size_t state_bytes(int64_t elements, bool bytes);

    optimizer(std::span<const trained_weight> weights, const adamw_options &o, std::shared_ptr<backend> b);

    void clear_sums();
    // The norm of all sums, from sums over stretches of fixed length; not finite if any gradient is not.
    double norm();
    // One step, the `number`th, counted from 1, with gradients of this norm, whose sums are `scale` times as
    // large.
    void step(int64_t number, double rate, double norm, double scale = 1);

    std::span<const std::pair<void *, size_t>> states() const { return states_; }  // m, v, scales, by weights

private:
    std::vector<trained_weight> weights_;
    adamw_options options_;
    std::shared_ptr<backend> backend_;
    backend_memory memory_, parts_;
    std::deque<tensor> tensors_;
    struct state {
        const tensor *m, *v, *m_scale, *v_scale;
    };
    std::vector<state> state_;
    std::vector<std::pair<void *, size_t>> states_;
    graph graph_;
};

}  // namespace ds
