// rope: rotates the first r elements of each head, pair by pair, by the angles of a rope_table: (a, b) -> (a
// cos - b sin, a sin + b cos).
#include "../backward.h"

namespace ds {

tensor *rope(graph &g, const tensor *x, const tensor *table, rope_pairs pairs) {
    return g.add(op::rope, {x, table}, rope_params{pairs, 0});
}

void rope_shape(node &n) {
    const tensor &x = *n.src[0], &t = *n.src[1];
    expect(x.rank == 3 && x.type == format::f32, n, "needs x[n,h,d] of f32");
    expect(t.rank == 3 && t.type == format::f32 && t.ne[0] == x.ne[0] && t.ne[1] == 2 &&
               2 * t.ne[2] <= x.ne[2],
           n, "needs table[n,2,r/2], r at most d");
    set_out(n, format::f32, {x.ne, 3});
}

void rope_forward(const node &n) {
    const tensor &x = *n.src[0], &table = *n.src[1];
    const int64_t half = table.ne[2];
    const bool inverse = n.as<rope_params>().inverse;
    const bool adjacent = n.as<rope_params>().pairs == rope_pairs::adjacent;
    for (int64_t i = 0; i < x.ne[0]; ++i)
        for (int64_t h = 0; h < x.ne[1]; ++h) {
            for (int64_t p = 0; p < half; ++p) {
                const int64_t ia = adjacent ? 2 * p : p, ib = adjacent ? 2 * p + 1 : p + half;
                const float a = *f32_at(x, i, h, ia), b = *f32_at(x, i, h, ib), c = *f32_at(table, i, 0, p),
                            sine = *f32_at(table, i, 1, p), s = inverse ? -sine : sine;
                *f32_at(n.out, i, h, ia) = rope_first(a, b, c, s);
                *f32_at(n.out, i, h, ib) = rope_second(a, b, c, s);
            }
            for (int64_t k = 2 * half; k < x.ne[2]; ++k) *f32_at(n.out, i, h, k) = *f32_at(x, i, h, k);
        }
}

void rope_grad(backward &b, const node &n, const tensor *dy) {
    rope_params p = n.as<rope_params>();
    p.inverse = !p.inverse;
    b.give(n.src[0], b.g.add(op::rope, {dy, n.src[1]}, p));
}

}  // namespace ds
