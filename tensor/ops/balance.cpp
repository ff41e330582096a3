// balance: how unevenly heads are chosen, a loss of the router's logits: e times the sum over the heads of
// f_i, the head's share of all choices, a constant for the gradient, and P_i, its mean probability. The
// gradient of a logit is that of softmax, from the probabilities' dy * e * f_i / n.
#include "../backward.h"

namespace ds {

tensor *balance(graph &g, const tensor *logits, const tensor *route, int32_t shared) {
    return g.add(op::balance, {logits, route}, balance_params{shared});
}

static void check(const node &n, const tensor &logits, const tensor &route) {
    const int32_t shared = n.as<balance_params>().shared;
    expect(logits.rank == 2 && logits.type == format::f32, n, "needs logits[n,e] of f32");
    expect(is_route(route, logits.ne[0]) && shared >= 0 && route.ne[2] > shared, n,
           "needs route[n,2,s+k] of f32");
}

void balance_shape(node &n) {
    check(n, *n.src[0], *n.src[1]);
    set_out(n, format::f32, {{1}});
}

std::vector<float> shares_of(const tensor &logits, const tensor &route, int64_t shared) {
    std::vector<float> f(static_cast<size_t>(logits.ne[1]));
    for (int64_t i = 0; i < route.ne[0]; ++i)
        for (int64_t r = shared; r < route.ne[2]; ++r)
            ++f[static_cast<size_t>(routed_to(route, i, r) - shared)];
    const auto all = static_cast<float>(route.ne[0] * (route.ne[2] - shared));
    for (float &x : f) x = x / all;
    return f;
}

void balance_forward(const node &n) {
    const tensor &logits = *n.src[0];
    const std::vector<float> f = shares_of(logits, *n.src[1], n.as<balance_params>().shared);
    std::vector<float> row, p(f.size()), mean(f.size());
    for (int64_t i = 0; i < logits.ne[0]; ++i) {
        read_row(logits, i, 0, 0, row);
        softmax_row(row.data(), logits.ne[1], p.data());
        for (size_t e = 0; e < p.size(); ++e) mean[e] = mean[e] + p[e];
    }
    float sum = 0.0f;
    for (size_t e = 0; e < f.size(); ++e)
        sum = fma_f32(f[e], mean[e] / static_cast<float>(logits.ne[0]), sum);
    *f32_at(n.out, 0) = sum * static_cast<float>(logits.ne[1]);
}

void balance_grad(backward &b, const node &n, const tensor *dy) {
    b.give(n.src[0],
           b.g.add(op::balance_back, {dy, b.exact(n.src[0]), b.exact(n.src[1])}, n.as<balance_params>()));
}

void balance_back_shape(node &n) {
    const tensor &dy = *n.src[0];
    expect(dy.rank == 1 && dy.ne[0] == 1 && dy.type == format::f32, n, "needs dy[1] of f32");
    check(n, *n.src[1], *n.src[2]);
    set_out(n, format::f32, {n.src[1]->ne, 2});
}

void balance_back_forward(const node &n) {
    const tensor &logits = *n.src[1];
    std::vector<float> f = shares_of(logits, *n.src[2], n.as<balance_params>().shared), row, p(f.size());
    const float factor =
        *f32_at(*n.src[0], 0) * static_cast<float>(logits.ne[1]) / static_cast<float>(logits.ne[0]);
    for (float &x : f) x = x * factor;
    for (int64_t i = 0; i < logits.ne[0]; ++i) {
        read_row(logits, i, 0, 0, row);
        softmax_row(row.data(), logits.ne[1], p.data());
        softmax_back_row(p.data(), f.data(), logits.ne[1], f32_at(n.out, i));
    }
}

}  // namespace ds
