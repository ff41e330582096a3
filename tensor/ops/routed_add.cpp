// routed_add: adds a row's results by the weights of its route, in the order of ranks: y = acc or 0, then y =
// fma(route[n,1,r], x[n,r,d], y).
#include "../op.h"

namespace ds {

tensor *routed_add(graph &g, const tensor *x, const tensor *route, const tensor *acc) {
    return g.add(op::routed_add, {x, route, acc}, no_params{});
}

void routed_add_shape(node &n) {
    const tensor &x = *n.src[0], &route = *n.src[1], *const acc = n.src[2];
    expect(x.rank == 3 && x.type == format::f32, n, "needs x[n,r,d] of f32");
    expect(is_route(route, x.ne[0]) && route.ne[2] == x.ne[1], n, "needs route[n,2,r] of f32");
    set_out(n, format::f32, {{x.ne[0], x.ne[2]}});
    expect(!acc || (same_shape(*acc, n.out) && acc->type == format::f32), n, "needs acc[n,d] of f32");
}

void routed_add_forward(const node &n) {
    const tensor &x = *n.src[0], *const acc = n.src[2];
    for (int64_t i = 0; i < n.out.ne[0]; ++i)
        for (int64_t j = 0; j < n.out.ne[1]; ++j) {
            float y = acc ? *f32_at(*acc, i, j) : 0.0f;
            for (int64_t r = 0; r < x.ne[1]; ++r)
                y = fma_f32(*f32_at(*n.src[1], i, 1, r), *f32_at(x, i, r, j), y);
            *f32_at(n.out, i, j) = y;
        }
}

}  // namespace ds
