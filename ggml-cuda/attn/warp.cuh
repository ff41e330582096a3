// Warp-wide steps on a row of floats in shared memory, and what follows from a row's maxima.
#pragma once

#include "../device.cuh"
#include "config.h"

namespace ds::cuda {

__device__ __forceinline__ int lane_number() { return static_cast<int>(threadIdx.x) % warp_lanes; }
__device__ __forceinline__ int warp_number() { return static_cast<int>(threadIdx.x) / warp_lanes; }

// hadamard() of numerics.h: each sum and difference has the same two operands, so the bits agree. Returns
// with the result visible to the warp.
__device__ inline void hadamard(float *x, int32_t size) {
    const int32_t block = hadamard_block(size);
    for (int32_t stride = 1; stride < block; stride *= 2) {
        for (int32_t p = lane_number(); p < size / 2; p += warp_lanes) {
            const int32_t i = p / stride * 2 * stride + p % stride;
            const float a = x[i], b = x[i + stride];
            x[i] = a + b;
            x[i + stride] = a - b;
        }
        __syncwarp();
    }
}
__device__ inline uint32_t largest_magnitude(const float *x, int32_t size) {
    uint32_t a = 0;
    for (int32_t c = lane_number(); c < size; c += warp_lanes) {
        const uint32_t u = bits_of(x[c]) & 0x7fffffffu;
        a = u > a ? u : a;
    }
    for (int s = warp_lanes / 2; s > 0; s /= 2) {
        const uint32_t other = __shfl_xor_sync(all_lanes, a, s);
        a = other > a ? other : a;
    }
    return a;
}
// Copies a head of a query to `x`, Hadamard-transforms it and quantizes it to 15 bits: put(element, q).
// Returns its factor.
template <class F>
__device__ float quantize_query(const float *q, float *x, int32_t size, float scale, const F &put) {
    for (int32_t c = lane_number(); c < size; c += warp_lanes) x[c] = q[c];
    __syncwarp();
    hadamard(x, size);
    const row_scale s = row_scale_of(largest_magnitude(x, size), q15_levels);
    for (int32_t c = lane_number(); c < size; c += warp_lanes) put(c, quantize_i8(x[c], s));
    __syncwarp();
    return i8_query_factor(s.scale, scale, size);
}
// hadamard() and the division that makes it inverse_hadamard().
__device__ inline void store_inverse_hadamard(float *x, int32_t size, float *y) {
    hadamard(x, size);
    const float part = 1.0f / static_cast<float>(hadamard_block(size));
    for (int32_t c = lane_number(); c < size; c += warp_lanes) y[c] = x[c] * part;
    __syncwarp();
}

struct row_maxima {
    float max;  // of the scores, rounded up
    int32_t e0;
    int32_t finite;
};
__device__ __forceinline__ row_maxima maxima_of(uint32_t max_code, uint32_t largest) {
    const float max = score_of(max_code), scale = float_of(largest);
    return {__builtin_ceilf(max), exponent_above(scale), finite_f32(max) && finite_f32(scale)};
}
__device__ __forceinline__ float output_of(int64_t total, int32_t e0, int64_t denominator, int32_t finite) {
    return finite ? i8_attention_output(total, e0, denominator) : float_of(0x7fc00000u);
}

}  // namespace ds::cuda
