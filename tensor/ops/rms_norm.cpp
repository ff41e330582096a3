// rms_norm: y = x / sqrt(mean(x^2) + eps) * w over the last dimension (arXiv 1910.07467); of x[n,d], or of
// each head of x[n,h,d].
#include "../backward.h"

namespace ds {

tensor *rms_norm(graph &g, const tensor *x, const tensor *w, float eps) {
    return g.add(op::rms_norm, {x, w}, rms_norm_params{eps});
}

void rms_norm_shape(node &n) {
    const tensor &x = *n.src[0], &w = *n.src[1];
    expect(x.rank >= 2 && x.rank <= 3 && x.type == format::f32, n, "needs x[..,d] of f32");
    expect(w.rank == 1 && w.ne[0] == x.ne[x.rank - 1] && w.type == format::f32, n, "needs w[d] of f32");
    set_out(n, format::f32, {x.ne, static_cast<size_t>(x.rank)});
}

void rms_norm_forward(const node &n) {
    const tensor &x = *n.src[0];
    const int64_t d = x.ne[x.rank - 1], middle = x.rank == 3 ? x.ne[1] : 1;
    std::vector<float> row, w;
    read_row(*n.src[1], 0, 0, 0, w);
    for (int64_t i = 0; i < x.ne[0]; ++i)
        for (int64_t j = 0; j < middle; ++j) {
            read_row(x, i, x.rank == 3 ? j : 0, 0, row);
            const float factor = rms_factor(dot_in_lanes<sum_lanes>(row.data(), row.data(), row.size()), d,
                                            n.as<rms_norm_params>().eps);
            float *y = f32_at(n.out, i, x.rank == 3 ? j : 0);
            for (int64_t k = 0; k < d; ++k) y[k] = (row[k] * factor) * w[k];
        }
}

// ---- Gradients (numerics.h, rms_norm_back_step)

void give_norm_gradients(backward &b, const tensor *x, const tensor *w, const rms_norm_params &p,
                         const tensor *dy) {
    const tensor *const value = b.value(x);
    if (b.wanted(x)) b.give(x, b.g.add(op::rms_norm_back, {dy, value, w}, p));
    if (const tensor *const sum = b.sum_of(w)) b.g.add(op::rms_norm_back_w, {sum, dy, value}, p);
}

void rms_norm_grad(backward &b, const node &n, const tensor *dy) {
    give_norm_gradients(b, n.src[0], n.src[1], n.as<rms_norm_params>(), dy);
}

static bool are_rows(const tensor &dy, const tensor &x) {
    return x.rank >= 2 && x.rank <= 3 && same_shape(dy, x) && x.type == format::f32 && dy.type == format::f32;
}

void rms_norm_back_shape(node &n) {
    const tensor &x = *n.src[1], &w = *n.src[2];
    expect(are_rows(*n.src[0], x), n, "needs dy[..,d] and x[..,d] of f32");
    expect(w.rank == 1 && w.ne[0] == x.ne[x.rank - 1] && w.type == format::f32, n, "needs w[d] of f32");
    set_out(n, format::f32, {x.ne, static_cast<size_t>(x.rank)});
}

// f(row of dy, row of x, i, j)
template <class F> static void each_row(const tensor &dy, const tensor &x, const F &f) {
    const bool heads = x.rank == 3;
    std::vector<float> d, row;
    for (int64_t i = 0; i < x.ne[0]; ++i)
        for (int64_t j = 0; j < (heads ? x.ne[1] : 1); ++j) {
            read_row(dy, i, heads ? j : 0, 0, d);
            read_row(x, i, heads ? j : 0, 0, row);
            f(d, row, i, heads ? j : 0);
        }
}
static float factor_of(const std::vector<float> &x, float eps) {
    return rms_factor(dot_in_lanes<sum_lanes>(x.data(), x.data(), x.size()), static_cast<int64_t>(x.size()),
                      eps);
}

void rms_norm_back_forward(const node &n) {
    const float eps = n.as<rms_norm_params>().eps;
    std::vector<float> w;
    read_row(*n.src[2], 0, 0, 0, w);
    each_row(*n.src[0], *n.src[1], [&](const auto &dy, const auto &x, int64_t i, int64_t j) {
        const float factor = factor_of(x, eps);
        std::vector<float> t(x.size());
        for (size_t k = 0; k < x.size(); ++k) t[k] = dy[k] * w[k];
        const float c = rms_norm_back_scale(dot_in_lanes<sum_lanes>(t.data(), x.data(), x.size()),
                                            static_cast<int64_t>(x.size()), factor);
        float *const y = f32_at(n.out, i, j);
        for (size_t k = 0; k < x.size(); ++k) y[k] = rms_norm_back_step(t[k], x[k], factor, c);
    });
}

void rms_norm_back_w_shape(node &n) {
    const tensor &sum = *n.src[0], &x = *n.src[2];
    expect(are_rows(*n.src[1], x), n, "needs dy[..,d] and x[..,d] of f32");
    expect(sum.rank == 1 && sum.ne[0] == x.ne[x.rank - 1] && sum.type == format::f32, n,
           "needs sum[d] of f32");
    set_out_in_place(n, sum);
}

void rms_norm_back_w_forward(const node &n) {
    const float eps = n.as<rms_norm_params>().eps;
    each_row(*n.src[1], *n.src[2], [&](const auto &dy, const auto &x, int64_t, int64_t) {
        const float factor = factor_of(x, eps);
        float *const sum = f32_at(n.out, 0);
        for (size_t k = 0; k < x.size(); ++k) sum[k] = fma_f32(dy[k], x[k] * factor, sum[k]);
    });
}

}  // namespace ds
