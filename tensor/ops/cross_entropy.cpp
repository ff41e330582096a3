// cross_entropy: log-probabilities of targets under softmax(x w^T), by rows, without the logits of all rows
// at a time. The logits are matmul's, and the logarithm of their sum is that of sampling (numerics.h): a
// log-probability has the bits that an engine reports. A row whose logits are not finite becomes NaN.
#include "../backward.h"

#include <limits>

namespace ds {

tensor *cross_entropy(graph &g, const tensor *x, const tensor *w, const tensor *targets, bool entropy) {
    return g.add(op::cross_entropy, {x, w, targets}, cross_entropy_params{entropy});
}

static void check(const node &n, const tensor &x, const tensor &w, const tensor *targets) {
    expect(x.rank == 2 && x.type == format::f32 && w.rank == 2 && w.ne[1] == x.ne[1] && is_weights(w), n,
           "needs x[n,d] of f32 and w[v,d]");
    expect_sums_fit(n, w);
    expect(is_list(targets, x.ne[0]), n, "needs targets[n] of i32");
}

void cross_entropy_shape(node &n) {
    check(n, *n.src[0], *n.src[1], n.src[2]);
    set_out(n, format::f32, {{n.src[0]->ne[0], 3}});
}

void cross_entropy_row(const float *logits, int64_t n, int32_t target, bool entropy, float *y) {
    float max = logits[0];
    bool finite = true;
    for (int64_t i = 0; i < n; ++i) {
        finite &= finite_f32(logits[i]);
        max = std::max(max, logits[i]);
    }
    y[0] = y[1] = y[2] = std::numeric_limits<float>::quiet_NaN();
    if (!finite) return;
    int64_t sum = 0;
    for (int64_t i = 0; i < n; ++i) sum += sampling_weight(logits[i], max, 1.0f);
    const double log_sum = log_sum_of(max, sum);
    y[0] = static_cast<float>(logits[target] - log_sum);
    y[2] = static_cast<float>(log_sum);
    float lane[dot_lanes] = {};
    for (int64_t i = 0; entropy && i < n; ++i)
        lane[i % dot_lanes] = lane[i % dot_lanes] + entropy_part(logits[i], y[2]);
    y[1] = fold_lanes<dot_lanes>(lane);
}

// A row's logits, [1, v].
static void logits_of(const tensor &x, int64_t i, const tensor &w, std::vector<float> &logits) {
    tensor row = x, y = make_tensor(format::f32, {1, w.ne[0]});
    row.ne[0] = 1;
    row.data = f32_at(x, i);
    logits.resize(static_cast<size_t>(w.ne[0]));
    y.data = logits.data();
    matmul_forward(product_node(row, w, y));
}

void cross_entropy_forward(const node &n) {
    std::vector<float> logits;
    for (int64_t i = 0; i < n.out.ne[0]; ++i) {
        logits_of(*n.src[0], i, *n.src[1], logits);
        cross_entropy_row(logits.data(), n.src[1]->ne[0], *i32_at(*n.src[2], i),
                          n.as<cross_entropy_params>().entropy, f32_at(n.out, i));
    }
}

// ---- cross_entropy_back: the logits again, then their gradients (cross_entropy_slope), then as matmul_back
// and matmul_back_w. The sum of w's gradients may be absent.

void cross_entropy_grad(backward &b, const node &n, const tensor *dy) {
    b.give(n.src[0],
           b.g.add(op::cross_entropy_back,
                   {dy, &n.out, b.exact(n.src[0]), n.src[1], n.src[2], b.sum_of(n.src[1])}, no_params{}));
}

void cross_entropy_back_shape(node &n) {
    const tensor &x = *n.src[2], &w = *n.src[3], *const sum = n.src[5];
    check(n, x, w, n.src[4]);
    for (int i = 0; i < 2; ++i)
        expect(n.src[i]->rank == 2 && n.src[i]->type == format::f32 && n.src[i]->ne[0] == x.ne[0] &&
                   n.src[i]->ne[1] == 3,
               n, "needs dy[n,3] and y[n,3] of f32");
    expect(!sum || (sum->type == format::f32 && same_shape(*sum, w)), n, "needs sum[v,d] of f32");
    set_out(n, format::f32, {x.ne, 2});
}

void cross_entropy_back_forward(const node &n) {
    const tensor &x = *n.src[2], &w = *n.src[3], *const sum = n.src[5];
    const format f = operand_format(w.type);
    std::vector<float> slopes, row;
    for (int64_t i = 0; i < x.ne[0]; ++i) {
        logits_of(x, i, w, slopes);
        const float *const dy = f32_at(*n.src[0], i), *const y = f32_at(*n.src[1], i);
        for (float &l : slopes) l = cross_entropy_slope(l, y[2], y[1], dy[0], dy[1]);
        float &own = slopes[static_cast<size_t>(*i32_at(*n.src[4], i))];
        own = own + dy[0];
        float *const dx = f32_at(n.out, i);
        std::fill_n(dx, x.ne[1], 0.0f);
        for (int64_t v = 0; v < w.ne[0]; ++v) {
            const float s = operand(f, slopes[static_cast<size_t>(v)]);
            read_row(w, v, 0, 0, row);
            for (int64_t k = 0; k < x.ne[1]; ++k) {
                dx[k] = fma_f32(s, operand(f, row[static_cast<size_t>(k)]), dx[k]);
                if (sum) *f32_at(*sum, v, k) = fma_f32(s, operand(f, *f32_at(x, i, k)), *f32_at(*sum, v, k));
            }
        }
    }
}

}  // namespace ds
