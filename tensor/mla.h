// How mla_attention divides a step's rows between its two forms, for whoever runs it.
#pragma once

#include "op.h"

namespace ds {

// Of a head: elements of a latent, of a key's two parts, and of a value.
struct mla_sizes {
    int64_t heads, latent, nope, rope, value;

    explicit mla_sizes(const node &n) : heads(n.src[0]->ne[1]), latent(n.src[2]->ne[1]), nope(n.src[0]->ne[2]), rope(n.src[1]->ne[2]), value(n.src[3]->ne[1]) {}
    int64_t key() const { return nope + rope; }
    // What the expanded form multiplies for a row and one of its positions, and once for a position.
    int64_t expanded_pair() const { return key() + value; }
    int64_t expansion() const { return latent * (nope + value); }
};

inline int64_t mla_positions(const node &n, int64_t row) { return *i32_at(*n.src[7], row) + 1; }
// Of rows and positions that they see.
int64_t mla_pairs(const node &n, int64_t begin, int64_t end);

// Rows [begin, end): a run of one sequence's positions, one after the other, that is expanded; or rows of any sequences that are not.
struct mla_stretch {
    int64_t begin, end;
    bool expanded;
};
// The longest from `begin` on, which is below the number of rows.
mla_stretch mla_stretch_at(const node &n, int64_t begin);

// The absorbed form of rows [begin, end): three operations outside any graph, to be run in this order; n must outlive them. What lies between them is in
// `scratch`, of `bytes`.
struct mla_absorbed {
    tensor q, q_rope, sequence, position;
    node ops[3];

    mla_absorbed(const node &n, int64_t begin, int64_t end, char *scratch);
    mla_absorbed(const mla_absorbed &) = delete;
    static size_t bytes(const node &n, int64_t rows);
};

} // namespace ds
