// head_router: the active attention heads of each row and their weights (head_router_params), one row at a
// time, in one order. Shared heads come first, in the order of their indices, then the chosen ones.
#include "../backward.h"

#include <limits>

namespace ds {

tensor *head_router(graph &g, const tensor *logits, const tensor *shared, const tensor *mix, int32_t chosen) {
    return g.add(op::head_router, {logits, shared, mix}, head_router_params{chosen});
}

void head_router_shape(node &n) {
    const tensor &l = *n.src[0], *const shared = n.src[1], &mix = *n.src[2];
    const int32_t chosen = n.as<head_router_params>().chosen;
    expect(l.rank == 2 && l.type == format::f32, n, "needs logits[n,e] of f32");
    expect(!shared || (shared->rank == 2 && shared->type == format::f32 && shared->ne[0] == l.ne[0]), n,
           "needs shared[n,s] of f32");
    expect(mix.rank == 2 && mix.type == format::f32 && mix.ne[0] == l.ne[0] && mix.ne[1] == 2, n,
           "needs mix[n,2] of f32");
    expect(chosen >= 1 && chosen <= l.ne[1], n, "needs as many heads as are chosen");
    set_out(n, format::f32, {{l.ne[0], 2, (shared ? shared->ne[1] : 0) + chosen}});
}

static bool all_finite(const float *x, int64_t n) {
    return std::all_of(x, x + n, [](float v) { return finite_f32(v); });
}

void route_heads(const float *logits, int64_t n, const float *shared, int64_t shared_count, const float *mix,
                 int32_t chosen, float *scratch, float *y) {
    const int64_t active = shared_count + chosen;
    float *const p = scratch, *const rank = scratch + n, *const share = scratch + 2 * n;
    float *const weight = y + active;
    for (int64_t i = 0; i < active; ++i) y[i] = static_cast<float>(i);
    if (!all_finite(logits, n) || !all_finite(shared, shared_count) || !all_finite(mix, 2)) {
        std::fill_n(weight, active, std::numeric_limits<float>::quiet_NaN());
        return;
    }
    float parts[2];
    softmax_row(mix, 2, parts);
    const float of_shared = 2.0f * parts[0], of_chosen = 2.0f * parts[1];
    if (shared_count) softmax_row(shared, shared_count, share);
    for (int64_t i = 0; i < shared_count; ++i)
        weight[i] = (static_cast<float>(shared_count) * share[i]) * of_shared;
    softmax_row(logits, n, p);
    std::copy_n(p, n, rank);
    float sum = 0.0f;
    for (int64_t i = shared_count; i < active; ++i) {
        const int64_t head = best_of(rank, n);
        rank[head] = -1.0f;  // less than any p
        y[i] = static_cast<float>(shared_count + head);
        weight[i] = p[head];
        sum = sum + p[head];
    }
    for (int64_t i = shared_count; i < active; ++i)
        weight[i] = ((static_cast<float>(chosen) * weight[i]) / sum) * of_chosen;
}

void head_router_forward(const node &n) {
    const tensor *const shared = n.src[1];
    const int64_t e = n.src[0]->ne[1], s = shared ? shared->ne[1] : 0;
    std::vector<float> logits, of_shared, mix, scratch(static_cast<size_t>(2 * e + s));
    for (int64_t i = 0; i < n.out.ne[0]; ++i) {
        read_row(*n.src[0], i, 0, 0, logits);
        if (shared) read_row(*shared, i, 0, 0, of_shared);
        read_row(*n.src[2], i, 0, 0, mix);
        route_heads(logits.data(), e, of_shared.data(), s, mix.data(), n.as<head_router_params>().chosen,
                    scratch.data(), f32_at(n.out, i));
    }
}

// ---- The gradient goes through the probabilities of the chosen heads and their sum; the choice is a
// constant

void head_router_grad(backward &b, const node &n, const tensor *dy) {
    const tensor *const shared = n.src[1];
    tensor *const y = b.g.add(
        op::head_router_back,
        {dy, b.exact(&n.out), b.exact(n.src[0]), shared ? b.exact(shared) : nullptr, b.exact(n.src[2])},
        n.as<head_router_params>());
    int64_t first = 0;
    for (const tensor *const t : {n.src[0], shared, n.src[2]}) {
        if (!t) continue;
        b.give(t, b.g.slice(y, first, t->ne[1]));
        first += t->ne[1];
    }
}

void head_router_back_shape(node &n) {
    const tensor &dy = *n.src[0], &l = *n.src[2], *const shared = n.src[3], &mix = *n.src[4];
    expect(l.rank == 2 && l.type == format::f32, n, "needs logits[n,e] of f32");
    expect(!shared || (shared->rank == 2 && shared->type == format::f32 && shared->ne[0] == l.ne[0]), n,
           "needs shared[n,s] of f32");
    expect(mix.rank == 2 && mix.type == format::f32 && mix.ne[0] == l.ne[0] && mix.ne[1] == 2, n,
           "needs mix[n,2] of f32");
    const int64_t s = shared ? shared->ne[1] : 0, active = s + n.as<head_router_params>().chosen;
    for (int i = 0; i < 2; ++i)
        expect(is_route(*n.src[i], l.ne[0]) && n.src[i]->ne[2] == active && active - s <= l.ne[1], n,
               "needs dy[n,2,s+k] and route[n,2,s+k] of f32");
    expect(contiguous(dy), n, "needs contiguous dy");
    set_out(n, format::f32, {{l.ne[0], l.ne[1] + s + 2}});
}

void route_heads_back(const float *logits, int64_t n, const float *shared, int64_t shared_count,
                      const float *mix, int32_t chosen, const float *route, const float *dy, float *scratch,
                      float *y) {
    float *const p = scratch, *const by = scratch + n, *const share = scratch + 2 * n,
                 *const by_share = share + shared_count;
    const float *const g = dy + shared_count + chosen;
    float parts[2], by_part[2] = {0.0f, 0.0f};
    softmax_row(mix, 2, parts);
    softmax_row(logits, n, p);
    if (shared_count) softmax_row(shared, shared_count, share);
    const auto count = static_cast<float>(shared_count), of = static_cast<float>(chosen);
    for (int64_t i = 0; i < shared_count; ++i) {
        by_part[0] = fma_f32(g[i], (count * share[i]) * 2.0f, by_part[0]);
        by_share[i] = (g[i] * count) * (2.0f * parts[0]);
    }
    const auto head = [&](int64_t i) { return static_cast<int64_t>(route[i]) - shared_count; };
    float sum = 0.0f, dot = 0.0f;
    for (int64_t i = shared_count; i < shared_count + chosen; ++i) sum = sum + p[head(i)];
    for (int64_t i = shared_count; i < shared_count + chosen; ++i) dot = fma_f32(g[i], p[head(i)] / sum, dot);
    by_part[1] = (of * dot) * 2.0f;
    std::fill_n(by, n, 0.0f);
    for (int64_t i = shared_count; i < shared_count + chosen; ++i)
        by[head(i)] = ((g[i] - dot) / sum) * (of * (2.0f * parts[1]));
    softmax_back_row(p, by, n, y);
    if (shared_count) softmax_back_row(share, by_share, shared_count, y + n);
    softmax_back_row(parts, by_part, 2, y + n + shared_count);
}

void head_router_back_forward(const node &n) {
    const tensor *const shared = n.src[3];
    const int64_t e = n.src[2]->ne[1], s = shared ? shared->ne[1] : 0;
    std::vector<float> logits, of_shared, mix, scratch(static_cast<size_t>(2 * (e + s)));
    for (int64_t i = 0; i < n.out.ne[0]; ++i) {
        read_row(*n.src[2], i, 0, 0, logits);
        if (shared) read_row(*shared, i, 0, 0, of_shared);
        read_row(*n.src[4], i, 0, 0, mix);
        route_heads_back(logits.data(), e, of_shared.data(), s, mix.data(), n.as<head_router_params>().chosen,
                         f32_at(*n.src[1], i), f32_at(*n.src[0], i), scratch.data(), f32_at(n.out, i));
    }
}

}  // namespace ds
