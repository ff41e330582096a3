// rope_table on the CPU: pairs are shared out, so that each frequency (the costly part) is computed once. All
// in double, without vectors: it runs once per step.

#include "../variants.h"

#include "../../tensor/numerics.h"

namespace ds {

static bool always(const cpu &, const node &) { return true; }

static void run(cpu &c, const node &n, char *) {
    const rope_table_params &p = n.as<rope_table_params>();
    const tensor &positions = *n.src[0];
    share_range(c, static_cast<size_t>(n.out.ne[2]), n.out.ne[2] * (300 + 100 * n.out.ne[0]),
                [&](size_t begin, size_t end, unsigned) {
                    for (int64_t i = static_cast<int64_t>(begin); i < static_cast<int64_t>(end); ++i) {
                        const double scaled = rope_frequency(p.base, p.factor, p.yarn, p.low, p.high,
                                                             p.rotated, static_cast<int32_t>(i));
                        const double frequency = scaled / (n.src[1] ? *f32_at(*n.src[1], i) : 1.0);
                        for (int64_t t = 0; t < n.out.ne[0]; ++t) {
                            double sine, cosine;
                            sin_cos_f64(*i32_at(positions, t) * frequency, &sine, &cosine);
                            *f32_at(n.out, t, 0, i) = static_cast<float>(cosine * p.magnitude);
                            *f32_at(n.out, t, 1, i) = static_cast<float>(sine * p.magnitude);
                        }
                    }
                });
}

static constexpr variant list[] = {{"pairs", always, nullptr, run}, reference_variant};
constexpr variants rope_table_variants = list;

}  // namespace ds
