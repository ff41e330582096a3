// gated: y = f(gate) * up, element by element, f a row of unary.def. gated_back: the gradients of both, side
// by side, from y's.
#include "../backward.h"

namespace ds {

tensor *gated(graph &g, unary f, const tensor *gate, const tensor *up) {
    return g.add(op::gated, {gate, up}, unary_params{f});
}

void gated_shape(node &n) {
    const tensor &gate = *n.src[0];
    expect(gate.rank <= 3 && gate.type == format::f32 && n.src[1]->type == format::f32 &&
               same_shape(gate, *n.src[1]),
           n, "needs gate and up of f32, of one shape");
    set_out(n, format::f32, {gate.ne, static_cast<size_t>(gate.rank)});
}

void gated_forward(const node &n) {
    const tensor &y = n.out;
    for (int64_t i = 0; i < y.ne[0]; ++i)
        for (int64_t j = 0; j < y.ne[1]; ++j)
            for (int64_t k = 0; k < y.ne[2]; ++k)
                *f32_at(y, i, j, k) =
                    apply(n.as<unary_params>().f, *f32_at(*n.src[0], i, j, k)) * *f32_at(*n.src[1], i, j, k);
}

void gated_grad(backward &b, const node &n, const tensor *dy) {
    tensor *const both =
        b.g.add(op::gated_back, {dy, b.value(n.src[0]), b.value(n.src[1])}, n.as<unary_params>());
    const int64_t m = n.out.ne[n.out.rank - 1];
    b.give(n.src[0], b.g.slice(both, 0, m));
    b.give(n.src[1], b.g.slice(both, m, m));
}

void gated_back_shape(node &n) {
    const tensor &dy = *n.src[0];
    expect(dy.rank >= 2 && dy.rank <= 3, n, "needs dy[..,m]");
    for (int i = 0; i < 3; ++i)
        expect(n.src[i]->type == format::f32 && same_shape(*n.src[i], dy), n,
               "needs dy, gate and up of f32, of one shape");
    int64_t ne[] = {dy.ne[0], dy.ne[1], dy.ne[2]};
    ne[dy.rank - 1] *= 2;
    set_out(n, format::f32, {ne, static_cast<size_t>(dy.rank)});
}

void gated_back_forward(const node &n) {
    const tensor &dy = *n.src[0];
    const unary f = n.as<unary_params>().f;
    const int64_t m = dy.ne[dy.rank - 1], middle = dy.rank == 3 ? dy.ne[1] : 1;
    std::vector<float> d, gate, up;
    for (int64_t i = 0; i < dy.ne[0]; ++i)
        for (int64_t j = 0; j < middle; ++j) {
            read_row(dy, i, dy.rank == 3 ? j : 0, 0, d);
            read_row(*n.src[1], i, dy.rank == 3 ? j : 0, 0, gate);
            read_row(*n.src[2], i, dy.rank == 3 ? j : 0, 0, up);
            float *const y = f32_at(n.out, i, dy.rank == 3 ? j : 0);
            for (int64_t k = 0; k < m; ++k) {
                y[k] = (d[k] * up[k]) * slope(f, gate[k]);
                y[m + k] = d[k] * apply(f, gate[k]);
            }
        }
}

}  // namespace ds
