// What each kernel of products can compute, and with which sizes it runs.
#include "config.h"

#include "../../tensor/blocks.h"

#include <algorithm>
#include <cstring>

namespace ds::cuda {

static size_t align256(size_t n) { return (n + 255) / 256 * 256; }

static size_t quantized_row_bytes(int64_t n, int64_t k) {
    return align256(static_cast<size_t>(n * i8_stride(k)));
}
size_t quantized_bytes(int64_t n, int64_t k, int32_t block) {
    return quantized_row_bytes(n, k) +
           align256(static_cast<size_t>(n * (block ? k / block : 1)) * sizeof(float));
}
int8_t *quantized_rows(void *work) { return static_cast<int8_t *>(work); }
float *quantized_scales(void *work, int64_t n, int64_t k) {
    return reinterpret_cast<float *>(static_cast<char *>(work) + quantized_row_bytes(n, k));
}

// A warp has 4 KiB of weights in flight, so 16 warps per processor have 64 KiB. A power of two from 1 to 8,
// and at least 256 bytes of a row (gated: 128) for each warp.
int32_t rows_warps(int32_t k, int32_t blocks, bool gated, int32_t processors) {
    const int32_t pieces = parts(k, gated ? 128 : 256),
                  wanted = parts(int64_t{16} * processors, std::max(blocks, 1));
    int32_t warps = 1;
    while (warps < 8 && (warps < wanted || warps < 4) && 2 * warps <= pieces) warps *= 2;
    return warps;
}

// The large tile reads less per product. The small one is for rows that would leave the large one half empty,
// or where large ones are too few for all processors.
int32_t tile_rows_for(int32_t n, int32_t across, int32_t processors) {
    if (n <= 64) return 64;
    return int64_t{parts(n, 128)} * across < processors ? 64 : 128;
}
size_t tile_bytes(int32_t tile_rows) {
    return static_cast<size_t>(tile_rows + tile_weights) * tile_depth * tile_stages;
}

// A tile of either size occupies a whole processor. A wave of large ones takes twice as long as a wave of
// small ones and reads less per product.
int32_t wgmma_weights_for(int32_t n, int32_t weights, int32_t processors) {
    const int64_t rows = parts(n, wgmma_rows), large = parts(rows * parts(weights, 256), processors),
                  small = parts(rows * parts(weights, 128), processors);
    return 2 * large <= small + small / 8 ? 256 : 128;
}
size_t wgmma_bytes(int32_t weights) {
    return static_cast<size_t>(wgmma_rows + weights) * wgmma_depth * wgmma_stages;
}

// ---- What fits: the fast kernels load 16 bytes at a time

static bool at_16(const void *p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

static bool fits(product_way way, bool aligned, int32_t n, int32_t k, const device_facts &d, int32_t heads) {
    switch (way) {
    case product_way::plain: return n <= 65535 && heads <= 65535;
    case product_way::rows: return aligned && n <= most_few_rows && k % 16 == 0 && d.major >= 8;
    case product_way::tiles:
        return aligned && k % 16 == 0 && d.major >= 8 &&
               static_cast<size_t>(d.shared_bytes) >= tile_bytes(128);
    case product_way::wgmma: return aligned && k % 16 == 0 && d.wgmma;
    default: return false;
    }
}
static bool aligned_rows(const products_params &p) {
    return at_16(p.q) && p.q_stride % 16 == 0 && (p.batch <= 1 || p.q_step % 16 == 0);
}
bool fits(product_way way, const products_params &p, const device_facts &d) {
    bool aligned = aligned_rows(p) && (p.batch <= 1 || p.w_step % 16 == 0);
    for (int32_t i = 0; i < p.count; ++i) aligned = aligned && at_16(p.w[i].w);
    if (p.type != format::i8)
        return way == product_way::packed && is_packed(p.type) && aligned_rows(p) && p.n <= 8 * 65535 &&
               p.batch <= 65535;
    return fits(way, aligned, p.n, p.k, d, p.batch);
}
bool fits(product_way way, const gated_launch_params &p, const device_facts &d) {
    return p.type == format::i8 &&
           fits(way, at_16(p.q) && p.q_stride % 16 == 0 && at_16(p.gate.w) && at_16(p.up.w), p.n, p.k, d, 1);
}

}  // namespace ds::cuda
