// How mla_attention divides a step's rows between its absorbed and its expanded form, for all that run it.
#pragma once

#include "blocks.h"
#include "op.h"

namespace ds {

// Heads, and per head the elements of a latent, of a key's two parts (nope, rope) and of a value.
struct mla_sizes {
    int64_t heads, latent, nope, rope, value;
    bool packed;  // the weights

    explicit mla_sizes(const node &n)
        : heads(n.src[0]->ne[1]), latent(n.src[2]->ne[1]), nope(n.src[0]->ne[2]), rope(n.src[1]->ne[2]),
          value(n.src[3]->ne[1]), packed(is_packed(n.src[2]->type)) {}
    int64_t key() const { return nope + rope; }
};

inline int64_t mla_positions(const node &n, int64_t row) { return *i32_at(*n.src[7], row) + 1; }

// Work per head in each form, in products of floats, for `rows` rows of one sequence that see `positions`
// positions, `pairs` (row, position) in all. The constants beside the shapes were measured.
struct mla_rows {
    int64_t rows, positions, pairs;
};
mla_rows mla_rows_of(const node &n, int64_t begin, int64_t end);
int64_t mla_absorbed_work(const mla_sizes &s, const mla_rows &r);
int64_t mla_expanded_work(const mla_sizes &s, const mla_rows &r);

// Rows [begin, end): consecutive positions of one sequence, expanded; or rows of any sequences, absorbed.
struct mla_stretch {
    int64_t begin, end;
    bool expanded;
};
// The longest stretch from `begin`, which is below the number of rows.
mla_stretch mla_stretch_at(const node &n, int64_t begin);

// The absorbed form of rows [begin, end): three operations outside any graph, run in this order; n must
// outlive them. `scratch`, of `bytes`, holds the results between them; null if only shapes are needed.
struct mla_absorbed {
    tensor q, q_rope, sequence, position;
    node ops[3];

    mla_absorbed(const node &n, int64_t begin, int64_t end, char *scratch);
    mla_absorbed(const mla_absorbed &) = delete;
    static size_t bytes(const node &n, int64_t rows);
};

}  // namespace ds
