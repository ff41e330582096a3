// gated_projection: y = f(x gate^T) * (x up^T), x normed first if there is a norm, f a row of unary.def;
// SwiGLU (arXiv 2002.05202) with f = silu.
#include "../op.h"

namespace ds {

tensor *gated_projection(graph &g, unary f, const tensor *x, const tensor *norm, float eps,
                         const tensor *gate, const tensor *up) {
    return g.add(op::gated_projection, {x, norm, gate, up}, gated_params{f, eps});
}

tensor *gated_projection_expand(graph &g, const node &n) {
    const gated_params &p = n.as<gated_params>();
    const tensor *const x = n.src[1] ? rms_norm(g, n.src[0], n.src[1], p.eps) : n.src[0];
    const tensor *const gate = matmul(g, x, n.src[2], nullptr);
    return gated(g, p.f, gate, matmul(g, x, n.src[3], nullptr));
}

void gated_projection_shape(node &n) {
    const tensor &x = *n.src[0], *norm = n.src[1], &gate = *n.src[2], &up = *n.src[3];
    expect(x.rank == 2 && x.type == format::f32, n, "needs x[n,k] of f32");
    expect(!norm || (norm->rank == 1 && norm->ne[0] == x.ne[1] && norm->type == format::f32), n,
           "needs norm[k] of f32");
    for (const tensor *w : {&gate, &up}) {
        expect(w->rank == 2 && w->ne[0] == gate.ne[0] && w->ne[1] == x.ne[1] && is_weights(*w), n,
               "needs gate[m,k] and up[m,k], with scales if they are i8");
        expect_sums_fit(n, *w);
    }
    set_out(n, format::f32, {{x.ne[0], gate.ne[0]}});
}

void gated_projection_forward(const node &n) {
    const tensor &y = n.out;
    const unary f = n.as<gated_params>().f;
    std::vector<float> memory(static_cast<size_t>(2 * elements(y)));
    node both{};
    both.out = make_tensor(format::f32, {y.ne[0], 2 * y.ne[1]});
    both.out.data = memory.data();
    std::copy_n(n.src, 4, both.src);
    const rms_norm_params p{n.as<gated_params>().eps};
    std::memcpy(both.params, &p, sizeof p);
    projections_forward(both);
    for (int64_t i = 0; i < y.ne[0]; ++i)
        for (int64_t j = 0; j < y.ne[1]; ++j)
            *f32_at(y, i, j) = apply(f, *f32_at(both.out, i, j)) * *f32_at(both.out, i, y.ne[1] + j);
}

}  // namespace ds
