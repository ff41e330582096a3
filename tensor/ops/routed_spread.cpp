// routed_spread: a row's results, times the weights of its route, at the places of their heads among h, and
// zeros in the places of all other heads.
#include "../backward.h"

namespace ds {

tensor *routed_spread(graph &g, const tensor *x, const tensor *route, int32_t heads) {
    return g.add(op::routed_spread, {x, route}, routed_spread_params{heads});
}

void routed_spread_shape(node &n) {
    const tensor &x = *n.src[0], &route = *n.src[1];
    const int32_t heads = n.as<routed_spread_params>().heads;
    expect(x.rank == 3 && x.type == format::f32, n, "needs x[n,r,d] of f32");
    expect(is_route(route, x.ne[0]) && route.ne[2] == x.ne[1], n, "needs route[n,2,r] of f32");
    expect(heads >= x.ne[1], n, "needs as many heads as are active");
    set_out(n, format::f32, {{x.ne[0], heads * x.ne[2]}});
}

void routed_spread_forward(const node &n) {
    const tensor &x = *n.src[0], &route = *n.src[1];
    const int64_t d = x.ne[2];
    for (int64_t i = 0; i < n.out.ne[0]; ++i) {
        std::fill_n(f32_at(n.out, i), n.out.ne[1], 0.0f);
        for (int64_t r = 0; r < x.ne[1]; ++r)
            for (int64_t j = 0; j < d; ++j)
                *f32_at(n.out, i, routed_to(route, i, r) * d + j) =
                    *f32_at(route, i, 1, r) * *f32_at(x, i, r, j);
    }
}

void routed_spread_grad(backward &b, const node &n, const tensor *dy) {
    give_routed_gradients(b, n, dy, n.as<routed_spread_params>().heads);
}

}  // namespace ds
