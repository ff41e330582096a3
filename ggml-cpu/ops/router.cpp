// router on the CPU: tokens are shared out, each routed by the reference's function.

#include "../variants.h"

namespace ds {

static bool fits(const cpu &, const node &n) { return contiguous(*n.src[0]); }
static size_t scratch_bytes(const node &n) {
    return align64(static_cast<size_t>(3 * n.src[0]->ne[1]) * sizeof(float));
}
static size_t work_bytes(const cpu &c, const node &n) { return c.pool.size() * scratch_bytes(n); }

static void run(cpu &c, const node &n, char *work) {
    const tensor &logits = *n.src[0];
    const float *bias = n.src[1] ? f32_at(*n.src[1], 0) : nullptr;
    share_range(c, static_cast<size_t>(logits.ne[0]), elements(logits) * 8,
                [&](size_t begin, size_t end, unsigned worker) {
                    float *scratch = reinterpret_cast<float *>(work + worker * scratch_bytes(n));
                    for (int64_t i = static_cast<int64_t>(begin); i < static_cast<int64_t>(end); ++i)
                        route_row(f32_at(logits, i), bias, logits.ne[1], n.as<router_params>(), scratch,
                                  f32_at(n.out, i));
                });
}

static constexpr variant list[] = {{"tokens", fits, work_bytes, run}, reference_variant};
constexpr variants router_variants = list;

}  // namespace ds
