// matmul: y[n,m] = residual[n,m] + (x[n,k] w[m,k]^T + bias[m]).
// Invariant: what is summed, and in which order, depends on the weights' format alone (numerics.h): floats in
// the 16 lanes of a dot product, packed formats block by block against activations quantized in blocks of
// that size, I8 in integers over the whole row.
#include "../blocks.h"
#include "../op.h"

namespace ds {

tensor *matmul(graph &g, const tensor *x, const tensor *w, const tensor *bias, const tensor *residual) {
    return g.add(op::matmul, {x, w, bias, residual}, no_params{});
}

void matmul_shape(node &n) {
    const tensor &x = *n.src[0], &w = *n.src[1];
    expect(x.rank == 2 && w.rank == 2 && x.ne[1] == w.ne[1] && x.type == format::f32 && info(w.type).runs, n,
           "needs x[n,k] of f32 and w[m,k]");
    expect(!n.src[2] || (n.src[2]->rank == 1 && n.src[2]->ne[0] == w.ne[0] && n.src[2]->type == format::f32),
           n, "needs bias[m] of f32");
    expect(is_weights(w), n, "needs a scale with i8 weights, and with no others");
    expect_sums_fit(n, w);
    set_out(n, format::f32, {{x.ne[0], w.ne[0]}});
    expect(!n.src[3] || (same_shape(*n.src[3], n.out) && n.src[3]->type == format::f32), n,
           "needs residual[n,m] of f32");
}

template <format f> static void forward_packed(const node &n) {
    constexpr int block = packed<f>::block;
    const tensor &x = *n.src[0], &w = *n.src[1];
    const size_t blocks = static_cast<size_t>(x.ne[1] / block);
    std::vector<int8_t> xq(blocks * block);
    std::vector<float> row, scale(blocks);
    for (int64_t i = 0; i < x.ne[0]; ++i) {
        read_row(x, i, 0, 0, row);
        for (size_t b = 0; b < blocks; ++b) scale[b] = quantize_block(&row[b * block], &xq[b * block], block);
        for (int64_t j = 0; j < w.ne[0]; ++j) {
            const auto *at_j = reinterpret_cast<const uint8_t *>(at(w, j));
            float sum = 0.0f;
            for (size_t b = 0; b < blocks; ++b)
                sum = block_step<f>(at_j + b * info(f).bytes, &xq[b * block], scale[b], sum);
            *f32_at(n.out, i, j) = sum;
        }
    }
}

static void forward_i8(const node &n) {
    const tensor &x = *n.src[0], &w = *n.src[1];
    std::vector<int32_t> xq(static_cast<size_t>(x.ne[1]));
    std::vector<float> row;
    for (int64_t i = 0; i < x.ne[0]; ++i) {
        read_row(x, i, 0, 0, row);
        const row_scale s = row_scale_of(largest_bits(row.data(), row.size()), i8_levels);
        for (size_t k = 0; k < row.size(); ++k) xq[k] = quantize_i8(row[k], s);
        for (int64_t j = 0; j < w.ne[0]; ++j) {
            const auto *wq = reinterpret_cast<const int8_t *>(at(w, j));
            int32_t product = 0;
            for (size_t k = 0; k < xq.size(); ++k) product += wq[k] * xq[k];
            *f32_at(n.out, i, j) = i8_output(product, *f32_at(*w.scale, j), s.scale);
        }
    }
}

static void forward_float(const node &n) {
    const tensor &x = *n.src[0], &w = *n.src[1];
    std::vector<float> a, b;
    for (int64_t j = 0; j < w.ne[0]; ++j) {
        read_row(w, j, 0, 0, b);
        for (int64_t i = 0; i < x.ne[0]; ++i) {
            read_row(x, i, 0, 0, a);
            *f32_at(n.out, i, j) = dot_in_lanes<dot_lanes>(a.data(), b.data(), a.size());
        }
    }
}

void matmul_forward(const node &n) {
    const format w = n.src[1]->type;
    if (w == format::i8) forward_i8(n);
    else if (!with_packed(w, [&](auto tag) { forward_packed<tag.value>(n); })) forward_float(n);
    for (int64_t i = 0; i < n.out.ne[0]; ++i)
        for (int64_t j = 0; j < n.out.ne[1]; ++j) {
            float &y = *f32_at(n.out, i, j);
            if (n.src[2]) y = y + *f32_at(*n.src[2], j);
            if (n.src[3]) y = *f32_at(*n.src[3], i, j) + y;
        }
}

}  // namespace ds
