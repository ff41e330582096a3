// rope_table: cosines and sines of rotary positions (RoFormer, arXiv 2104.09864; YaRN, arXiv 2309.00071),
// once per step for all layers. Angles are computed in double, by numerics.h's routines, and rounded to f32
// at the end, so the table is the same on every machine.
#include "../op.h"

namespace ds {

tensor *rope_table(graph &g, const tensor *positions, const tensor *factors, const rope_table_params &p) {
    return g.add(op::rope_table, {positions, factors}, p);
}

void rope_table_shape(node &n) {
    const tensor &pos = *n.src[0];
    const int64_t pairs = n.as<rope_table_params>().rotated / 2;
    expect(is_list(&pos, pos.ne[0]), n, "needs positions[n] of i32");
    expect(!n.src[1] || (n.src[1]->rank == 1 && n.src[1]->ne[0] == pairs && n.src[1]->type == format::f32), n,
           "needs factors[r/2] of f32");
    set_out(n, format::f32, {{pos.ne[0], 2, pairs}});
}

void rope_table_forward(const node &n) {
    const rope_table_params &p = n.as<rope_table_params>();
    for (int64_t i = 0; i < n.out.ne[2]; ++i) {
        const double frequency =
            rope_frequency(p.base, p.factor, p.yarn, p.low, p.high, p.rotated, static_cast<int32_t>(i));
        const double divisor = n.src[1] ? *f32_at(*n.src[1], i) : 1.0;
        for (int64_t t = 0; t < n.out.ne[0]; ++t) {
            double sine, cosine;
            sin_cos_f64(*i32_at(*n.src[0], t) * (frequency / divisor), &sine, &cosine);
            *f32_at(n.out, t, 0, i) = static_cast<float>(cosine * p.magnitude);
            *f32_at(n.out, t, 1, i) = static_cast<float>(sine * p.magnitude);
        }
    }
}

}  // namespace ds
