// Sizes of the kernels of products: plain arithmetic on the host, tested without a device.
#pragma once

#include "../launch.h"

namespace ds::cuda {

constexpr int32_t rows_weights = 16;  // weights per block of the few-rows kernel
constexpr int32_t most_few_rows = 32;
constexpr int32_t tile_weights = 128;  // weights per tile; gated: half of each matrix
constexpr int32_t tile_depth = 64;     // bytes of k per stage
constexpr int32_t tile_stages = 4;

constexpr int32_t wgmma_rows = 128;  // rows per tile, by 128 or 256 weights
constexpr int32_t wgmma_depth = 128;
constexpr int32_t wgmma_stages = 4;

constexpr int32_t parts(int64_t n, int64_t of) { return static_cast<int32_t>((n + of - 1) / of); }
// Blocks that cover all matrices side by side.
inline int32_t weights_across(const matrix *w, int32_t count, int32_t weights) {
    int32_t n = 0;
    for (int32_t i = 0; i < count; ++i) n += parts(w[i].m, weights);
    return n;
}
// Warps that divide the depth: enough on every processor to keep loads in flight, each with something to
// load.
int32_t rows_warps(int32_t k, int32_t blocks, bool gated, int32_t processors);
// Rows per tile, 64 or 128.
int32_t tile_rows_for(int32_t n, int32_t across, int32_t processors);
size_t tile_bytes(int32_t tile_rows);  // shared memory per block
// Weights per tile of wgmma, 128 or 256. In a gated product each weight counts twice.
int32_t wgmma_weights_for(int32_t n, int32_t weights, int32_t processors);
size_t wgmma_bytes(int32_t weights);

}  // namespace ds::cuda
