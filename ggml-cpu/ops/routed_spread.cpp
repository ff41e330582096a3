// routed_spread on the CPU: rows are shared out.

#include "../variants.h"

#include "../../tensor/op.h"

namespace ds {

static bool fits(const cpu &, const node &n) { return n.src[0]->stride[2] == 1; }

static void run(cpu &c, const node &n, char *) {
    const tensor &x = *n.src[0], &route = *n.src[1], &y = n.out;
    share_range(c, static_cast<size_t>(y.ne[0]), elements(y) / 8, [&](size_t begin, size_t end, unsigned) {
        for (int64_t i = static_cast<int64_t>(begin); i < static_cast<int64_t>(end); ++i) {
            std::fill_n(f32_at(y, i), y.ne[1], 0.0f);
            for (int64_t r = 0; r < x.ne[1]; ++r) {
                const float weight = *f32_at(route, i, 1, r), *const from = f32_at(x, i, r);
                float *const to = f32_at(y, i, routed_to(route, i, r) * x.ne[2]);
                for (int64_t j = 0; j < x.ne[2]; ++j) to[j] = weight * from[j];
            }
        }
    });
}

static constexpr variant list[] = {{"rows", fits, nullptr, run}, reference_variant};
constexpr variants routed_spread_variants = list;

}  // namespace ds
