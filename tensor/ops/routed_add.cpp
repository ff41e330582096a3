// routed_add: adds a row's results by the weights of its route, in the order of ranks: y = acc or 0, then y =
// fma(route[n,1,r], x[n,r,d], y).
#include "../backward.h"

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

// ---- Gradients, which routed_spread shares: of x, routed_scale; of the route's weights, routed_dot

void give_routed_gradients(backward &b, const node &n, const tensor *dy, int32_t parts) {
    const tensor *const x = n.src[0], *const route = n.src[1];
    if (b.wanted(x)) b.give(x, b.g.add(op::routed_scale, {dy, b.exact(route)}, routed_parts_params{parts}));
    if (b.wanted(route))
        b.give(route, b.g.add(op::routed_dot, {dy, b.value(x), b.exact(route)}, no_params{}));
}

void routed_add_grad(backward &b, const node &n, const tensor *dy) {
    give_routed_gradients(b, n, dy, 1);
    if (n.src[2]) b.give(n.src[2], dy);
}

void routed_scale_shape(node &n) {
    const tensor &dy = *n.src[0], &route = *n.src[1];
    const int32_t parts = n.as<routed_parts_params>().parts;
    expect(dy.rank == 2 && dy.type == format::f32 && parts >= 1 && dy.ne[1] % parts == 0, n,
           "needs dy[n,h*d] of f32");
    expect(is_route(route, dy.ne[0]) && (parts == 1 || route.ne[2] <= parts), n, "needs route[n,2,r] of f32");
    set_out(n, format::f32, {{dy.ne[0], route.ne[2], dy.ne[1] / parts}});
}

void routed_scale_forward(const node &n) {
    for (int64_t i = 0; i < n.out.ne[0]; ++i)
        for (int64_t r = 0; r < n.out.ne[1]; ++r) {
            const float *const dy = routed_part(*n.src[0], *n.src[1], i, r, n.out.ne[2]);
            for (int64_t j = 0; j < n.out.ne[2]; ++j)
                *f32_at(n.out, i, r, j) = *f32_at(*n.src[1], i, 1, r) * dy[j];
        }
}

void routed_dot_shape(node &n) {
    const tensor &dy = *n.src[0], &x = *n.src[1], &route = *n.src[2];
    expect(x.rank == 3 && x.type == format::f32 && dy.rank == 2 && dy.type == format::f32 &&
               dy.ne[0] == x.ne[0] && dy.ne[1] % x.ne[2] == 0,
           n, "needs dy[n,h*d] and x[n,r,d] of f32");
    expect(is_route(route, x.ne[0]) && route.ne[2] == x.ne[1] &&
               (dy.ne[1] == x.ne[2] || route.ne[2] <= dy.ne[1] / x.ne[2]),
           n, "needs route[n,2,r] of f32");
    set_out(n, format::f32, {{x.ne[0], 2, x.ne[1]}});
}

void routed_dot_forward(const node &n) {
    const tensor &x = *n.src[1];
    for (int64_t i = 0; i < x.ne[0]; ++i)
        for (int64_t r = 0; r < x.ne[1]; ++r) {
            *f32_at(n.out, i, 0, r) = 0.0f;
            *f32_at(n.out, i, 1, r) =
                dot_in_lanes<sum_lanes>(routed_part(*n.src[0], *n.src[2], i, r, x.ne[2]), f32_at(x, i, r),
                                        static_cast<size_t>(x.ne[2]));
        }
}

}  // namespace ds
