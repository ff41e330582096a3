// matmul: y[n,m] = residual[n,m] + (x[n,k] w[m,k]^T + bias[m]).
// Invariant: what is summed, and in which order, depends on the weights' format alone (numerics.h): floats in
// the 16 lanes of a dot product, packed formats block by block against activations quantized in blocks of
// that size, I8 in integers over the whole row.
#include "../blocks.h"
#include "../backward.h"

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

// ---- Gradients. matmul_back: dx = dy w. matmul_back_w: sum += dy^T x. Both also of head_matmul, a matrix a
// head. bias_back: sum += dy's rows. Every sum is a chain of fma: over m in order, and over the rows in
// order, beginning with what is there. Where w, or x, is in a 16-bit format, dy is rounded to it (numerics.h,
// bf16_operand).

void product_grad(backward &b, const node &n, const tensor *dy) {
    const tensor *const x = n.src[0], *const w = n.src[1];
    if (b.wanted(x)) b.give(x, b.g.add(op::matmul_back, {dy, w}, no_params{}));
    if (const tensor *const sum = b.sum_of(w))
        b.g.add(op::matmul_back_w, {sum, dy, b.factor(x)}, no_params{});
}

void matmul_grad(backward &b, const node &n, const tensor *dy) {
    product_grad(b, n, dy);
    if (const tensor *const sum = n.src[2] ? b.sum_of(n.src[2]) : nullptr)
        b.g.add(op::bias_back, {sum, dy}, no_params{});
    if (n.src[3]) b.give(n.src[3], dy);
}

void matmul_back_shape(node &n) {
    const tensor &dy = *n.src[0], &w = *n.src[1];
    const int r = dy.rank;
    expect(dy.type == format::f32 && (r == 2 || r == 3) && w.rank == r && is_weights(w), n,
           "needs dy[n,(h,)m] of f32 and w[(h,)m,k]");
    expect(dy.ne[r - 1] == w.ne[r - 2] && (r == 2 || dy.ne[1] == w.ne[0]), n,
           "needs dy as wide as w has rows");
    int64_t ne[] = {dy.ne[0], dy.ne[1], dy.ne[2]};
    ne[r - 1] = w.ne[r - 1];
    set_out(n, format::f32, {ne, static_cast<size_t>(r)});
}

void matmul_back_forward(const node &n) {
    const tensor &dy = *n.src[0], &w = *n.src[1];
    const bool heads = dy.rank == 3;
    const format f = operand_format(w.type);
    std::vector<float> row;
    for (int64_t h = 0; h < (heads ? dy.ne[1] : 1); ++h)
        for (int64_t m = 0; m < dy.ne[dy.rank - 1]; ++m) {
            if (heads) read_row(w, h, m, 0, row);
            else read_row(w, m, 0, 0, row);
            for (int64_t i = 0; i < dy.ne[0]; ++i) {
                float *const y = heads ? f32_at(n.out, i, h) : f32_at(n.out, i);
                const float d = operand(f, heads ? *f32_at(dy, i, h, m) : *f32_at(dy, i, m));
                for (size_t k = 0; k < row.size(); ++k)
                    y[k] = fma_f32(d, operand(f, row[k]), m ? y[k] : 0.0f);
            }
        }
}

void matmul_back_w_shape(node &n) {
    const tensor &sum = *n.src[0], &dy = *n.src[1], &x = *n.src[2];
    const int r = dy.rank;
    expect(r == 2 || r == 3, n, "needs dy[n,(h,)m]");
    for (int i = 0; i < 3; ++i)
        expect((i == 2 ? is_float(x.type) : n.src[i]->type == format::f32) && n.src[i]->rank == r, n,
               "needs sum[(h,)m,k] and dy[n,(h,)m] of f32, and x[n,(h,)k] of floats");
    expect(dy.ne[0] == x.ne[0] && sum.ne[r - 2] == dy.ne[r - 1] && sum.ne[r - 1] == x.ne[r - 1], n,
           "needs a sum for each column of dy and of x");
    expect(r == 2 || (dy.ne[1] == x.ne[1] && dy.ne[1] == sum.ne[0]), n, "needs as many heads");
    set_out_in_place(n, sum);
}

void matmul_back_w_forward(const node &n) {
    const tensor &dy = *n.src[1], &x = *n.src[2];
    const bool heads = dy.rank == 3;
    const format f = operand_format(x.type);
    std::vector<float> row;
    for (int64_t i = 0; i < dy.ne[0]; ++i)
        for (int64_t h = 0; h < (heads ? dy.ne[1] : 1); ++h) {
            const float *const a = heads ? f32_at(dy, i, h) : f32_at(dy, i);
            read_row(x, i, heads ? h : 0, 0, row);
            for (float &e : row) e = operand(f, e);
            for (int64_t m = 0; m < dy.ne[dy.rank - 1]; ++m) {
                float *const y = heads ? f32_at(n.out, h, m) : f32_at(n.out, m);
                for (size_t k = 0; k < row.size(); ++k) y[k] = fma_f32(operand(f, a[m]), row[k], y[k]);
            }
        }
}

void bias_back_shape(node &n) {
    const tensor &sum = *n.src[0], &dy = *n.src[1];
    expect(dy.rank == 2 && dy.type == format::f32 && sum.rank == 1 && sum.type == format::f32 &&
               sum.ne[0] == dy.ne[1],
           n, "needs sum[m] and dy[n,m] of f32");
    set_out_in_place(n, sum);
}

void bias_back_forward(const node &n) {
    const tensor &dy = *n.src[1];
    for (int64_t i = 0; i < dy.ne[0]; ++i)
        for (int64_t j = 0; j < dy.ne[1]; ++j) *f32_at(n.out, j) = *f32_at(n.out, j) + *f32_at(dy, i, j);
}

}  // namespace ds
