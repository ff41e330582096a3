// Products of any shape with I8 weights: one warp per result.
#include "config.h"
#include "product.cuh"

namespace ds::cuda {

namespace {

constexpr int plain_warps = 8;

__device__ int32_t sum_of_warp(int32_t x) {
    for (int s = warp_lanes / 2; s > 0; s /= 2) x += __shfl_xor_sync(all_lanes, x, s);
    return x;
}
__device__ int32_t dot(const int8_t *w, const int8_t *x, int32_t k) {
    int32_t sum = 0;
    for (int32_t c = static_cast<int32_t>(threadIdx.x) % warp_lanes; c < k; c += warp_lanes)
        sum += w[c] * x[c];
    return sum_of_warp(sum);
}

template <bool gated> __global__ void plain_kernel(product_args a) {
    wait_for_prior_kernels();
    const share s = share_of<gated>(a, plain_warps, 1);
    const int32_t w = s.first + static_cast<int32_t>(threadIdx.x) / warp_lanes;
    if (w >= s.m) return;
    for (int32_t i = 0; i < s.rows; ++i) {
        const int64_t from = source_row(a, s, i);
        const int8_t *const x = s.q + from * a.q_stride;
        const int32_t sum = dot(s.w + static_cast<int64_t>(w) * a.k, x, a.k),
                      up = gated ? dot(s.up + static_cast<int64_t>(w) * a.k, x, a.k) : 0;
        const float scale = s.q_scale[from * a.scale_stride];
        if (threadIdx.x % warp_lanes == 0)
            s.y[(s.row + i) * a.y_stride + s.column + w] =
                gated ? finish_gated(a, s, w, sum, up, scale) : finish(a, s, i, w, sum, scale);
    }
}

}  // namespace

int launch_plain(const product_args &a, bool gated, int32_t row_groups, int32_t heads, stream s) {
    const int32_t across = weights_across(a.w, gated ? 1 : a.count, plain_warps),
                  high = row_groups ? row_groups : a.n;
    const dim3 grid(static_cast<unsigned>(across), static_cast<unsigned>(high), static_cast<unsigned>(heads)),
        block(plain_warps * warp_lanes);
    return gated ? DS_LAUNCH(plain_kernel<true>, grid, block, 0, s, a)
                 : DS_LAUNCH(plain_kernel<false>, grid, block, 0, s, a);
}

}  // namespace ds::cuda
