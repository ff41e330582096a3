// For ops/<name>.cpp: checks of a shape rule, and reading a tensor of any format and stride one element at a
// time.
#pragma once

#include "numerics.h"
#include "ops.h"

#include <algorithm>

namespace ds {

#define DS_OP(name, ...)                                                                                     \
    void name##_shape(node &n);                                                                              \
    void name##_forward(const node &n);                                                                      \
    tensor *name##_expand(graph &g, const node &n); /* defined where ops.def's column fused says yes */      \
    void name##_grad(backward &b, const node &n, const tensor *dy);  // and where its column grad does
#include "ops.def"
#undef DS_OP

// A shape rule's refusal. Shapes come from the architectures, which have checked the file, so a refusal is a
// bug of the library; the message names it.
inline void expect(bool ok, const node &n, const char *what) {
    if (ok) return;
    std::string text = std::string(info(n.kind).name) + ": " + what + " (";
    for (const tensor *s : n.src) text += s ? shape_text(*s) + " " : "- ";
    throw error(status::internal, text + ")");
}

// A sum of gradients, which an operation adds to in place.
inline void set_out_in_place(node &n, const tensor &sum) {
    n.out = sum;
    n.out.base = sum.base ? sum.base : &sum;
}

inline bool is_list(const tensor *t, int64_t n) {
    return t->rank == 1 && t->type == format::i32 && t->ne[0] == n;
}

// What products take as weights: a format that runs, with scales if it is i8, and then in rows whose sums
// fit.
inline bool is_weights(const tensor &w) {
    return info(w.type).runs && (w.type == format::i8) == (w.scale != nullptr);
}
inline void expect_sums_fit(const node &n, const tensor &w) {
    expect(w.type != format::i8 || w.ne[w.rank - 1] <= i8_most_columns, n,
           "needs rows of i8 of at most 132104 elements");
}

// A router's result for n rows: indices, none of them twice in a row, then weights.
inline bool is_route(const tensor &t, int64_t n) {
    return t.rank == 3 && t.type == format::f32 && t.ne[0] == n && t.ne[1] == 2;
}
inline int64_t routed_to(const tensor &route, int64_t row, int64_t rank) {
    return static_cast<int64_t>(*f32_at(route, row, 0, rank));
}

// Of gradients' products with a matrix of this format: what both operands are rounded to (numerics.h).
inline format operand_format(format w) { return w == format::bf16 || w == format::f16 ? w : format::f32; }
inline float operand(format f, float x) {
    return f == format::bf16 ? bf16_operand(x) : f == format::f16 ? f16_to_f32(f32_to_f16(x)) : x;
}
inline bool is_float(format f) { return f == format::f32 || operand_format(f) == f; }

// Where a rank's part of a row of x[n,h*d] begins: at the first element if there is one part.
inline const float *routed_part(const tensor &x, const tensor &route, int64_t row, int64_t rank, int64_t d) {
    return f32_at(x, row, x.ne[1] == d ? 0 : routed_to(route, row, rank) * d);
}

// For routers. The index of the largest, the first on a tie.
inline int64_t best_of(const float *x, int64_t n) {
    int64_t best = 0;
    for (int64_t i = 1; i < n; ++i)
        if (x[i] > x[best]) best = i;
    return best;
}
void softmax_row(const float *logits, int64_t n, float *y);  // NaN if a logit is not finite
// Gradients, of softmax from its result; of one row of router and head_router, from their sources, their
// results and these' gradients. scratch: [2 * n], and 2 * shared_count more.
void softmax_back_row(const float *y, const float *dy, int64_t n, float *dx);
void route_back_row(const float *logits, const float *route, const float *dy, int64_t n,
                    const router_params &p, float *scratch, float *y);
void route_heads_back(const float *logits, int64_t n, const float *shared, int64_t shared_count,
                      const float *mix, int32_t chosen, const float *route, const float *dy, float *scratch,
                      float *y);

// A matrix of rank 3 as `i` of its outermost dimension; `scale` is for the scales that those of i8 have.
inline tensor matrix_of(const tensor &t, int64_t i, tensor &scale) {
    tensor m = make_tensor(t.type, {t.ne[1], t.ne[2]});
    m.stride[0] = t.stride[1];
    m.data = at(t, i);
    if (!t.scale) return m;
    scale = make_tensor(format::f32, {t.ne[1]});
    scale.data = f32_at(*t.scale, i);
    m.scale = &scale;
    return m;
}

// Head `h` of x[n,h,d] as rows [n,d].
inline tensor head_of(const tensor &x, int64_t h) {
    tensor t = make_tensor(x.type, {x.ne[0], x.ne[2]});
    t.stride[0] = x.stride[0];
    t.data = at(x, 0, h);
    return t;
}

// y = rms_norm(x[n,d]) * w[d], rms_norm's result, outside any graph; x must outlive it.
inline node norm_node(const tensor &x, const tensor &w, float eps, const tensor &y) {
    node n{};
    n.kind = op::rms_norm;
    n.out = y;
    n.src[0] = &x;
    n.src[1] = &w;
    const rms_norm_params p{eps};
    std::memcpy(n.params, &p, sizeof p);
    return n;
}

// A matmul outside any graph, as a part of another operation; x and w must outlive it.
inline node product_node(const tensor &x, const tensor &w, const tensor &y) {
    node n{};
    n.kind = op::matmul;
    n.out = y;
    n.src[0] = &x;
    n.src[1] = &w;
    return n;
}

// The layer's keys and values lie within a page, and the sums over a head of i8 fit.
inline bool fits_pages(const kv_layout &l, const tensor &pages) {
    if (pages.rank != 2 || pages.type != format::i8 || l.kv_heads < 1 || l.head_size < 1) return false;
    if (l.type == format::i8 && std::max(l.head_size, l.rope_size) > i8_most_head) return false;
    if (l.rope_size < 0 ||
        (l.rope_size > 0 &&
         (l.kv_heads != 1 || l.v_offset != l.k_offset + static_cast<int64_t>(l.k_bytes()))))
        return false;
    const int64_t k_end = l.k_offset + static_cast<int64_t>(l.k_bytes()),
                  v_end = l.v_offset + static_cast<int64_t>(l.v_bytes());
    return std::min(l.k_offset, l.v_offset) >= 0 && std::max(k_end, v_end) <= pages.ne[1];
}

// What attention_back's result is made of: for each row heads * value, heads * rope, then key and value of
// each key head, keys first; of latents one key, whose first part is the value.
struct attention_back_sizes {
    int64_t heads, kv_heads, value, rope, key;
    explicit attention_back_sizes(const node &n);
    int64_t keys_at() const { return heads * key; }
    int64_t width() const { return keys_at() + (rope ? key : kv_heads * (key + value)); }
};
// Of attention_back's node: the key and the value at position t of row i's sequence, as f32.
void read_page_vectors(const node &n, int64_t i, int64_t head, int64_t t, float *key, float *value);
// The first row after those of the sequence that row `begin` is of.
int64_t sequence_end(const tensor &sequence, int64_t begin);

// Of adamw's node: elements [first, first + count), at most a block from its start, as floats; v is
// overwritten by its roots.
void read_adamw_states(const node &n, int64_t first, int64_t count, float *w, float *m, float *v);
void write_adamw_states(const node &n, int64_t first, int64_t count, const float *w, const float *m,
                        float *v);

// Of lora's node: a row's matrix, null if it has none, and the factor of what is added.
struct lora_row {
    const lora_matrix *m;
    float scale;
};
lora_row lora_of(const node &n, int64_t row);

inline void set_out(node &n, format type, std::span<const int64_t> ne) { n.out = make_tensor(type, ne); }

// One row of cross_entropy: y gets the target's log-probability, the entropy or 0, and the logarithm of the
// sum.
void cross_entropy_row(const float *logits, int64_t n, int32_t target, bool entropy, float *y);

inline float apply(unary f, float x) {
    switch (f) {
#define DS_UNARY(name, formula, derivative)                                                                  \
    case unary::name:                                                                                        \
        return formula;
#include "unary.def"
#undef DS_UNARY
    }
    return x;
}

inline float slope(unary f, float x) {
    switch (f) {
#define DS_UNARY(name, formula, derivative)                                                                  \
    case unary::name:                                                                                        \
        return derivative;
#include "unary.def"
#undef DS_UNARY
    }
    return x;
}

// One row along the last dimension, as f32; i8 weights are multiplied by their row's scale.
inline void read_row(const tensor &t, int64_t i0, int64_t i1, int64_t i2, std::vector<float> &row) {
    const int64_t n = t.ne[t.rank - 1];
    row.resize(static_cast<size_t>(n));
    decode_row(t.type, at(t, i0, i1, i2), row.data(), row.size());
    if (!t.scale) return;
    const float scale = *f32_at(*t.scale, i0, i1);
    for (float &x : row) x = x * scale;
}

}  // namespace ds
