// kv_write: pages of floats take one thread per element. Pages of i8 take one block per position and head,
// whose elements are in shared memory during the Hadamard transform.
#include "small.cuh"

namespace ds::cuda {

namespace {

template <format type> __device__ void store_float(char *array, int64_t i, float x) {
    if constexpr (type == format::f32) reinterpret_cast<float *>(array)[i] = x;
    else reinterpret_cast<uint16_t *>(array)[i] = half_of_float(x);
}

template <format type> __global__ void __launch_bounds__(small_block) write_floats_kernel(kv_write_params p) {
    wait_for_prior_kernels();
    const kv_layout &l = p.layout;
    // elements per head: keys, then values
    const int32_t width = l.head_size + (l.rope_size ? l.rope_size : l.head_size);
    const int64_t t = thread_index(), head = t / width;
    if (head >= static_cast<int64_t>(p.n) * l.kv_heads) return;
    const int32_t e = static_cast<int32_t>(t % width), h = static_cast<int32_t>(head % l.kv_heads);
    const int64_t i = head / l.kv_heads, offset = p.slots[i] % page_positions;
    char *const page = p.pages + p.slots[i] / page_positions * p.page_bytes;
    const bool key = e < l.head_size;
    const int32_t d = key ? e : e - l.head_size;
    const float x =
        key ? p.k[i * p.k_stride + h * p.k_head_stride + d] : p.v[i * p.v_stride + h * p.v_head_stride + d];
    if (l.rope_size) store_float<type>(page + l.k_offset, offset * (l.head_size + l.rope_size) + e, x);
    else if (key)
        store_float<type>(page + l.k_offset,
                          (static_cast<int64_t>(h) * l.head_size + d) * page_positions + offset, x);
    else store_float<type>(page + l.v_offset, (h * page_positions + offset) * l.head_size + d, x);
}

constexpr int write_block = 128;

// The largest magnitude of the block's threads, as bits, for every thread.
__device__ uint32_t largest_of_threads(uint32_t x) {
    __shared__ uint32_t of_warp[write_block / warp_lanes];
    for (int s = warp_lanes / 2; s > 0; s /= 2) {
        const uint32_t other = __shfl_xor_sync(all_lanes, x, s);
        x = other > x ? other : x;
    }
    if (threadIdx.x % warp_lanes == 0) of_warp[threadIdx.x / warp_lanes] = x;
    __syncthreads();
    uint32_t all = 0;
    for (uint32_t w : of_warp) all = w > all ? w : all;
    __syncthreads();  // the next call may write of_warp
    return all;
}

// Writes one head of one position: element d to to[d * step], its scale to *scale. `row` is shared memory for
// the head.
__device__ void write_i8_head(const float *x, int32_t size, bool transform, float *row, int8_t *to,
                              int64_t step, float *scale) {
    const int32_t thread = static_cast<int32_t>(threadIdx.x);
    for (int32_t d = thread; d < size; d += write_block) row[d] = x[d];
    __syncthreads();
    const int32_t block = transform ? hadamard_block(size) : 1;
    for (int32_t stride = 1; stride < block; stride *= 2) {
        for (int32_t pair = thread; pair < size / 2; pair += write_block) {
            const int32_t i = pair / stride * 2 * stride + pair % stride;
            const float a = row[i], b = row[i + stride];
            row[i] = a + b;
            row[i + stride] = a - b;
        }
        __syncthreads();
    }
    uint32_t largest = 0;
    for (int32_t d = thread; d < size; d += write_block) {
        const uint32_t u = bits_of(row[d]) & 0x7fffffffu;
        largest = u > largest ? u : largest;
    }
    const row_scale s = row_scale_of(largest_of_threads(largest), i8_levels);
    for (int32_t d = thread; d < size; d += write_block)
        to[d * step] = static_cast<int8_t>(quantize_i8(row[d], s));
    if (thread == 0) *scale = s.scale;
    __syncthreads();  // before `row` is filled again
}

__global__ void __launch_bounds__(write_block) write_i8_kernel(kv_write_params p) {
    wait_for_prior_kernels();
    DS_SHARED(write_i8_shared);
    float *const row = reinterpret_cast<float *>(write_i8_shared);
    const kv_layout &l = p.layout;
    const int64_t i = blockIdx.x, h = blockIdx.y, offset = p.slots[i] % page_positions;
    char *const page = p.pages + p.slots[i] / page_positions * p.page_bytes;
    int8_t *const k = reinterpret_cast<int8_t *>(page + l.k_offset), *const v = reinterpret_cast<int8_t *>(
                                                                         page + l.v_offset);
    const int64_t elements = static_cast<int64_t>(l.kv_heads) * l.head_size * page_positions;
    write_i8_head(p.k + i * p.k_stride + h * p.k_head_stride, l.head_size, true, row,
                  k + (h * page_positions + offset) * l.head_size, 1,
                  reinterpret_cast<float *>(k + elements) + h * page_positions + offset);
    const float *const x = p.v + i * p.v_stride + h * p.v_head_stride;
    if (l.rope_size)
        write_i8_head(x, l.rope_size, true, row, v + offset * l.rope_size, 1,
                      reinterpret_cast<float *>(v + l.rope_size * page_positions) + offset);
    else
        write_i8_head(x, l.head_size, false, row, v + h * l.head_size * page_positions + offset,
                      page_positions, reinterpret_cast<float *>(v + elements) + h * page_positions + offset);
}

}  // namespace

int launch_kv_write(const kv_write_params &p, stream s) {
    const kv_layout &l = p.layout;
    if (l.type == format::i8) {
        const int32_t widest = l.head_size > l.rope_size ? l.head_size : l.rope_size;
        return DS_LAUNCH(write_i8_kernel, dim3(static_cast<unsigned>(p.n), static_cast<unsigned>(l.kv_heads)),
                         write_block, static_cast<size_t>(widest) * sizeof(float), s, p);
    }
    const int64_t elements =
        static_cast<int64_t>(p.n) * l.kv_heads * (l.head_size + (l.rope_size ? l.rope_size : l.head_size));
    if (l.type == format::f32)
        return DS_LAUNCH(write_floats_kernel<format::f32>, small_blocks(elements), small_block, 0, s, p);
    return DS_LAUNCH(write_floats_kernel<format::f16>, small_blocks(elements), small_block, 0, s, p);
}

}  // namespace ds::cuda
