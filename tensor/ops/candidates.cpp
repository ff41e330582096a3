// candidates: the largest logits of each row and the sum of all weights (candidates_head). Selection is by
// comparison alone and sums are of integers, so the order of work does not matter.
#include "../op.h"

#include <algorithm>
#include <limits>

namespace ds {

tensor *candidates(graph &g, const tensor *logits, const tensor *factors, int32_t count) {
    return g.add(op::candidates, {logits, factors}, candidates_params{count});
}

void candidates_shape(node &n) {
    const tensor &l = *n.src[0], &f = *n.src[1];
    const int32_t count = n.as<candidates_params>().count;
    expect(l.rank == 2 && l.type == format::f32 && l.ne[1] >= 1, n, "needs logits[n,v] of f32");
    expect(f.rank == 1 && f.type == format::f32 && f.ne[0] == l.ne[0], n, "needs factors[n] of f32");
    expect(count >= 1, n, "needs a count");
    const int64_t ne[] = {l.ne[0], candidates_head_ints + 2 * count};
    set_out(n, format::i32, ne);
}

static void candidates_of(const float *logits, int64_t v, float factor, int32_t count, int32_t *y) {
    constexpr float nothing = -std::numeric_limits<float>::infinity(),
                    infinity = std::numeric_limits<float>::infinity();
    std::vector<std::pair<float, int32_t>> order;  // negative, so that the best comes first
    bool valid = true;
    for (int64_t i = 0; i < v; ++i) {
        valid &= logits[i] < infinity;  // false for NaN, too
        order.emplace_back(-(logits[i] + 0.0f), static_cast<int32_t>(i));
    }
    if (valid) std::sort(order.begin(), order.end());
    candidates_head head = {valid && order[0].first < infinity, 0, 0};
    if (head.finite && factor != 0)
        for (int64_t i = 0; i < v; ++i) head.total += sampling_weight(logits[i], -order[0].first, factor);
    std::memcpy(y, &head, sizeof head);
    for (int32_t i = 0; i < count; ++i) {
        const bool present = head.finite && i < v;
        y[candidates_head_ints + i] = present ? order[static_cast<size_t>(i)].second : -1;
        y[candidates_head_ints + count + i] =
            static_cast<int32_t>(bits_of(present ? -order[static_cast<size_t>(i)].first + 0.0f : nothing));
    }
}

void candidates_forward(const node &n) {
    std::vector<float> logits, factors;
    read_row(*n.src[1], 0, 0, 0, factors);
    for (int64_t i = 0; i < n.out.ne[0]; ++i) {
        read_row(*n.src[0], i, 0, 0, logits);
        candidates_of(logits.data(), n.src[0]->ne[1], factors[static_cast<size_t>(i)],
                      n.as<candidates_params>().count, i32_at(n.out, i));
    }
}

}  // namespace ds
