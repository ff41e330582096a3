// Shared by the decoder architectures: reading the common keys, the common tensor rows, and the blocks of a
// forward pass.
#pragma once

#include "arch.h"

namespace ds {

// A key of the architecture: "llama." + "block_count".
struct keys {
    const gguf_file &f;
    std::string prefix;

    std::string full(const char *k) const { return prefix + "." + k; }
    int64_t count(const char *k, int64_t max) const {
        return in_range(k, f.get_uint(full(k), UINT64_MAX), max);
    }
    int64_t count(const char *k, int64_t max, int64_t absent) const {
        return in_range(k, f.get_uint(full(k), UINT64_MAX, static_cast<uint64_t>(absent)), max);
    }
    double number(const char *k, double min, double max) const {
        return in_range(k, f.get_float(full(k)), min, max);
    }
    double number(const char *k, double min, double max, double absent) const {
        return in_range(k, f.get_float(full(k), absent), min, max);
    }

    int64_t in_range(const char *k, uint64_t v, int64_t max) const {
        if (v < 1 || v > static_cast<uint64_t>(max))
            f.fail(full(k), "is " + std::to_string(v) + ", must be from 1 to " + std::to_string(max));
        return static_cast<int64_t>(v);
    }
    double in_range(const char *k, double v, double min, double max) const {
        if (!(v >= min && v <= max))
            f.fail(full(k), "is " + shortest(v) + ", must be from " + shortest(min) + " to " + shortest(max));
        return v;
    }
};

// Keys of every architecture: layers, widths, heads, epsilon, vocabulary; and RoPE's keys, which need
// head_size.
void read_sizes(const keys &k, hparams &h);
void read_rope(const keys &k, hparams &h);

// Reads the keys that llama, qwen2 and qwen3 share (docs/formats.md). Checks that counts are in range, that
// heads is a multiple of kv_heads, and that the scaling is known.
hparams read_decoder(const gguf_file &f, const char *arch_name);

// Differences between the tensors of these architectures.
struct decoder_traits {
    bool qkv_bias;           // biases of q, k and v
    bool optional_qkv_bias;  // these biases and attn_output's may be absent
    bool qk_norm;            // norms of each head of q and k
    reorder qk_order;        // of q's and k's rows, biases and norms
};
std::vector<tensor_row> top_tensors(const hparams &h);  // tensors outside the layers
std::vector<tensor_row> decoder_tensors(const hparams &h, const decoder_traits &t);
kv_widths decoder_kv(const hparams &h);

rope_table_params rope_params_of(const hparams &h);

// y, the product of x and w, with what an adapter adds to it. y may be changed in place.
const tensor *adapted(const build_args &a, const tensor *w, const tensor *x, const tensor *y);

// x + W_o attention(norm(x)), with biases and per-head norms if the layer has them. `rope`: the result of
// rope_table.
const tensor *attention_block(const build_args &a, int64_t layer, const tensor *x, const tensor *rope,
                              rope_pairs pairs);
// x + W_down(silu(W_gate norm(x)) * W_up norm(x))
const tensor *feed_forward_block(const build_args &a, int64_t layer, const tensor *x);
// silu(gate norm(x)) * (up norm(x)); no norm if it is null
const tensor *gated_product(const build_args &a, const tensor *x, const tensor *norm, const tensor *gate,
                            const tensor *up);
// The output head's matrix; a tied head uses the embedding's.
const tensor *output_matrix(const model_weights &w);
// Norm and output head of the rows that need logits.
const tensor *output_block(const build_args &a, const tensor *x);
// The whole forward pass: embedding, layers, output.
const tensor *decoder(const build_args &a, rope_pairs pairs);

}  // namespace ds
