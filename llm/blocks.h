// What the decoder architectures share: reading the common keys, the common tensor rows, and the blocks of a forward pass.
#pragma once

#include "arch.h"

namespace ds {

// The keys that llama, qwen2 and qwen3 share (formats.md), each checked: counts in range, heads a multiple of kv_heads, scaling known.
hparams read_decoder(const gguf_file &f, const char *arch_name);

// What differs between the tensors of those architectures.
struct decoder_traits {
    bool qkv_bias, optional_qkv_bias, qk_norm;
    reorder qk_order;
};
std::vector<tensor_row> decoder_tensors(const hparams &h, const decoder_traits &t);
kv_widths decoder_kv(const hparams &h);

rope_table_params rope_params_of(const hparams &h);

// x + W_o attention(norm(x)), with biases and per-head norms where the layer has them. rope is rope_table's result.
tensor *attention_block(const build_args &a, int64_t layer, const tensor *x, const tensor *rope, rope_pairs pairs);
// x + W_down(silu(W_gate norm(x)) * W_up norm(x))
tensor *feed_forward_block(const build_args &a, int64_t layer, const tensor *x);
// norm and output head of the rows that ask for logits; a tied head is the embedding's matrix
const tensor *output_block(const build_args &a, const tensor *x);
// The whole pass: embedding, layers, output.
const tensor *decoder(const build_args &a, rope_pairs pairs);

} // namespace ds
