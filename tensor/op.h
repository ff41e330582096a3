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
    tensor *name##_expand(graph &g, const node &n);  // defined where ops.def's column fused says yes
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

// For routers. The index of the largest, the first on a tie.
inline int64_t best_of(const float *x, int64_t n) {
    int64_t best = 0;
    for (int64_t i = 1; i < n; ++i)
        if (x[i] > x[best]) best = i;
    return best;
}
void softmax_row(const float *logits, int64_t n, float *y);  // of finite logits

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

inline void set_out(node &n, format type, std::span<const int64_t> ne) { n.out = make_tensor(type, ne); }

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
