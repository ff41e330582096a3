// activate: y = f(x), element by element, f a row of unary.def.
#include "../op.h"

namespace ds {

tensor *activate(graph &g, unary f, const tensor *x) { return g.add(op::activate, {x}, activate_params{f}); }

void activate_shape(node &n) {
    const tensor &x = *n.src[0];
    expect(x.rank <= 3 && x.type == format::f32, n, "needs x of f32");
    set_out(n, format::f32, {x.ne, static_cast<size_t>(x.rank)});
}

void activate_forward(const node &n) {
    const tensor &y = n.out;
    for (int64_t i = 0; i < y.ne[0]; ++i)
        for (int64_t j = 0; j < y.ne[1]; ++j)
            for (int64_t k = 0; k < y.ne[2]; ++k)
                *f32_at(y, i, j, k) = apply(n.as<activate_params>().f, *f32_at(*n.src[0], i, j, k));
}

}  // namespace ds
