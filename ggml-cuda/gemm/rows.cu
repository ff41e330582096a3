// Products of few rows (up to 32) with I8 weights, bound by reading the weights once. A warp takes 16 weights
// and all rows by mma.m16n8k32 with the weights as its operand a. A sum of integers has no order, so the 16
// bytes of a row that a lane loads may stand for any 16 indices of k, as long as activations are loaded
// alike. No shared memory is in between, and no lane waits for another while loading. The warps of a block
// divide the depth k, 256 or 128 bytes at a time; their sums are added at the end.
#include "config.h"
#include "product.cuh"

namespace ds::cuda {

namespace {

constexpr int piece = 64;  // bytes of a row: 16 in each of four lanes

// One matrix's pieces in flight: two weights per lane, rows g and g + 8 of the warp's 16.
template <int pieces> struct pieces_of {
    uint4 low[pieces], high[pieces];
    __device__ void load(const int8_t *w, int64_t k, int32_t first, int32_t m, int32_t at) {
        const int lane = static_cast<int>(threadIdx.x) % warp_lanes, g = lane / 4;
        const int8_t *const row = w + (first + g) * k;
        DS_UNROLL
        for (int u = 0; u < pieces; ++u) {
            const int64_t c = at + u * piece + lane % 4 * 16;
            low[u] = c < k && first + g < m ? load_once(row + c) : make_uint4(0, 0, 0, 0);
            high[u] = c < k && first + g + 8 < m ? load_once(row + 8 * k + c) : make_uint4(0, 0, 0, 0);
        }
    }
};
__device__ __forceinline__ void multiply_piece(int32_t (&c)[4], const uint4 &low, const uint4 &high,
                                               const uint4 &x) {
    multiply_i8(c, low.x, high.x, low.y, high.y, x.x, x.y);
    multiply_i8(c, low.z, high.z, low.w, high.w, x.z, x.w);
}

template <int tiles, bool gated> __global__ void __launch_bounds__(256) rows_kernel(product_args a) {
    constexpr int pieces = gated ? 2 : 4, matrices = gated ? 2 : 1;
    // Unless the weights are an expert's, which of them a block takes depends on no earlier kernel: their
    // first loads start before waiting for one.
    const bool early = !a.groups;
    if (!early) wait_for_prior_kernels();
    DS_SHARED(memory);
    // [warps][matrices][tiles * 8 rows][16 weights]
    int32_t *const sums = reinterpret_cast<int32_t *>(memory);
    const share s = share_of<gated>(a, rows_weights, tiles * 8);
    const int warps = static_cast<int>(blockDim.x) / warp_lanes,
              warp = static_cast<int>(threadIdx.x) / warp_lanes,
              lane = static_cast<int>(threadIdx.x) % warp_lanes;
    const int g = lane / 4, t = lane % 4;
    pieces_of<pieces> w[matrices];
    int32_t at = warp * pieces * piece;
    const auto load = [&] {
        w[0].load(s.w, a.k, s.first, s.m, at);
        if (gated) w[matrices - 1].load(s.up, a.k, s.first, s.m, at);
    };
    if (early) {
        load();
        wait_for_prior_kernels();
    }
    if (s.rows <= 0) return;
    if (!early) load();
    const int8_t *x[tiles];
    DS_UNROLL
    for (int j = 0; j < tiles; ++j)
        x[j] = 8 * j + g < s.rows ? s.q + source_row(a, s, 8 * j + g) * a.q_stride + t * 16 : nullptr;
    int32_t c[matrices][tiles][4] = {};
    for (; at < a.k;) {
        DS_UNROLL
        for (int u = 0; u < pieces; ++u) DS_UNROLL
        for (int j = 0; j < tiles; ++j) {
            const bool there = x[j] && at + u * piece < a.k;
            const uint4 row = there ? load_16(x[j] + at + u * piece) : make_uint4(0, 0, 0, 0);
            DS_UNROLL
            for (int m = 0; m < matrices; ++m) multiply_piece(c[m][j], w[m].low[u], w[m].high[u], row);
        }
        at += warps * pieces * piece;
        if (at < a.k) load();
    }
    DS_UNROLL
    for (int m = 0; m < matrices; ++m) DS_UNROLL
    for (int j = 0; j < tiles; ++j) DS_UNROLL
    for (int i = 0; i < 4; ++i)
        sums[(((warp * matrices + m) * tiles + j) * 8 + 2 * t + i % 2) * rows_weights + g + i / 2 * 8] =
            c[m][j][i];
    __syncthreads();
    constexpr int results = tiles * 8 * rows_weights;
    for (int e = static_cast<int>(threadIdx.x); e < results; e += static_cast<int>(blockDim.x)) {
        const int32_t row = e / rows_weights, weight = s.first + e % rows_weights;
        if (row >= s.rows || weight >= s.m) continue;
        int32_t sum[matrices] = {};
        for (int i = 0; i < warps; ++i)
            for (int m = 0; m < matrices; ++m) sum[m] += sums[(i * matrices + m) * results + e];
        const float scale = s.q_scale[source_row(a, s, row) * a.scale_stride];
        s.y[(s.row + row) * a.y_stride + s.column + weight] =
            gated ? finish_gated(a, s, weight, sum[0], sum[matrices - 1], scale)
                  : finish(a, s, row, weight, sum[0], scale);
    }
}

template <int tiles, bool gated>
int launch_rows_with(const product_args &a, dim3 grid, int32_t warps, stream s) {
    const size_t bytes =
        static_cast<size_t>(warps) * (gated ? 2 : 1) * tiles * 8 * rows_weights * sizeof(int32_t);
    const auto kernel = rows_kernel<tiles, gated>;
    return DS_LAUNCH(kernel, grid, dim3(static_cast<unsigned>(warps * warp_lanes)), bytes, s, a);
}
template <bool gated>
int launch_tiles_of(int32_t rows, const product_args &a, dim3 grid, int32_t warps, stream s) {
    return rows <= 8    ? launch_rows_with<1, gated>(a, grid, warps, s)
           : rows <= 16 ? launch_rows_with<2, gated>(a, grid, warps, s)
                        : launch_rows_with<4, gated>(a, grid, warps, s);
}

}  // namespace

int launch_rows(const product_args &a, bool gated, int32_t most_rows, int32_t row_groups, int32_t heads,
                const device_facts &d, stream s) {
    const int32_t across = weights_across(a.w, gated ? 1 : a.count, rows_weights),
                  high = row_groups ? row_groups : 1;
    const int32_t warps = rows_warps(a.k, across * high * heads, gated, d.processors);
    const dim3 grid(static_cast<unsigned>(across), static_cast<unsigned>(high), static_cast<unsigned>(heads));
    return gated ? launch_tiles_of<true>(most_rows, a, grid, warps, s)
                 : launch_tiles_of<false>(most_rows, a, grid, warps, s);
}

}  // namespace ds::cuda
