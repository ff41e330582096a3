// rms_norm: one warp per row. A thread holds lanes j, j + 32, j + 64 and j + 96 of the sum, so that it does
// the first two folds in the order of numerics.h itself; the others are shuffles in the warp.
#include "small.cuh"

namespace ds::cuda {

namespace {

constexpr int norm_warps = 4;
constexpr int own_lanes = sum_lanes / warp_lanes;

__global__ void __launch_bounds__(norm_warps *warp_lanes) norm_kernel(norm_params p) {
    wait_for_prior_kernels();
    const int64_t row = static_cast<int64_t>(blockIdx.x) * norm_warps + threadIdx.x / warp_lanes;
    const int32_t lane = static_cast<int32_t>(threadIdx.x % warp_lanes);
    if (row >= static_cast<int64_t>(p.n) * p.heads) return;
    const float *x = p.x + row / p.heads * p.x_stride + row % p.heads * p.x_head_stride;
    float *y = p.y + row / p.heads * p.y_stride + row % p.heads * p.y_head_stride;
    float sum[own_lanes] = {};
    for (int32_t first = 0; first < p.d; first += sum_lanes) {
        DS_UNROLL
        for (int32_t l = 0; l < own_lanes; ++l) {
            const int32_t i = first + l * warp_lanes + lane;
            if (i < p.d) sum[l] = fma_f32(x[i], x[i], sum[l]);
        }
    }
    float all = (sum[0] + sum[2]) + (sum[1] + sum[3]);
    for (int s = warp_lanes / 2; s > 0; s /= 2) all = all + __shfl_down_sync(all_lanes, all, s);
    const float factor = rms_factor(__shfl_sync(all_lanes, all, 0), p.d, p.eps);
    for (int32_t i = lane; i < p.d; i += warp_lanes) y[i] = (x[i] * factor) * p.w[i];
}

}  // namespace

int launch_norm(const norm_params &p, stream s) {
    const int64_t rows = static_cast<int64_t>(p.n) * p.heads;
    return DS_LAUNCH(norm_kernel, static_cast<unsigned>((rows + norm_warps - 1) / norm_warps),
                     norm_warps * warp_lanes, 0, s, p);
}

}  // namespace ds::cuda
