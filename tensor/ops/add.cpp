// add: y = a + b, element by element.
#include "../backward.h"

namespace ds {

tensor *add(graph &g, const tensor *a, const tensor *b) { return g.add(op::add, {a, b}, no_params{}); }

void add_shape(node &n) {
    const tensor &a = *n.src[0], &b = *n.src[1];
    expect(same_shape(a, b) && a.rank <= 3 && a.type == format::f32 && b.type == format::f32, n,
           "needs two f32 of one shape");
    set_out(n, format::f32, {a.ne, static_cast<size_t>(a.rank)});
}

void add_forward(const node &n) {
    const tensor &y = n.out;
    for (int64_t i = 0; i < y.ne[0]; ++i)
        for (int64_t j = 0; j < y.ne[1]; ++j)
            for (int64_t k = 0; k < y.ne[2]; ++k)
                *f32_at(y, i, j, k) = *f32_at(*n.src[0], i, j, k) + *f32_at(*n.src[1], i, j, k);
}

void add_grad(backward &b, const node &n, const tensor *dy) {
    b.give(n.src[0], dy);
    b.give(n.src[1], dy);
}

}  // namespace ds
