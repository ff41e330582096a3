// Activations, normed and quantized: a block of 128 threads per row, of which thread j is lane j of the
// norm's sum, so that the sum has the order of numerics.h; a largest magnitude does not depend on order. And
// the small kernels that follow products.
#include "product.cuh"

namespace ds::cuda {

namespace {

// The sum of the 128 threads' `x` in the order of fold_lanes, for every thread.
__device__ float fold_block(float x) {
    __shared__ float lane[sum_lanes];
    const int j = static_cast<int>(threadIdx.x);
    lane[j] = x;
    __syncthreads();
    for (int s = sum_lanes / 2; s >= warp_lanes; s /= 2) {
        if (j < s) lane[j] = lane[j] + lane[j + s];
        __syncthreads();
    }
    x = lane[j % warp_lanes];
    for (int s = warp_lanes / 2; s > 0; s /= 2) x = x + __shfl_down_sync(all_lanes, x, s);
    __syncthreads();
    if (j == 0) lane[0] = x;
    __syncthreads();
    return lane[0];
}

// The largest of the warp's `x`, for every lane.
__device__ uint32_t largest_of_warp(uint32_t x) {
    for (int s = warp_lanes / 2; s > 0; s /= 2) {
        const uint32_t other = __shfl_xor_sync(all_lanes, x, s);
        x = other > x ? other : x;
    }
    return x;
}
__device__ uint32_t largest_of_block(uint32_t x) {
    __shared__ uint32_t of_warp[sum_lanes / warp_lanes];
    x = largest_of_warp(x);
    if (threadIdx.x % warp_lanes == 0) of_warp[threadIdx.x / warp_lanes] = x;
    __syncthreads();
    uint32_t a = 0;
    for (uint32_t w : of_warp) a = w > a ? w : a;
    return a;
}
__device__ uint32_t magnitude_bits(float x) { return bits_of(x) & 0x7fffffffu; }

__global__ void __launch_bounds__(sum_lanes) quantize_kernel(quantize_params p) {
    wait_for_prior_kernels();
    const int64_t row = blockIdx.x;
    const int j = static_cast<int>(threadIdx.x);
    const float *x = p.x + row * p.x_stride;
    float factor = 1.0f;
    if (p.norm) {
        float sum = 0.0f;
        DS_UNROLL
        for (int c = j; c < p.k; c += sum_lanes) sum = fma_f32(x[c], x[c], sum);
        factor = rms_factor(fold_block(sum), p.k, p.eps);
    }
    const auto value = [&](int c) { return p.norm ? (x[c] * factor) * p.norm[c] : x[c]; };
    if (p.y)
        for (int c = j; c < p.k; c += sum_lanes) p.y[row * p.y_stride + c] = value(c);
    if (!p.q) return;
    int8_t *const q = p.q + row * p.q_stride;
    if (p.block == 0) {
        uint32_t largest = 0;
        for (int c = j; c < p.k; c += sum_lanes) {
            const uint32_t u = magnitude_bits(value(c));
            largest = u > largest ? u : largest;
        }
        const row_scale s = row_scale_of(largest_of_block(largest), i8_levels);
        for (int c = j; c < p.q_stride; c += sum_lanes)
            q[c] = c < p.k ? static_cast<int8_t>(quantize_i8(value(c), s)) : static_cast<int8_t>(0);
        if (j == 0) p.scale[row] = s.scale;
        return;
    }
    const int warps = sum_lanes / warp_lanes, blocks = p.k / p.block, lane = j % warp_lanes;
    for (int b = j / warp_lanes; b < blocks; b += warps) {
        uint32_t largest = 0;
        for (int c = lane; c < p.block; c += warp_lanes) {
            const uint32_t u = magnitude_bits(value(b * p.block + c));
            largest = u > largest ? u : largest;
        }
        const row_scale s = row_scale_of(largest_of_warp(largest), i8_levels);
        for (int c = b * p.block + lane; c < (b + 1) * p.block; c += warp_lanes)
            q[c] = static_cast<int8_t>(quantize_i8(value(c), s));
        if (lane == 0) p.scale[row * blocks + b] = s.scale;
    }
    for (int c = p.k + j; c < p.q_stride; c += sum_lanes) q[c] = 0;
}

constexpr int gate_threads = 256;

__global__ void gate_kernel(gate_params p) {
    wait_for_prior_kernels();
    const int64_t i = static_cast<int64_t>(blockIdx.x) * gate_threads + threadIdx.x, row = i / p.m,
                  column = i % p.m;
    if (row >= p.n) return;
    float *const y = p.y + row * p.y_stride + column;
    *y = unary_of(p.f, *y) * p.up[row * p.up_stride + column];
}

__global__ void scale_sums_kernel(scale_sums_params p) {
    wait_for_prior_kernels();
    const int64_t i = static_cast<int64_t>(blockIdx.x) * gate_threads + threadIdx.x, row = i / p.w.m,
                  column = i % p.w.m;
    if (row >= p.n) return;
    float y = i8_output(p.sums[row * p.sums_stride + column], p.w.scale[column], p.q_scale[row]);
    if (p.w.bias) y = y + p.w.bias[column];
    if (p.residual) y = p.residual[row * p.residual_stride + column] + y;
    p.y[row * p.y_stride + p.w.column + column] = y;
}

dim3 blocks_for(int64_t elements) {
    return dim3(static_cast<unsigned>((elements + gate_threads - 1) / gate_threads));
}

}  // namespace

int launch_quantize(const quantize_params &p, stream s) {
    if (p.n == 0) return 0;
    return DS_LAUNCH(quantize_kernel, dim3(static_cast<unsigned>(p.n)), dim3(sum_lanes), 0, s, p);
}
int launch_gate(const gate_params &p, stream s) {
    if (p.n == 0) return 0;
    return DS_LAUNCH(gate_kernel, blocks_for(static_cast<int64_t>(p.n) * p.m), dim3(gate_threads), 0, s, p);
}
int launch_scale_sums(const scale_sums_params &p, stream s) {
    if (p.n == 0) return 0;
    return DS_LAUNCH(scale_sums_kernel, blocks_for(static_cast<int64_t>(p.n) * p.w.m), dim3(gate_threads), 0,
                     s, p);
}

}  // namespace ds::cuda
