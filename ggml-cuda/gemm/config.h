// Sizes of the kernels of products, and their choice: pure host code on plain numbers, tested without a
// device.
#pragma once

#include "../launch.h"

namespace ds::cuda {

constexpr int32_t rows_weights = 16;  // that a block of the few-rows kernel takes
constexpr int32_t most_few_rows = 32;
constexpr int32_t tile_weights = 128;  // that a tile takes; gated: half of each matrix
constexpr int32_t tile_depth = 64;     // bytes of k a stage
constexpr int32_t tile_stages = 4;

constexpr int32_t wgmma_rows = 128;  // that a tile takes, by 128 or 256 weights
constexpr int32_t wgmma_depth = 128;
constexpr int32_t wgmma_stages = 4;

constexpr int32_t parts(int64_t n, int64_t of) { return static_cast<int32_t>((n + of - 1) / of); }
// Blocks side by side that cover the matrices.
inline int32_t weights_across(const matrix *w, int32_t count, int32_t weights) {
    int32_t n = 0;
    for (int32_t i = 0; i < count; ++i) n += parts(w[i].m, weights);
    return n;
}
// Warps that share the depth: enough of them on every processor that reading never waits, and each with
// something to read.
int32_t rows_warps(int32_t k, int32_t blocks, bool gated, int32_t processors);
// Rows of a tile, 64 or 128.
int32_t tile_rows_for(int32_t n, int32_t across, int32_t processors);
size_t tile_bytes(int32_t tile_rows);  // of shared memory
// Weights of a tile of wgmma's, 128 or 256: `weights` of a gated product count twice.
int32_t wgmma_weights_for(int32_t n, int32_t weights, int32_t processors);
size_t wgmma_bytes(int32_t weights);

}  // namespace ds::cuda
