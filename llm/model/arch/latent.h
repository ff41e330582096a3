// What architectures with latent attention (MLA) share: its keys, tensors, widths and parts of the forward
// pass. Defined in deepseek2.cpp.
#pragma once

#include "../blocks.h"

namespace ds {

// Ranks, the sizes of a head, and rope. Needs read_sizes' values.
void read_latents(const keys &k, hparams &h);
kv_widths latent_kv(const hparams &h);

// Appends rows of one block: names begin with blk.N. and model.layers.N.
struct row_maker {
    std::vector<tensor_row> &rows;
    int64_t block;
    bool optional = false;

    tensor_row &operator()(const tensor *layer_weights::*slot, role what, const char *name,
                           const char *checkpoint, std::vector<int64_t> ne) const;
};
std::vector<tensor_row> latent_top_tensors(const hparams &h);           // no rope divisors
void latent_attention_tensors(const hparams &h, const row_maker &row);  // and the norm after it
void dense_tensors(const hparams &h, const row_maker &row);

const tensor *latent_rope_table(const build_args &a);
float latent_score_scale(const hparams &h);
// What q_b multiplies, where queries have latents too.
const tensor *query_latents(const build_args &a, int64_t layer, const tensor *y);
// The layer's pages, after writing the latents and rotated keys of y, attention's normed input.
const tensor *latent_pages(const build_args &a, int64_t layer, const tensor *y, const tensor *rope_t);

}  // namespace ds
