// What the small kernels share: 16-bit floats, and the number of blocks for a number of threads.
#pragma once

#include "device.cuh"
#include "small.h"

#ifdef __CUDACC__
#include <cuda_fp16.h>
#endif

namespace ds::cuda {

#ifdef __CUDACC__
__device__ inline float float_of_half(uint16_t h) { return __half2float(__ushort_as_half(h)); }
__device__ inline uint16_t half_of_float(float f) { return __half_as_ushort(__float2half_rn(f)); }
#else
inline float float_of_half(uint16_t h) { return f16_to_f32(h); }
inline uint16_t half_of_float(float f) { return f32_to_f16(f); }
#endif
__device__ inline float float_of_bf16(uint16_t h) { return float_of(static_cast<uint32_t>(h) << 16); }
// The nearest bf16 of a finite float.
__device__ inline uint16_t bf16_of_float(float f) {
    const uint32_t u = bits_of(f);
    return static_cast<uint16_t>((u + 0x7fffu + (u >> 16 & 1u)) >> 16);
}

// Element i of an array of a float format, as f32.
template <format type> __device__ float load_float(const void *p, int64_t i) {
    if constexpr (type == format::f32) return static_cast<const float *>(p)[i];
    else if constexpr (type == format::f16) return float_of_half(static_cast<const uint16_t *>(p)[i]);
    else return float_of_bf16(static_cast<const uint16_t *>(p)[i]);
}

constexpr int small_block = 256;
inline unsigned small_blocks(int64_t threads) {
    return static_cast<unsigned>((threads + small_block - 1) / small_block);
}

__device__ inline int64_t thread_index() {
    return static_cast<int64_t>(blockIdx.x) * small_block + threadIdx.x;
}

}  // namespace ds::cuda
