// head_router on the CPU: tokens are shared out, each routed by the reference's function.

#include "../variants.h"

namespace ds {

static bool fits(const cpu &, const node &n) {
    return contiguous(*n.src[0]) && contiguous(*n.src[2]) && (!n.src[1] || contiguous(*n.src[1]));
}
static int64_t shared_of(const node &n) { return n.src[1] ? n.src[1]->ne[1] : 0; }
static size_t scratch_bytes(const node &n) {
    return align64(static_cast<size_t>(2 * n.src[0]->ne[1] + shared_of(n)) * sizeof(float));
}
static size_t work_bytes(const cpu &c, const node &n) { return c.pool.size() * scratch_bytes(n); }

static void run(cpu &c, const node &n, char *work) {
    const tensor &logits = *n.src[0], *const shared = n.src[1];
    share_range(c, static_cast<size_t>(logits.ne[0]), elements(logits) * 8,
                [&](size_t begin, size_t end, unsigned worker) {
                    float *scratch = reinterpret_cast<float *>(work + worker * scratch_bytes(n));
                    for (int64_t i = static_cast<int64_t>(begin); i < static_cast<int64_t>(end); ++i)
                        route_heads(f32_at(logits, i), logits.ne[1], shared ? f32_at(*shared, i) : nullptr,
                                    shared_of(n), f32_at(*n.src[2], i), n.as<head_router_params>().chosen,
                                    scratch, f32_at(n.out, i));
                });
}

static constexpr variant list[] = {{"tokens", fits, work_bytes, run}, reference_variant};
constexpr variants head_router_variants = list;

}  // namespace ds
