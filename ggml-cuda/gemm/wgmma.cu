// Products of many rows with I8 weights by Hopper's wgmma: a tile of 128 rows by 128 or 256 weights. Two
// warpgroups take 64 of the rows and all of the weights each; both copy, 128 bytes of k per stage, into a
// ring of four stages in shared memory, in the instruction's 128-byte swizzle. In a gated product, eight
// weights of gate alternate with the same eight of up.
// Copies run two stages ahead, and a stage's products go on while the next stage is awaited. A stage may be
// overwritten when both groups have finished the products of two steps ago, which this step's barrier
// ensures.
#include "wgmma.cuh"

#include "config.h"
#include "product.cuh"

namespace ds::cuda {

namespace {

constexpr int wgmma_threads = 256, wgmma_pieces = wgmma_depth / 16;
static_assert(wgmma_pieces == 8, "rows of 128 bytes");

template <int wide, bool gated> struct wgmma_tile {
    static constexpr int copies = (wgmma_rows + wide) * wgmma_pieces / wgmma_threads,
                         step = wgmma_threads / wgmma_pieces;
    static constexpr int stage_bytes = (wgmma_rows + wide) * wgmma_depth;

    // A thread has the same piece of each of its rows, which are `step` apart.
    const product_args &a;
    const share &s;
    int32_t d[wide / 2] = {};

    __device__ const int8_t *source(int r, bool &there) const {
        if (r < wgmma_rows) {
            there = r < s.rows;
            return there ? s.q + source_row(a, s, r) * a.q_stride : s.q;
        }
        const int j = r - wgmma_rows, w = s.first + (gated ? j / 16 * 8 + j % 8 : j);
        there = w < s.m;
        return (gated && j % 16 >= 8 ? s.up : s.w) + (there ? static_cast<int64_t>(w) * a.k : 0);
    }
    __device__ void copy(char *stage, int32_t at) const {
        const int p = static_cast<int>(threadIdx.x) % wgmma_pieces,
                  first = static_cast<int>(threadIdx.x) / wgmma_pieces, c = at + p * 16;
        DS_UNROLL
        for (int i = 0; i < copies; ++i) {
            const int r = first + i * step;
            bool there;
            const int8_t *const from = source(r, there);
            there = there && c < a.k;
            copy_async(stage + swizzled(r, p, wgmma_pieces), from + (there ? c : 0), there);
        }
    }
    __device__ void multiply(const char *stage) {
        const uint64_t x = describe(stage + static_cast<int>(threadIdx.x) / 128 * 64 * wgmma_depth),
                       w = describe(stage + wgmma_rows * wgmma_depth);
        open_products();
        DS_UNROLL
        for (int i = 0; i < wgmma_depth / 32; ++i)
            multiply_async<wide>(d, x + i * (32 >> 4), w + i * (32 >> 4));
        close_products();
    }
    __device__ void store() const {
        const int lane = static_cast<int>(threadIdx.x) % warp_lanes,
                  warp = static_cast<int>(threadIdx.x) / warp_lanes;
        DS_UNROLL
        for (int half = 0; half < 2; ++half) {
            const int32_t row = warp * 16 + lane / 4 + half * 8;
            if (row >= s.rows) continue;
            const float scale = s.q_scale[source_row(a, s, row) * a.scale_stride];
            float *const y = s.y + (s.row + row) * a.y_stride + s.column;
            DS_UNROLL
            for (int j = 0; j < wide / 8; j += gated ? 2 : 1) DS_UNROLL
            for (int e = 0; e < 2; ++e) {
                const int32_t w = s.first + (gated ? j / 2 : j) * 8 + lane % 4 * 2 + e,
                              sum = d[j * 4 + half * 2 + e];
                if (w >= s.m) continue;
                y[w] = gated ? finish_gated(a, s, w, sum, d[(j + (gated ? 1 : 0)) * 4 + half * 2 + e], scale)
                             : finish(a, s, row, w, sum, scale);
            }
        }
    }
};

template <int wide, bool gated> __global__ void __launch_bounds__(wgmma_threads, 1)
    wgmma_kernel(product_args a) {
    wait_for_prior_kernels();
#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || !defined(__CUDACC__)
    DS_SHARED(memory);
    const share s = share_of<gated>(a, gated ? wide / 2 : wide, wgmma_rows);
    if (s.rows <= 0) return;
    using tile = wgmma_tile<wide, gated>;
    tile t = {a, s};
    constexpr int ahead = wgmma_stages - 2;
    const int32_t steps = (a.k + wgmma_depth - 1) / wgmma_depth;
    for (int i = 0; i < ahead; ++i) {
        if (i < steps) t.copy(memory + i * tile::stage_bytes, i * wgmma_depth);
        close_copies();
    }
    int32_t step = 0;
    // At least one step: where the compiler sees that, it lets the products of two steps overlap.
    do {
        wait_copies<ahead - 1>();
        show_written();
        __syncthreads();
        const int32_t next = step + ahead;
        if (next < steps) t.copy(memory + next % wgmma_stages * tile::stage_bytes, next * wgmma_depth);
        close_copies();
        t.multiply(memory + step % wgmma_stages * tile::stage_bytes);
        wait_products<1>();
    } while (++step < steps);
    wait_products<0>();
    settle(t.d);
    t.store();
#endif
}

template <int wide, bool gated>
int launch_wgmma_tiles(const product_args &a, int32_t row_groups, int32_t heads, stream s) {
    const int32_t across = weights_across(a.w, gated ? 1 : a.count, gated ? wide / 2 : wide),
                  high = row_groups ? row_groups : parts(a.n, wgmma_rows);
    const dim3 grid(static_cast<unsigned>(across), static_cast<unsigned>(high), static_cast<unsigned>(heads));
    const auto kernel = wgmma_kernel<wide, gated>;
    return DS_LAUNCH(kernel, grid, dim3(wgmma_threads), wgmma_bytes(wide), s, a);
}

}  // namespace

int launch_wgmma(const product_args &a, bool gated, int32_t wide, int32_t row_groups, int32_t heads,
                 stream s) {
    if (wide == 256)
        return gated ? launch_wgmma_tiles<256, true>(a, row_groups, heads, s)
                     : launch_wgmma_tiles<256, false>(a, row_groups, heads, s);
    return gated ? launch_wgmma_tiles<128, true>(a, row_groups, heads, s)
                 : launch_wgmma_tiles<128, false>(a, row_groups, heads, s);
}

int prepare_wgmma(device_facts &d) {
    d.wgmma = false;
    if (d.major != 9 || d.minor != 0 || static_cast<size_t>(d.shared_bytes) < wgmma_bytes(256)) return 0;
    // Without sm_90a the kernel is compiled empty, and then it needs no registers for sums.
    cudaFuncAttributes found;
    const int bad = static_cast<int>(
        cudaFuncGetAttributes(&found, reinterpret_cast<const void *>(wgmma_kernel<256, false>)));
    if (bad || found.numRegs < 128) return bad;
    const auto allow = [&](const void *kernel, int32_t wide) {
        return static_cast<int>(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                     static_cast<int>(wgmma_bytes(wide))));
    };
    if (const int no = allow(reinterpret_cast<const void *>(wgmma_kernel<128, false>), 128)) return no;
    if (const int no = allow(reinterpret_cast<const void *>(wgmma_kernel<128, true>), 128)) return no;
    if (const int no = allow(reinterpret_cast<const void *>(wgmma_kernel<256, false>), 256)) return no;
    if (const int no = allow(reinterpret_cast<const void *>(wgmma_kernel<256, true>), 256)) return no;
    d.wgmma = true;
    return 0;
}

}  // namespace ds::cuda
