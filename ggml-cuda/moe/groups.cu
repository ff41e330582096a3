// Products of rows that are sorted by matrix (groups.h). The grid has as many rows as there can be groups;
// the blocks of empty groups return. Which slot a pair gets changes no bit.
#include "groups.h"

#include "../gemm/config.h"

namespace ds::cuda {

namespace {

constexpr int sort_threads = 1024;

__device__ int32_t matrix_of_pair(const sort_args &a, int32_t pair) {
    return static_cast<int32_t>(a.route[pair / a.used * a.route_stride + pair % a.used]);
}

// Turns x into its running sums, one element per thread.
__device__ void sum_up(int32_t *x) {
    const int i = static_cast<int>(threadIdx.x);
    for (int step = 1; step < sort_threads; step *= 2) {
        const int32_t other = i >= step ? x[i - step] : 0;
        __syncthreads();
        x[i] += other;
        __syncthreads();
    }
}

__global__ void __launch_bounds__(sort_threads) sort_kernel(sort_args a) {
    wait_for_prior_kernels();
    __shared__ int32_t count[sort_threads], next[sort_threads], group[sort_threads];
    const int32_t i = static_cast<int32_t>(threadIdx.x), pairs = a.n * a.used;
    count[i] = 0;
    __syncthreads();
    for (int32_t p = i; p < pairs; p += sort_threads) atomicAdd(&count[matrix_of_pair(a, p)], 1);
    __syncthreads();
    const int32_t mine = count[i], groups = (mine + a.group_rows - 1) / a.group_rows;
    next[i] = mine, group[i] = groups;
    __syncthreads();
    sum_up(next);
    sum_up(group);
    const int32_t first = next[i] - mine, first_group = group[i] - groups, all = group[sort_threads - 1];
    __syncthreads();
    next[i] = first;
    for (int32_t g = 0; g < groups; ++g) {
        const int32_t begin = g * a.group_rows,
                      rows = mine - begin < a.group_rows ? mine - begin : a.group_rows;
        a.group[first_group + g] = {i, first + begin, rows};
    }
    for (int32_t g = all + i; g < a.groups; g += sort_threads) a.group[g] = {0, 0, 0};
    __syncthreads();
    for (int32_t p = i; p < pairs; p += sort_threads) {
        const int32_t slot = atomicAdd(&next[matrix_of_pair(a, p)], 1);
        a.slot[p] = slot;
        a.row_of[slot] = p / a.per;
    }
}

// ---- Float weights: half a warp per result, of which thread j is lane j of the sum (numerics.h,
// dot_in_lanes)

constexpr int float_warps = 8;

struct float_product_args {
    const float *x;
    int64_t x_stride;
    const void *w;   // [experts, m, k]
    int64_t w_step;  // elements from expert to expert
    int32_t m, k;
    float *y;  // [pairs, m]
    const row_group *groups;
    const int32_t *row_of;  // or null
};
struct f32_weights {
    const float *p;
    __device__ float operator()(int64_t i) const { return p[i]; }
};
struct f16_weights {
    const uint16_t *p;
    __device__ float operator()(int64_t i) const { return half_value(p[i]); }
};
struct bf16_weights {
    const uint16_t *p;
    __device__ float operator()(int64_t i) const { return float_of(static_cast<uint32_t>(p[i]) << 16); }
};

template <class W, class T> __global__ void float_product_kernel(float_product_args a) {
    wait_for_prior_kernels();
    const row_group g = a.groups[blockIdx.y];
    const int lane = static_cast<int>(threadIdx.x) % dot_lanes;
    const int32_t column = static_cast<int32_t>(blockIdx.x) * float_warps * 2 +
                           static_cast<int32_t>(threadIdx.x) / dot_lanes,
                  w_column = column < a.m ? column : a.m - 1;
    const W w = {static_cast<const T *>(a.w) + g.expert * a.w_step + static_cast<int64_t>(w_column) * a.k};
    for (int32_t i = 0; i < g.rows; ++i) {
        const float *const x = a.x + (a.row_of ? a.row_of[g.first + i] : g.first + i) * a.x_stride;
        float sum = 0.0f;
        for (int32_t c = lane; c < a.k; c += dot_lanes) sum = fma_f32(x[c], w(c), sum);
        for (int s = dot_lanes / 2; s > 0; s /= 2) sum = sum + __shfl_down_sync(all_lanes, sum, s);
        if (lane == 0 && column < a.m) a.y[static_cast<int64_t>(g.first + i) * a.m + column] = sum;
    }
}

// ---- Products

bool is_float(format f) { return f == format::f32 || f == format::f16 || f == format::bf16; }

int64_t step_of(const expert_matrices &w, int32_t m, int32_t k) {
    return w.step ? w.step : static_cast<int64_t>(m) * k;
}
template <class W, class T> int launch_float_groups(const float_product_args &a, int32_t groups, stream s) {
    const auto kernel = float_product_kernel<W, T>;
    return DS_LAUNCH(kernel,
                     dim3(static_cast<unsigned>(parts(a.m, 2 * float_warps)), static_cast<unsigned>(groups)),
                     dim3(float_warps * warp_lanes), 0, s, a);
}

}  // namespace

int launch_sort(const sort_args &a, stream s) {
    return DS_LAUNCH(sort_kernel, dim3(1), dim3(sort_threads), 0, s, a);
}
int quantize_rows(const rows_in &in, format f, stream s) {
    if (is_float(f)) return 0;
    const int32_t block = f == format::i8 ? 0 : static_cast<int32_t>(info(f).block);
    return launch_quantize({in.x, in.x_stride, nullptr, 0, nullptr, 0, quantized_rows(in.quantized),
                            i8_stride(in.k), quantized_scales(in.quantized, in.n, in.k), block, in.n, in.k},
                           s);
}
product_args args_for(const rows_in &in, const expert_matrices &w, int32_t m, float *y,
                      const row_group *groups) {
    product_args a{};
    a.q = quantized_rows(in.quantized), a.q_stride = i8_stride(in.k);
    a.q_scale = quantized_scales(in.quantized, in.n, in.k),
    a.scale_stride = w.type == format::i8 ? 1 : in.k / static_cast<int32_t>(info(w.type).block);
    a.w[0] = {w.w, w.scale, nullptr, m, 0};
    a.count = 1, a.n = in.n, a.k = in.k;
    a.w_step = step_of(w, m, in.k), a.w_scale_step = w.scale_step ? w.scale_step : m;
    a.y = y, a.y_stride = m;
    a.groups = groups, a.row_of = in.row_of;
    return a;
}
int launch_i8_groups(const product_args &a, bool gated, const group_cut &cut, const device_facts &d,
                     stream s) {
    const auto at_16 = [](const void *p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; };
    const bool aligned =
        a.k % 16 == 0 && a.w_step % 16 == 0 && at_16(a.w[0].w) && (!gated || at_16(a.w[1].w)) && d.major >= 8;
    if (!aligned) return launch_plain(a, gated, cut.groups, 1, s);
    if (d.wgmma && cut.group_rows == wgmma_rows) return launch_wgmma(a, gated, 128, cut.groups, 1, s);
    if (cut.group_rows > most_few_rows) return launch_tiles(a, gated, cut.group_rows, cut.groups, 1, s);
    return launch_rows(a, gated, cut.group_rows, cut.groups, 1, d, s);
}
int launch_one(const rows_in &in, const expert_matrices &w, int32_t m, float *y, const row_group *groups,
               const group_cut &cut, const device_facts &d, stream s) {
    const float_product_args f = {in.x, in.x_stride, w.w, step_of(w, m, in.k), m, in.k, y, groups, in.row_of};
    switch (w.type) {
    case format::f32: return launch_float_groups<f32_weights, float>(f, cut.groups, s);
    case format::f16: return launch_float_groups<f16_weights, uint16_t>(f, cut.groups, s);
    case format::bf16: return launch_float_groups<bf16_weights, uint16_t>(f, cut.groups, s);
    case format::i8: return launch_i8_groups(args_for(in, w, m, y, groups), false, cut, d, s);
    default: return launch_packed(w.type, args_for(in, w, m, y, groups), cut.group_rows, cut.groups, 1, s);
    }
}

}  // namespace ds::cuda
