// Adapters (LoRA, arXiv 2106.09685). lora: y += scale * b (a x), in place, for rows of several adapters and
// of none; this is how an engine runs them. add_scaled: y = a + scale * b; with two matmuls the same as
// lora's, one adapter for all rows; this is how a trainer runs them, since each has a gradient. Invariant:
// both give the same bits: products are matmul's of f32, and are added by one fma an element.
#include "../backward.h"

namespace ds {

tensor *lora(graph &g, const tensor *x, const tensor *y, const tensor *slots, const tensor *sequence,
             const lora_params &p) {
    return g.add(op::lora, {x, y, slots, sequence}, p);
}
tensor *add_scaled(graph &g, const tensor *a, const tensor *b, float scale) {
    return g.add(op::add_scaled, {a, b}, add_scaled_params{scale});
}

void lora_shape(node &n) {
    const tensor &x = *n.src[0], &y = *n.src[1], &slots = *n.src[2];
    expect(x.rank == 2 && y.rank == 2 && x.ne[0] == y.ne[0] && x.type == format::f32 && y.type == format::f32,
           n, "needs x[n,k] and y[n,m] of f32");
    expect(slots.rank == 2 && slots.type == format::i8 && contiguous(slots) &&
               slots.ne[1] == static_cast<int64_t>(sizeof(lora_slot)),
           n, "needs slots[s] as bytes");
    expect(is_list(n.src[3], x.ne[0]), n, "needs sequence[n] of i32");
    const lora_params &p = n.as<lora_params>();
    expect(p.matrix >= 0 && p.rank >= 1, n, "needs a matrix and its rank");
    set_out_in_place(n, y);
}

lora_row lora_of(const node &n, int64_t row) {
    const lora_slot &slot = static_cast<const lora_slot *>(n.src[2]->data)[*i32_at(*n.src[3], row)];
    const lora_matrix *const m = slot.matrices ? slot.matrices + n.as<lora_params>().matrix : nullptr;
    if (!m || !m->a) return {nullptr, 0};
    return {m, slot.scale * m->scale};
}

void lora_forward(const node &n) {
    const tensor &x = *n.src[0], &y = n.out;
    for (int64_t i = 0; i < x.ne[0]; ++i) {
        const auto [m, scale] = lora_of(n, i);
        if (!m) continue;
        const auto k = static_cast<size_t>(x.ne[1]), rank = static_cast<size_t>(m->rank);
        std::vector<float> h(rank);
        for (size_t r = 0; r < rank; ++r) h[r] = dot_in_lanes<dot_lanes>(f32_at(x, i), m->a + r * k, k);
        for (int64_t j = 0; j < y.ne[1]; ++j) {
            const float z = dot_in_lanes<dot_lanes>(h.data(), m->b + static_cast<size_t>(j) * rank, rank);
            *f32_at(y, i, j) = fma_f32(scale, z, *f32_at(y, i, j));
        }
    }
}

void add_scaled_shape(node &n) {
    const tensor *const a = n.src[0], &b = *n.src[1];
    expect(b.rank == 2 && b.type == format::f32, n, "needs b[n,m] of f32");
    expect(!a || (same_shape(*a, b) && a->type == format::f32), n, "needs a and b of one shape");
    set_out(n, format::f32, {b.ne, static_cast<size_t>(b.rank)});
}

void add_scaled_forward(const node &n) {
    const tensor *const a = n.src[0], &b = *n.src[1];
    const float scale = n.as<add_scaled_params>().scale;
    for (int64_t i = 0; i < b.ne[0]; ++i)
        for (int64_t j = 0; j < b.ne[1]; ++j)
            *f32_at(n.out, i, j) =
                a ? fma_f32(scale, *f32_at(b, i, j), *f32_at(*a, i, j)) : scale * *f32_at(b, i, j);
}

void add_scaled_grad(backward &b, const node &n, const tensor *dy) {
    if (n.src[0]) b.give(n.src[0], dy);
    if (b.wanted(n.src[1])) b.give(n.src[1], add_scaled(b.g, nullptr, dy, n.as<add_scaled_params>().scale));
}

}  // namespace ds
