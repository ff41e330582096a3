// candidates: each block takes 8,192 logits and keeps the `count` largest; further rounds do the same with
// what was kept, until one block per row is left. A logit and its index form one key, and keys are distinct:
// the count-th largest is found bit by bit, by counting, and ties go to the lowest index. Then the weights of
// all logits are summed, in integers.
#include "candidates.h"
#include "small.cuh"

namespace ds::cuda {

namespace {

constexpr int select_threads = 512, keys_a_thread = 16, select_warps = select_threads / warp_lanes;
static_assert(select_threads * keys_a_thread == candidates_block && most_candidates <= select_threads);

// 0: no key. Keys rise with the logit and, for equal logits, fall with the index; NaN and +infinity come
// before all others.
constexpr int index_bits = 24;
constexpr uint32_t last_index = (1u << index_bits) - 1, unusable = 0xffffffffu;
static_assert(most_logits == 1 << index_bits);
__device__ uint64_t key_of(float x, int32_t index) {
    const bool usable = x < float_of(0x7f800000u);
    const uint32_t u = bits_of(x + 0.0f), rising = !usable ? unusable : u >> 31 ? ~u : u | 0x80000000u;
    return static_cast<uint64_t>(rising) << index_bits | (last_index - static_cast<uint32_t>(index));
}
__device__ uint32_t logit_bits(uint64_t key) {
    const uint32_t rising = static_cast<uint32_t>(key >> index_bits);
    return rising >> 31 ? rising & 0x7fffffffu : ~rising;
}
__device__ int32_t index_of(uint64_t key) {
    return static_cast<int32_t>(last_index - (static_cast<uint32_t>(key) & last_index));
}

// How many of the block's keys are at least `least`, for every thread. Callers alternate between two buffers,
// so one barrier is enough.
__device__ int32_t count_from(const uint64_t (&mine)[keys_a_thread], uint64_t least, int32_t *of_warp) {
    int32_t n = 0;
    DS_UNROLL
    for (int i = 0; i < keys_a_thread; ++i) n += mine[i] >= least;
    for (int s = warp_lanes / 2; s > 0; s /= 2) n += __shfl_xor_sync(all_lanes, n, s);
    if (threadIdx.x % warp_lanes == 0) of_warp[threadIdx.x / warp_lanes] = n;
    __syncthreads();
    n = 0;
    for (int w = 0; w < select_warps; ++w) n += of_warp[w];
    return n;
}

struct select_params {
    const float *x;  // [n, width], or null: keys
    int64_t x_stride;
    const uint64_t *keys;  // [n, width]
    uint64_t *kept;        // [n, gridDim.x, count], or null in the last round
    int32_t *y;            // in the last round
    int64_t y_stride;
    int32_t width, count;
};

__device__ void write_row(int32_t *y, const uint64_t *best, int32_t taken, int32_t count, uint64_t *largest) {
    const int32_t me = static_cast<int32_t>(threadIdx.x);
    int32_t rank = me;
    if (me < taken) {
        rank = 0;
        for (int32_t i = 0; i < taken; ++i) rank += best[i] > best[me];
        if (rank == 0) *largest = best[me];
    }
    __syncthreads();
    const uint32_t rising = static_cast<uint32_t>(*largest >> index_bits);
    const bool usable = rising != unusable && logit_bits(*largest) != 0xff800000u;
    if (me < count) {
        const bool there = usable && me < taken;
        y[candidates_head_ints + rank] = there ? index_of(best[me]) : -1;
        y[candidates_head_ints + count + rank] =
            static_cast<int32_t>(there ? logit_bits(best[me]) : 0xff800000u);
    }
    if (me < candidates_head_ints) y[me] = me == 0 && usable;  // the sum is 0 so far
}

__global__ void __launch_bounds__(select_threads) select_kernel(select_params p) {
    wait_for_prior_kernels();
    __shared__ uint64_t best[most_candidates], largest;
    __shared__ int32_t of_warp[2][select_warps], taken;
    const int32_t me = static_cast<int32_t>(threadIdx.x),
                  first = static_cast<int32_t>(blockIdx.x) * candidates_block;
    const int64_t row = blockIdx.y;
    uint64_t mine[keys_a_thread];
    DS_UNROLL
    for (int i = 0; i < keys_a_thread; ++i) {
        const int32_t at = first + i * select_threads + me;
        mine[i] = at >= p.width ? 0
                  : p.x         ? key_of(p.x[row * p.x_stride + at], at)
                                : p.keys[row * p.width + at];
    }
    if (me == 0) taken = 0;
    uint64_t least = 0;
    int buffer = 0;
    for (int bit = 31 + index_bits; bit >= 0; --bit) {
        const uint64_t higher = least | uint64_t{1} << bit;
        const int32_t n = count_from(mine, higher, of_warp[buffer]);
        buffer ^= 1;
        if (n >= p.count) least = higher;
        if (n == p.count) break;
    }
    if (least == 0) least = 1;  // fewer keys than `count`
    __syncthreads();
    DS_UNROLL
    for (int i = 0; i < keys_a_thread; ++i)
        if (mine[i] >= least) best[atomicAdd(&taken, 1)] = mine[i];
    __syncthreads();
    if (!p.kept) return write_row(p.y + row * p.y_stride, best, taken, p.count, &largest);
    if (me < p.count) p.kept[(row * gridDim.x + blockIdx.x) * p.count + me] = me < taken ? best[me] : 0;
}

__global__ void __launch_bounds__(select_threads) weigh_kernel(candidates_launch_params p) {
    wait_for_prior_kernels();
    int32_t *const y = p.y + blockIdx.y * p.y_stride;
    const float factor = p.factors[blockIdx.y],
                largest = float_of(static_cast<uint32_t>(y[candidates_head_ints + p.count]));
    if (factor == 0.0f || y[0] == 0) return;
    const float *const x = p.x + blockIdx.y * p.x_stride;
    int64_t sum = 0;
    for (int i = 0; i < keys_a_thread; ++i) {
        const int32_t at = static_cast<int32_t>(blockIdx.x) * candidates_block + i * select_threads +
                           static_cast<int32_t>(threadIdx.x);
        if (at < p.width) sum += sampling_weight(x[at], largest, factor);
    }
    for (int s = warp_lanes / 2; s > 0; s /= 2) sum += __shfl_xor_sync(all_lanes, sum, s);
    if (threadIdx.x % warp_lanes == 0 && sum != 0)
        atomicAdd(reinterpret_cast<unsigned long long *>(y + 2), static_cast<unsigned long long>(sum));
}

unsigned blocks_of(int64_t width) {
    return static_cast<unsigned>((width + candidates_block - 1) / candidates_block);
}

}  // namespace

bool candidates_fit(const candidates_launch_params &p) {
    return p.width <= most_logits && p.count <= most_candidates && p.n <= 65535;
}

size_t candidates_work_bytes(const candidates_launch_params &p) {
    size_t keys = 0;
    for (int64_t width = p.width; blocks_of(width) > 1;) {
        width = static_cast<int64_t>(blocks_of(width)) * p.count;
        keys += static_cast<size_t>(p.n) * static_cast<size_t>(width);
    }
    return keys * sizeof(uint64_t);
}

int launch_candidates(const candidates_launch_params &p, stream s) {
    if (p.n == 0) return 0;
    const unsigned rows = static_cast<unsigned>(p.n);
    select_params one{.x = p.x,
                      .x_stride = p.x_stride,
                      .keys = nullptr,
                      .kept = static_cast<uint64_t *>(p.work),
                      .y = p.y,
                      .y_stride = p.y_stride,
                      .width = p.width,
                      .count = p.count};
    for (;;) {
        const unsigned blocks = blocks_of(one.width);
        uint64_t *const kept = one.kept;
        if (blocks == 1) one.kept = nullptr;
        if (const int bad = DS_LAUNCH(select_kernel, dim3(blocks, rows), select_threads, 0, s, one))
            return bad;
        if (blocks == 1) break;
        one.x = nullptr;
        one.keys = kept;
        one.width = static_cast<int32_t>(blocks) * p.count;
        one.kept = kept + static_cast<int64_t>(p.n) * one.width;
    }
    return DS_LAUNCH(weigh_kernel, dim3(blocks_of(p.width), rows), select_threads, 0, s, p);
}

}  // namespace ds::cuda
