// head_matmul: y[n,h,m] = x[n,h,k] w[h,m,k]^T, each head by its own matrix: how MLA maps between heads and
// latents (arXiv 2405.04434, section 2.1). Each head is a matmul, with matmul's sums.
#include "../backward.h"

namespace ds {

tensor *head_matmul(graph &g, const tensor *x, const tensor *w) {
    return g.add(op::head_matmul, {x, w}, no_params{});
}

void head_matmul_shape(node &n) {
    const tensor &x = *n.src[0], &w = *n.src[1];
    expect(x.rank == 3 && x.type == format::f32, n, "needs x[n,h,k] of f32");
    expect(w.rank == 3 && w.ne[0] == x.ne[1] && w.ne[2] == x.ne[2] && is_weights(w), n, "needs w[h,m,k]");
    expect_sums_fit(n, w);
    set_out(n, format::f32, {{x.ne[0], x.ne[1], w.ne[1]}});
}

void head_matmul_forward(const node &n) {
    for (int64_t h = 0; h < n.out.ne[1]; ++h) {
        tensor scale;
        const tensor x = head_of(*n.src[0], h), w = matrix_of(*n.src[1], h, scale);
        matmul_forward(product_node(x, w, head_of(n.out, h)));
    }
}

void head_matmul_grad(backward &b, const node &n, const tensor *dy) { product_grad(b, n, dy); }

}  // namespace ds
