// Products of many rows with I8 weights on tensor cores: a tile of 64 or 128 rows by 128 weights. Both are
// copied 64 bytes of k at a time into a ring of stages in shared memory and multiplied by mma.m16n8k32. Eight
// warps, two down and four across, take half of the rows and 32 weights each. In a gated product, eight
// weights of gate alternate with the same eight of up, so that one lane holds both sums of a result.
#include "config.h"
#include "product.cuh"

namespace ds::cuda {

namespace {

constexpr int threads = 256, pieces = tile_depth / 16;

template <int rows, bool gated> struct tile {
    static constexpr int copies = (rows + tile_weights) * pieces / threads;  // per thread and stage
    static constexpr int down = rows / 32;                                   // tiles of 16 rows per warp
    static constexpr int stage_bytes = (rows + tile_weights) * tile_depth;

    const int8_t *from[copies];
    bool there[copies];
    int32_t c[down][4][4] = {};

    // Rows of a stage: first those of activations, then those of weights.
    __device__ void find_sources(const product_args &a, const share &s) {
        DS_UNROLL
        for (int i = 0; i < copies; ++i) {
            const int r = (static_cast<int>(threadIdx.x) + i * threads) / pieces;
            if (r < rows) {
                there[i] = r < s.rows;
                from[i] = there[i] ? s.q + source_row(a, s, r) * a.q_stride : s.q;
            } else {
                const int j = r - rows, w = s.first + (gated ? j / 16 * 8 + j % 8 : j);
                there[i] = w < s.m;
                from[i] =
                    (gated && j % 16 >= 8 ? s.up : s.w) + (there[i] ? static_cast<int64_t>(w) * a.k : 0);
            }
        }
    }
    __device__ void copy(char *stage, int32_t at, int32_t k) const {
        // `threads` is a multiple of `pieces`, so a thread always has the same piece
        const int p = static_cast<int>(threadIdx.x) % pieces, column = at + p * 16;
        DS_UNROLL
        for (int i = 0; i < copies; ++i) {
            const int r = (static_cast<int>(threadIdx.x) + i * threads) / pieces;
            const bool inside = there[i] && column < k;
            copy_async(stage + swizzled(r, p, pieces), from[i] + (inside ? column : 0), inside);
        }
    }
    __device__ void multiply(const char *stage) {
        const int lane = static_cast<int>(threadIdx.x) % warp_lanes,
                  warp = static_cast<int>(threadIdx.x) / warp_lanes;
        const int row = warp / 4 * (rows / 2) + lane % 16,
                  weight = rows + warp % 4 * 32 + lane % 8 + lane / 16 * 8;
        DS_UNROLL
        for (int step = 0; step < tile_depth / 32; ++step) {
            uint32_t b[2][4];
            DS_UNROLL
            for (int j = 0; j < 2; ++j)
                load_matrices(b[j], stage + swizzled(weight + j * 16, step * 2 + lane / 8 % 2, pieces));
            DS_UNROLL
            for (int i = 0; i < down; ++i) {
                uint32_t x[4];
                load_matrices(x, stage + swizzled(row + i * 16, step * 2 + lane / 16, pieces));
                DS_UNROLL
                for (int j = 0; j < 4; ++j)
                    multiply_i8(c[i][j], x[0], x[1], x[2], x[3], b[j / 2][j % 2 * 2],
                                b[j / 2][j % 2 * 2 + 1]);
            }
        }
    }
    __device__ void store(const product_args &a, const share &s) const {
        const int lane = static_cast<int>(threadIdx.x) % warp_lanes,
                  warp = static_cast<int>(threadIdx.x) / warp_lanes;
        DS_UNROLL
        for (int i = 0; i < down; ++i) DS_UNROLL
        for (int half = 0; half < 2; ++half) {
            const int32_t row = warp / 4 * (rows / 2) + i * 16 + lane / 4 + half * 8;
            if (row >= s.rows) continue;
            const float scale = s.q_scale[source_row(a, s, row) * a.scale_stride];
            float *const y = s.y + (s.row + row) * a.y_stride + s.column;
            DS_UNROLL
            for (int j = 0; j < 4; j += gated ? 2 : 1) DS_UNROLL
            for (int e = 0; e < 2; ++e) {
                const int32_t w =
                    s.first + (gated ? warp % 4 * 16 + j / 2 * 8 : warp % 4 * 32 + j * 8) + lane % 4 * 2 + e;
                if (w >= s.m) continue;
                const int32_t sum = c[i][j][half * 2 + e];
                y[w] = gated ? finish_gated(a, s, w, sum, c[i][j + (gated ? 1 : 0)][half * 2 + e], scale)
                             : finish(a, s, row, w, sum, scale);
            }
        }
    }
};

template <int rows, bool gated> __global__ void __launch_bounds__(threads) tiles_kernel(product_args a) {
    wait_for_prior_kernels();
    DS_SHARED(memory);
    const share s = share_of<gated>(a, gated ? tile_weights / 2 : tile_weights, rows);
    if (s.rows <= 0) return;
    using one = tile<rows, gated>;
    one t;
    t.find_sources(a, s);
    const int32_t steps = (a.k + tile_depth - 1) / tile_depth;
    for (int i = 0; i < tile_stages - 1; ++i) {
        if (i < steps) t.copy(memory + i * one::stage_bytes, i * tile_depth, a.k);
        close_copies();
    }
    for (int32_t step = 0; step < steps; ++step) {
        wait_copies<tile_stages - 2>();
        // This step's stage is complete for all threads, and nobody reads the previous one any more: the next
        // copy goes there.
        __syncthreads();
        const int32_t next = step + tile_stages - 1;
        if (next < steps) t.copy(memory + next % tile_stages * one::stage_bytes, next * tile_depth, a.k);
        close_copies();
        t.multiply(memory + step % tile_stages * one::stage_bytes);
    }
    t.store(a, s);
}

template <int rows, bool gated> int launch_with(const product_args &a, dim3 grid, stream s) {
    const auto kernel = tiles_kernel<rows, gated>;
    return DS_LAUNCH(kernel, grid, dim3(threads), tile_bytes(rows), s, a);
}

}  // namespace

int launch_tiles(const product_args &a, bool gated, int32_t tile_rows, int32_t row_groups, int32_t heads,
                 stream s) {
    const int32_t across = weights_across(a.w, gated ? 1 : a.count, gated ? tile_weights / 2 : tile_weights),
                  high = row_groups ? row_groups : parts(a.n, tile_rows);
    const dim3 grid(static_cast<unsigned>(across), static_cast<unsigned>(high), static_cast<unsigned>(heads));
    if (tile_rows == 128)
        return gated ? launch_with<128, true>(a, grid, s) : launch_with<128, false>(a, grid, s);
    return gated ? launch_with<64, true>(a, grid, s) : launch_with<64, false>(a, grid, s);
}

int prepare_tiles() {
    int bad = 0;
    const auto allow = [&](const void *kernel, int32_t rows) {
        if (!bad)
            bad = static_cast<int>(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                        static_cast<int>(tile_bytes(rows))));
    };
    allow(reinterpret_cast<const void *>(tiles_kernel<64, false>), 64);
    allow(reinterpret_cast<const void *>(tiles_kernel<64, true>), 64);
    allow(reinterpret_cast<const void *>(tiles_kernel<128, false>), 128);
    allow(reinterpret_cast<const void *>(tiles_kernel<128, true>), 128);
    return bad;
}

}  // namespace ds::cuda
