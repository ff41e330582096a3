// A model of random weights: a shape as GGUF keys, and the weights that training begins with.
#pragma once

#include "arch.h"

namespace ds {

// Of an architecture's keys, those that a new model chooses; 0 stands for what the comment says.
struct model_shape {
    std::string architecture, name;  // name: general.name; empty: none
    int64_t layers = 0, hidden = 0, heads = 0, ffn = 0, context = 0;
    int64_t kv_heads = 0;   // heads
    int64_t head_size = 0;  // hidden / heads; with latents, of keys, with the rotated part
    bool tied = false;      // the output head is the embedding
    double rope_base = 0;   // 10000
    rope_scaling scaling = rope_scaling::none;  // linear or yarn
    double rope_factor = 0;
    int64_t original_context = 0;  // context / rope_factor
    // r1 and deepseek2
    int64_t kv_rank = 0, q_rank = 0;  // q_rank: q is computed from the hidden state
    int64_t rotated = 0;              // half of a key
    int64_t value_size = 0;           // a key's part that is not rotated
    // r1
    int64_t heads_used = 0, heads_shared = 0;  // heads_used: all
    int64_t blocks = 0;                        // stored ones; layers
    // deepseek2; without experts all layers are dense
    int64_t experts = 0, experts_used = 0, experts_shared = 0, expert_ffn = 0, dense_layers = 0;
    float deviation = 0;  // of matrices; 0.02
    uint64_t seed = 0;
};

// Writes the file, in F32; it appears as a whole. Its vocabulary is `vocabulary`'s. Matrices are nearly
// normal, those that add to the residual stream smaller by sqrt(2 layers); norms are 1; biases and the gates
// of routed heads 0. The same shape, seed and vocabulary give the same bytes on every machine. Throws
// status::argument naming the key, or the field of the shape.
void write_random_model(const std::string &path, const gguf_file &vocabulary, const model_shape &shape);

}  // namespace ds
