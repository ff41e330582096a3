// routed_matmul: each row's product with the matrix of one of its experts, y = x[n,k] w[e,m,k]^T with
// e = route[n,0,rank]. route is router's result. Each product is matmul's, to the bit.
#include "../op.h"

namespace ds {

tensor *routed_matmul(graph &g, const tensor *x, const tensor *w, const tensor *route, int32_t rank) {
    return g.add(op::routed_matmul, {x, w, route}, routed_params{rank});
}

void routed_matmul_shape(node &n) {
    const tensor &x = *n.src[0], &w = *n.src[1], &route = *n.src[2];
    expect(x.rank == 2 && x.type == format::f32, n, "needs x[n,k] of f32");
    expect(w.rank == 3 && w.ne[2] == x.ne[1] && is_weights(w), n, "needs w[e,m,k], with scales if it is i8");
    expect_sums_fit(n, w);
    expect(is_route(route, x.ne[0], n.as<routed_params>().rank), n,
           "needs route[n,2,k] of f32 with the rank");
    set_out(n, format::f32, {{x.ne[0], w.ne[1]}});
}

void routed_matmul_forward(const node &n) {
    for (int64_t i = 0; i < n.out.ne[0]; ++i) {
        tensor x = *n.src[0], y = n.out, scale;
        x.ne[0] = y.ne[0] = 1;
        x.data = f32_at(*n.src[0], i);
        y.data = f32_at(n.out, i);
        const auto e = static_cast<int64_t>(*f32_at(*n.src[2], i, 0, n.as<routed_params>().rank));
        const tensor w = matrix_of(*n.src[1], e, scale);
        matmul_forward(product_node(x, w, y));
    }
}

}  // namespace ds
