// routed_matmul: each row's products with the matrices that its route names, y = x w[e,m,k]^T with e =
// route[n,0,r] and x either the row's, x[n,k], or the rank's own, x[n,r,k]. Each product is matmul's, to the
// bit. Matrices that no row is routed to are not read.
#include "../op.h"

namespace ds {

tensor *routed_matmul(graph &g, const tensor *x, const tensor *w, const tensor *route) {
    return g.add(op::routed_matmul, {x, w, route}, no_params{});
}

void routed_matmul_shape(node &n) {
    const tensor &x = *n.src[0], &w = *n.src[1], &route = *n.src[2];
    expect((x.rank == 2 || x.rank == 3) && x.type == format::f32, n, "needs x[n,k] or x[n,r,k] of f32");
    expect(w.rank == 3 && w.ne[2] == x.ne[x.rank - 1] && is_weights(w), n,
           "needs w[e,m,k], with scales if it is i8");
    expect_sums_fit(n, w);
    expect(is_route(route, x.ne[0]) && (x.rank == 2 || x.ne[1] == route.ne[2]) && route.ne[2] <= w.ne[0], n,
           "needs route[n,2,r] of f32");
    set_out(n, format::f32, {{x.ne[0], route.ne[2], w.ne[1]}});
}

void routed_matmul_forward(const node &n) {
    const tensor &x = *n.src[0];
    for (int64_t i = 0; i < n.out.ne[0]; ++i)
        for (int64_t r = 0; r < n.out.ne[1]; ++r) {
            tensor scale, row = make_tensor(format::f32, {1, n.src[1]->ne[2]}),
                          y = make_tensor(format::f32, {1, n.out.ne[2]});
            row.data = x.rank == 2 ? f32_at(x, i) : f32_at(x, i, r);
            y.data = f32_at(n.out, i, r);
            const tensor w = matrix_of(*n.src[1], routed_to(*n.src[2], i, r), scale);
            matmul_forward(product_node(row, w, y));
        }
}

}  // namespace ds
