// rms_norm: y = x / sqrt(mean(x^2) + eps) * w over the last dimension (arXiv 1910.07467); of x[n,d], or of
// each head of x[n,h,d].
#include "../op.h"

namespace ds {

tensor *rms_norm(graph &g, const tensor *x, const tensor *w, float eps) {
    return g.add(op::rms_norm, {x, w}, rms_norm_params{eps});
}

void rms_norm_shape(node &n) {
    const tensor &x = *n.src[0], &w = *n.src[1];
    expect(x.rank >= 2 && x.rank <= 3 && x.type == format::f32, n, "needs x[..,d] of f32");
    expect(w.rank == 1 && w.ne[0] == x.ne[x.rank - 1] && w.type == format::f32, n, "needs w[d] of f32");
    set_out(n, format::f32, {x.ne, static_cast<size_t>(x.rank)});
}

void rms_norm_forward(const node &n) {
    const tensor &x = *n.src[0];
    const int64_t d = x.ne[x.rank - 1], middle = x.rank == 3 ? x.ne[1] : 1;
    std::vector<float> row, w;
    read_row(*n.src[1], 0, 0, 0, w);
    for (int64_t i = 0; i < x.ne[0]; ++i)
        for (int64_t j = 0; j < middle; ++j) {
            read_row(x, i, x.rank == 3 ? j : 0, 0, row);
            const float factor = rms_factor(dot_in_lanes<sum_lanes>(row.data(), row.data(), row.size()), d,
                                            n.as<rms_norm_params>().eps);
            float *y = f32_at(n.out, i, x.rank == 3 ? j : 0);
            for (int64_t k = 0; k < d; ++k) y[k] = (row[k] * factor) * w[k];
        }
}

}  // namespace ds
