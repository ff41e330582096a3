// Starts the kernel of the given way.
#include "config.h"
#include "product.cuh"

namespace ds::cuda {

product_args args_of(const products_params &p) {
    product_args a{};
    a.q = p.q, a.q_stride = p.q_stride, a.q_step = p.q_step;
    a.q_scale = p.q_scale, a.scale_stride = p.scale_stride, a.scale_step = p.scale_step;
    for (int32_t i = 0; i < p.count; ++i) a.w[i] = p.w[i];
    a.count = p.count, a.n = p.n, a.k = p.k;
    a.w_step = p.w_step, a.w_scale_step = p.w_scale_step;
    a.y = p.y, a.y_stride = p.y_stride, a.y_step = p.y_step;
    a.residual = p.residual, a.residual_stride = p.residual_stride;
    return a;
}
product_args args_of(const gated_launch_params &p) {
    product_args a{};
    a.q = p.q, a.q_stride = p.q_stride;
    a.q_scale = p.q_scale, a.scale_stride = p.scale_stride;
    a.w[0] = p.gate, a.w[1] = p.up;
    a.count = 1, a.n = p.n, a.k = p.k;
    a.y = p.y, a.y_stride = p.y_stride;
    a.f = p.f;
    return a;
}

static int launch_i8(product_way way, const product_args &a, bool gated, int32_t heads, const device_facts &d,
                     stream s) {
    if (a.n == 0) return 0;
    switch (way) {
    case product_way::rows: return launch_rows(a, gated, a.n, 0, heads, d, s);
    case product_way::tiles: {
        const int32_t across =
            weights_across(a.w, gated ? 1 : a.count, gated ? tile_weights / 2 : tile_weights) * heads;
        return launch_tiles(a, gated, tile_rows_for(a.n, across, d.processors), 0, heads, s);
    }
    case product_way::wgmma: {
        int32_t weights = 0;
        for (int32_t i = 0; i < (gated ? 2 : a.count); ++i) weights += a.w[i].m;
        return launch_wgmma(a, gated, wgmma_weights_for(a.n, weights * heads, d.processors), 0, heads, s);
    }
    default: return launch_plain(a, gated, 0, heads, s);
    }
}
int launch_products(product_way way, const products_params &p, const device_facts &d, stream s) {
    if (way == product_way::packed)
        return p.n == 0 ? 0 : launch_packed(p.type, args_of(p), p.n, 0, p.batch, s);
    return launch_i8(way, args_of(p), false, p.batch, d, s);
}
int launch_gated(product_way way, const gated_launch_params &p, const device_facts &d, stream s) {
    return launch_i8(way, args_of(p), true, 1, d, s);
}

}  // namespace ds::cuda
