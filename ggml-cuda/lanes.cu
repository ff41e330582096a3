// Products with float weights: half a warp per output, of which thread j is lane j of the sum (numerics.h,
// dot_lanes), for up to eight rows of x, so that weights are read once for them. Also the kernels before and
// after a library's products.
#include "small.cuh"

namespace ds::cuda {

namespace {

constexpr int lanes_block = 256, outputs_a_block = lanes_block / dot_lanes, ahead = 4;

template <format type, int rows> __global__ void __launch_bounds__(lanes_block) lanes_kernel(lanes_params p) {
    wait_for_prior_kernels();
    const int32_t lane = static_cast<int32_t>(threadIdx.x % dot_lanes);
    const int32_t column =
        static_cast<int32_t>(blockIdx.x) * outputs_a_block + static_cast<int32_t>(threadIdx.x) / dot_lanes;
    const int32_t first = static_cast<int32_t>(blockIdx.z) * rows,
                  count = p.n - first < rows ? p.n - first : rows;
    const bool there = column < p.m;  // threads without an output stay for the shuffles at the end
    const int64_t head = blockIdx.y;
    const float *const x = p.x + first * p.x_stride + head * p.x_step;
    const int64_t w = head * p.w_step + (there ? column : 0) * p.w_stride;
    float sum[rows] = {};
    for (int32_t i = lane; i < p.k; i += ahead * dot_lanes) {
        float some[ahead];
        DS_UNROLL
        for (int a = 0; a < ahead; ++a)
            some[a] = i + a * dot_lanes < p.k ? load_float<type>(p.w, w + i + a * dot_lanes) : 0.0f;
        DS_UNROLL
        for (int a = 0; a < ahead; ++a) {
            if (i + a * dot_lanes >= p.k) break;
            DS_UNROLL
            for (int r = 0; r < rows; ++r)
                if (r < count) sum[r] = fma_f32(x[r * p.x_stride + i + a * dot_lanes], some[a], sum[r]);
        }
    }
    DS_UNROLL
    for (int r = 0; r < rows; ++r) {
        float y = sum[r];
        // reaches into the next output's lanes, whose values nobody reads
        for (int s = dot_lanes / 2; s > 0; s /= 2) y = y + __shfl_down_sync(all_lanes, y, s);
        if (lane != 0 || !there || r >= count) continue;
        if (p.bias) y = y + p.bias[column];
        if (p.residual) y = p.residual[(first + r) * p.residual_stride + column] + y;
        p.y[(first + r) * p.y_stride + head * p.y_step + column] = y;
    }
}

template <format type, int rows> int launch_lanes_of(const lanes_params &p, stream s) {
    const dim3 grid(static_cast<unsigned>((p.m + outputs_a_block - 1) / outputs_a_block),
                    static_cast<unsigned>(p.batch), static_cast<unsigned>((p.n + rows - 1) / rows));
    return DS_LAUNCH((lanes_kernel<type, rows>), grid, lanes_block, 0, s, p);
}
template <format type> int launch_lanes_in(const lanes_params &p, stream s) {
    if (p.n == 1) return launch_lanes_of<type, 1>(p, s);
    if (p.n <= 4) return launch_lanes_of<type, 4>(p, s);
    return launch_lanes_of<type, 8>(p, s);
}

constexpr int split_block = 128;

// unit = 2^e with every |x| below 2^(e + 14), so that the pieces stay clear of f16's limits; 1 for a row that
// is not finite.
template <format type> __global__ void __launch_bounds__(split_block) split_kernel(split_params p) {
    wait_for_prior_kernels();
    __shared__ uint32_t of_warp[split_block / warp_lanes];
    const float *x = p.x + blockIdx.x * p.x_stride;
    uint32_t largest = 0;
    for (int32_t i = static_cast<int32_t>(threadIdx.x); i < p.k; i += split_block) {
        const uint32_t u = bits_of(x[i]) & 0x7fffffffu;
        largest = u > largest ? u : largest;
    }
    for (int s = warp_lanes / 2; s > 0; s /= 2) {
        const uint32_t other = __shfl_xor_sync(all_lanes, largest, s);
        largest = other > largest ? other : largest;
    }
    if (threadIdx.x % warp_lanes == 0) of_warp[threadIdx.x / warp_lanes] = largest;
    __syncthreads();
    for (uint32_t w : of_warp) largest = w > largest ? w : largest;
    const bool finite = finite_f32(float_of(largest));
    int32_t e = finite ? exponent_above(float_of(largest)) - 14 : 0;
    e = e < -112 ? -112 : e;
    const float unit = power_of_two(e), inverse = power_of_two(-e);
    for (int32_t i = static_cast<int32_t>(threadIdx.x); i < p.k; i += split_block) {
        const float scaled = x[i] * inverse;
        const int64_t to = static_cast<int64_t>(blockIdx.x) * p.k + i;
        if constexpr (type == format::f16) {
            p.high[to] = half_of_float(scaled);
            p.low[to] = finite ? half_of_float(scaled - float_of_half(p.high[to])) : static_cast<uint16_t>(0);
        } else {
            p.high[to] = finite
                             ? bf16_of_float(scaled)
                             : static_cast<uint16_t>(bits_of(scaled) >> 16 | (scaled != scaled ? 0x40u : 0u));
            p.low[to] = finite ? bf16_of_float(scaled - float_of_bf16(p.high[to])) : static_cast<uint16_t>(0);
        }
    }
    if (threadIdx.x == 0) p.unit[blockIdx.x] = unit;
}

__global__ void __launch_bounds__(small_block) finish_kernel(finish_params p) {
    wait_for_prior_kernels();
    const int64_t t = thread_index(), row = t / p.m, column = t % p.m;
    if (row >= p.n) return;
    float y = p.y[row * p.y_stride + column];
    if (p.unit) y = y * p.unit[row];
    if (p.bias) y = y + p.bias[column];
    if (p.residual) y = p.residual[row * p.residual_stride + column] + y;
    p.y[row * p.y_stride + column] = y;
}

}  // namespace

int launch_lanes(const lanes_params &p, stream s) {
    if (p.type == format::f32) return launch_lanes_in<format::f32>(p, s);
    if (p.type == format::f16) return launch_lanes_in<format::f16>(p, s);
    return launch_lanes_in<format::bf16>(p, s);
}
int launch_split(const split_params &p, stream s) {
    if (p.type == format::f16)
        return DS_LAUNCH(split_kernel<format::f16>, static_cast<unsigned>(p.n), split_block, 0, s, p);
    return DS_LAUNCH(split_kernel<format::bf16>, static_cast<unsigned>(p.n), split_block, 0, s, p);
}
int launch_finish(const finish_params &p, stream s) {
    return DS_LAUNCH(finish_kernel, small_blocks(static_cast<int64_t>(p.n) * p.m), small_block, 0, s, p);
}

}  // namespace ds::cuda
