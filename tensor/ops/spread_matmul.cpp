// spread_matmul: attention's output projection where each row has active heads of its own, y = residual +
// routed_spread(x, route) w^T. What inactive heads would add is zero in every format's sums, so that their
// columns of w need not be read.
#include "../spread.h"

namespace ds {

tensor *spread_matmul(graph &g, const tensor *x, const tensor *route, const tensor *w,
                      const tensor *residual) {
    return g.add(op::spread_matmul, {x, route, w, residual}, no_params{});
}

tensor *spread_matmul_expand(graph &g, const node &n) {
    const tensor *const x = n.src[0], *const w = n.src[2];
    const int64_t heads = w->ne[1] / x->ne[2];
    return matmul(g, routed_spread(g, x, n.src[1], static_cast<int32_t>(heads)), w, nullptr, n.src[3]);
}

void spread_matmul_shape(node &n) {
    const tensor &x = *n.src[0], &route = *n.src[1], &w = *n.src[2], *const residual = n.src[3];
    expect(x.rank == 3 && x.type == format::f32, n, "needs x[n,r,d] of f32");
    expect(is_route(route, x.ne[0]) && route.ne[2] == x.ne[1], n, "needs route[n,2,r] of f32");
    expect(w.rank == 2 && w.ne[1] % x.ne[2] == 0 && w.ne[1] >= x.ne[1] * x.ne[2] && is_weights(w), n,
           "needs w[m,h*d], with scales if it is i8, of as many heads as are active");
    expect_sums_fit(n, w);
    set_out(n, format::f32, {{x.ne[0], w.ne[0]}});
    expect(!residual || (same_shape(*residual, n.out) && residual->type == format::f32), n,
           "needs residual[n,m] of f32");
}

size_t spread_product::bytes(const node &n) {
    return static_cast<size_t>(n.src[0]->ne[0] * n.src[2]->ne[1]) * sizeof(float);
}

spread_product::spread_product(const node &n, char *scratch) : ops{} {
    const tensor &x = *n.src[0], &w = *n.src[2];
    const routed_spread_params p{static_cast<int32_t>(w.ne[1] / x.ne[2])};
    ops[0].kind = op::routed_spread;
    std::copy_n(n.src, 2, ops[0].src);
    std::memcpy(ops[0].params, &p, sizeof p);
    routed_spread_shape(ops[0]);
    ops[0].out.data = scratch;
    ops[1] = product_node(ops[0].out, w, n.out);
    ops[1].src[3] = n.src[3];
}

void spread_matmul_forward(const node &n) {
    std::vector<char> scratch(spread_product::bytes(n));
    const spread_product s(n, scratch.data());
    for (const node &o : s.ops) info(o.kind).reference(o);
}

}  // namespace ds
