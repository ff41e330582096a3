// router: chooses each row's experts and their weights (router_params), one row at a time, in one order.
// Selection is by comparison alone, so a tie goes to the lowest index everywhere.
#include "../backward.h"

#include <limits>

namespace ds {

tensor *router(graph &g, const tensor *logits, const tensor *bias, const router_params &p) {
    return g.add(op::router, {logits, bias}, p);
}

void router_shape(node &n) {
    const tensor &l = *n.src[0];
    const router_params &p = n.as<router_params>();
    expect(l.rank == 2 && l.type == format::f32, n, "needs logits[n,e] of f32");
    expect(!n.src[1] || (n.src[1]->rank == 1 && n.src[1]->type == format::f32 && n.src[1]->ne[0] == l.ne[1]),
           n, "needs bias[e] of f32");
    expect(p.groups >= 1 && l.ne[1] % p.groups == 0 && p.groups_used >= 1 && p.groups_used <= p.groups, n,
           "needs equal groups");
    expect(p.used >= 1 && p.used <= l.ne[1] / p.groups * p.groups_used, n,
           "needs as many experts as are used");
    set_out(n, format::f32, {{l.ne[0], 2, p.used}});
}

// The rank of experts already chosen, and of those of dropped groups.
static constexpr float never = -std::numeric_limits<float>::infinity();

void softmax_row(const float *logits, int64_t n, float *y) {
    if (!std::all_of(logits, logits + n, finite_f32)) {
        std::fill_n(y, n, std::numeric_limits<float>::quiet_NaN());
        return;
    }
    const float max = logits[best_of(logits, n)];
    int64_t sum = 0;
    for (int64_t i = 0; i < n; ++i) sum += attention_share(y[i] = exp_f32(logits[i] - max));
    const float whole = static_cast<float>(sum) * 0x1p-30f;
    for (int64_t i = 0; i < n; ++i) y[i] = y[i] / whole;
}

static void scores_of(const float *logits, int64_t n, bool sigmoid, float *score) {
    if (!sigmoid) return softmax_row(logits, n, score);
    for (int64_t i = 0; i < n; ++i) score[i] = sigmoid_f32(logits[i]);
}

// A group's value: its best rank, or the sum of its two best. The second best may be `never`.
static float worth_of(const float *rank, int64_t n, bool two) {
    const int64_t best = best_of(rank, n);
    if (!two || n < 2) return rank[best];
    float second = never;
    for (int64_t i = 0; i < n; ++i)
        if (i != best && rank[i] > second) second = rank[i];
    return rank[best] + second;
}

// Drops all but the best groups' ranks. A group stays if fewer than groups_used others are better: larger, or
// equal and earlier.
static void drop_groups(float *rank, int64_t n, const router_params &p, float *worth) {
    const int64_t size = n / p.groups;
    for (int32_t g = 0; g < p.groups; ++g) worth[g] = worth_of(rank + g * size, size, p.sigmoid);
    for (int32_t g = 0; g < p.groups; ++g) {
        int32_t better = 0;
        for (int32_t o = 0; o < p.groups; ++o)
            better += worth[o] > worth[g] || (worth[o] == worth[g] && o < g);
        if (better >= p.groups_used) std::fill_n(rank + g * size, size, never);
    }
}

void route_row(const float *logits, const float *bias, int64_t n, const router_params &p, float *scratch,
               float *y) {
    float *score = scratch, *rank = scratch + n, *weight = y + p.used;
    bool finite = true;
    for (int64_t i = 0; i < n; ++i) finite &= finite_f32(logits[i]);
    if (!finite) {
        for (int32_t i = 0; i < p.used; ++i)
            y[i] = static_cast<float>(i), weight[i] = std::numeric_limits<float>::quiet_NaN();
        return;
    }
    scores_of(logits, n, p.sigmoid, score);
    for (int64_t i = 0; i < n; ++i) rank[i] = bias ? score[i] + bias[i] : score[i];
    if (p.groups_used < p.groups) drop_groups(rank, n, p, scratch + 2 * n);
    float sum = 0.0f;
    for (int32_t i = 0; i < p.used; ++i) {
        const int64_t e = best_of(rank, n);
        rank[e] = never;
        y[i] = static_cast<float>(e);
        weight[i] = score[e];
        sum = sum + score[e];
    }
    for (int32_t i = 0; i < p.used; ++i)
        weight[i] = (p.normalise ? weight[i] / (sum + 1e-20f) : weight[i]) * p.scale;
}

void router_forward(const node &n) {
    const router_params &p = n.as<router_params>();
    const int64_t experts = n.src[0]->ne[1];
    std::vector<float> logits, bias, scratch(static_cast<size_t>(3 * experts));
    if (n.src[1]) read_row(*n.src[1], 0, 0, 0, bias);
    for (int64_t i = 0; i < n.out.ne[0]; ++i) {
        read_row(*n.src[0], i, 0, 0, logits);
        route_row(logits.data(), n.src[1] ? bias.data() : nullptr, experts, p, scratch.data(),
                  f32_at(n.out, i));
    }
}

// ---- The gradient goes through the scores of the chosen experts and, where they are normalised, their sum;
// the choice is a constant

void softmax_back_row(const float *y, const float *dy, int64_t n, float *dx) {
    float sum = 0.0f;
    for (int64_t i = 0; i < n; ++i) sum = fma_f32(dy[i], y[i], sum);
    for (int64_t i = 0; i < n; ++i) dx[i] = y[i] * (dy[i] - sum);
}

void router_grad(backward &b, const node &n, const tensor *dy) {
    b.give(n.src[0], b.g.add(op::router_back, {dy, b.exact(n.src[0]), b.exact(&n.out), n.src[1]},
                             n.as<router_params>()));
}

void router_back_shape(node &n) {
    const tensor &dy = *n.src[0], &l = *n.src[1];
    const int64_t used = n.as<router_params>().used;
    expect(l.rank == 2 && l.type == format::f32, n, "needs logits[n,e] of f32");
    for (int i = 0; i < 3; i += 2)
        expect(is_route(*n.src[i], l.ne[0]) && n.src[i]->ne[2] == used && used <= l.ne[1], n,
               "needs dy[n,2,k] and route[n,2,k] of f32");
    expect(contiguous(dy), n, "needs contiguous dy");
    set_out(n, format::f32, {l.ne, 2});
}

void route_back_row(const float *logits, const float *route, const float *dy, int64_t n,
                    const router_params &p, float *scratch, float *y) {
    float *const score = scratch, *const by = scratch + n;
    const float *const weight_by = dy + p.used;
    scores_of(logits, n, p.sigmoid, score);
    std::fill_n(by, n, 0.0f);
    float sum = 0.0f, dot = 0.0f;
    for (int32_t i = 0; i < p.used; ++i) sum = sum + score[static_cast<int64_t>(route[i])];
    const float whole = sum + 1e-20f;
    for (int32_t i = 0; i < p.used; ++i)
        dot = fma_f32(weight_by[i] * p.scale, score[static_cast<int64_t>(route[i])] / whole, dot);
    for (int32_t i = 0; i < p.used; ++i) {
        const float g = weight_by[i] * p.scale;
        by[static_cast<int64_t>(route[i])] = p.normalise ? (g - dot) / whole : g;
    }
    if (!p.sigmoid) return softmax_back_row(score, by, n, y);
    for (int64_t i = 0; i < n; ++i) y[i] = (by[i] * score[i]) * (1.0f - score[i]);
}

void router_back_forward(const node &n) {
    const int64_t e = n.out.ne[1];
    std::vector<float> logits, scratch(static_cast<size_t>(2 * e));
    for (int64_t i = 0; i < n.out.ne[0]; ++i) {
        read_row(*n.src[1], i, 0, 0, logits);
        route_back_row(logits.data(), f32_at(*n.src[2], i), f32_at(*n.src[0], i), e, n.as<router_params>(),
                       scratch.data(), f32_at(n.out, i));
    }
}

}  // namespace ds
