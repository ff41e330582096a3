// routed_matmul: each row's products with the matrices that its route names, y = x w[e,m,k]^T with e =
// route[n,0,r] and x either the row's, x[n,k], or the rank's own, x[n,r,k]. Each product is matmul's, to the
// bit. Matrices that no row is routed to are not read.
#include "../backward.h"

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

// ---- Gradients: products like matmul_back's and matmul_back_w's, rank by rank. Where x is the row's, the
// gradients of its ranks are added in order.

void routed_matmul_grad(backward &b, const node &n, const tensor *dy) {
    const tensor *const x = n.src[0], *const w = n.src[1], *const route = n.src[2];
    if (b.wanted(x))
        b.give(x, b.g.add(op::routed_matmul_back, {dy, w, b.exact(route)}, routed_back_params{x->rank == 2}));
    if (const tensor *const sum = b.sum_of(w))
        b.g.add(op::routed_matmul_back_w, {sum, dy, b.factor(x), b.exact(route)}, no_params{});
}

void routed_matmul_back_shape(node &n) {
    const tensor &dy = *n.src[0], &w = *n.src[1], &route = *n.src[2];
    expect(dy.rank == 3 && dy.type == format::f32 && w.rank == 3 && w.ne[1] == dy.ne[2] && is_weights(w), n,
           "needs dy[n,r,m] of f32 and w[e,m,k]");
    expect(is_route(route, dy.ne[0]) && route.ne[2] == dy.ne[1] && route.ne[2] <= w.ne[0], n,
           "needs route[n,2,r] of f32");
    if (n.as<routed_back_params>().add_ranks) set_out(n, format::f32, {{dy.ne[0], w.ne[2]}});
    else set_out(n, format::f32, {{dy.ne[0], dy.ne[1], w.ne[2]}});
}

void routed_matmul_back_forward(const node &n) {
    const tensor &dy = *n.src[0], &w = *n.src[1];
    const bool add_ranks = n.as<routed_back_params>().add_ranks;
    const format f = operand_format(w.type);
    std::vector<float> row, dx(static_cast<size_t>(w.ne[2]));
    for (int64_t i = 0; i < dy.ne[0]; ++i)
        for (int64_t r = 0; r < dy.ne[1]; ++r) {
            std::fill(dx.begin(), dx.end(), 0.0f);
            for (int64_t m = 0; m < dy.ne[2]; ++m) {
                read_row(w, routed_to(*n.src[2], i, r), m, 0, row);
                const float d = operand(f, *f32_at(dy, i, r, m));
                for (size_t k = 0; k < dx.size(); ++k) dx[k] = fma_f32(d, operand(f, row[k]), dx[k]);
            }
            float *const y = add_ranks ? f32_at(n.out, i) : f32_at(n.out, i, r);
            for (size_t k = 0; k < dx.size(); ++k) y[k] = add_ranks && r ? y[k] + dx[k] : dx[k];
        }
}

void routed_matmul_back_w_shape(node &n) {
    const tensor &sum = *n.src[0], &dy = *n.src[1], &x = *n.src[2], &route = *n.src[3];
    expect(sum.rank == 3 && sum.type == format::f32 && dy.rank == 3 && dy.type == format::f32 &&
               (x.rank == 2 || x.rank == 3) && is_float(x.type),
           n, "needs sum[e,m,k] and dy[n,r,m] of f32, and x[n,k] or x[n,r,k] of floats");
    expect(x.ne[0] == dy.ne[0] && sum.ne[1] == dy.ne[2] && sum.ne[2] == x.ne[x.rank - 1] &&
               (x.rank == 2 || x.ne[1] == dy.ne[1]),
           n, "needs a sum for each column of dy and of x");
    expect(is_route(route, dy.ne[0]) && route.ne[2] == dy.ne[1] && route.ne[2] <= sum.ne[0], n,
           "needs route[n,2,r] of f32");
    set_out_in_place(n, sum);
}

void routed_matmul_back_w_forward(const node &n) {
    const tensor &dy = *n.src[1], &x = *n.src[2];
    const format f = operand_format(x.type);
    std::vector<float> row;
    for (int64_t i = 0; i < dy.ne[0]; ++i)
        for (int64_t r = 0; r < dy.ne[1]; ++r) {
            const int64_t e = routed_to(*n.src[3], i, r);
            read_row(x, i, x.rank == 2 ? 0 : r, 0, row);
            for (int64_t m = 0; m < dy.ne[2]; ++m) {
                float *const y = f32_at(n.out, e, m);
                const float d = operand(f, *f32_at(dy, i, r, m));
                for (size_t k = 0; k < row.size(); ++k) y[k] = fma_f32(d, operand(f, row[k]), y[k]);
            }
        }
}

}  // namespace ds
