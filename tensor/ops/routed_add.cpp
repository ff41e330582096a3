// routed_add: adds one expert's result by the weight that the row gives it, y = fma(route[n,1,rank], x, acc),
// with acc = 0 where it is absent. route is router's result.
#include "../op.h"

namespace ds {

tensor *routed_add(graph &g, const tensor *x, const tensor *route, int32_t rank, const tensor *acc) {
    return g.add(op::routed_add, {x, route, acc}, routed_params{rank});
}

void routed_add_shape(node &n) {
    const tensor &x = *n.src[0], *const acc = n.src[2];
    expect(x.rank == 2 && x.type == format::f32, n, "needs x[n,d] of f32");
    expect(is_route(*n.src[1], x.ne[0], n.as<routed_params>().rank), n,
           "needs route[n,2,k] of f32 with the rank");
    expect(!acc || (same_shape(*acc, x) && acc->type == format::f32), n, "needs acc[n,d] of f32");
    set_out(n, format::f32, {{x.ne[0], x.ne[1]}});
}

void routed_add_forward(const node &n) {
    for (int64_t i = 0; i < n.out.ne[0]; ++i) {
        const float weight = *f32_at(*n.src[1], i, 1, n.as<routed_params>().rank);
        for (int64_t j = 0; j < n.out.ne[1]; ++j)
            *f32_at(n.out, i, j) =
                fma_f32(weight, *f32_at(*n.src[0], i, j), n.src[2] ? *f32_at(*n.src[2], i, j) : 0.0f);
    }
}

}  // namespace ds
