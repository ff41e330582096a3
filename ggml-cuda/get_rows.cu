// get_rows: a block a row; a thread takes one element after the other, or one block of a packed format.
#include "small.cuh"

#include "../tensor/blocks.h"

namespace ds::cuda {

namespace {

template <format type> __global__ void __launch_bounds__(small_block) get_floats_kernel(get_rows_params p) {
    const char *from = static_cast<const char *>(p.table) + p.ids[blockIdx.x] * p.row_bytes;
    float *y = p.y + blockIdx.x * p.y_stride;
    for (int32_t i = static_cast<int32_t>(threadIdx.x); i < p.d; i += small_block) y[i] = load_float<type>(from, i);
}

__global__ void __launch_bounds__(small_block) get_i8_kernel(get_rows_params p) {
    const int32_t id = p.ids[blockIdx.x];
    const int8_t *from = static_cast<const int8_t *>(p.table) + id * p.row_bytes;
    float *y = p.y + blockIdx.x * p.y_stride;
    const float scale = p.scale[id];
    for (int32_t i = static_cast<int32_t>(threadIdx.x); i < p.d; i += small_block) y[i] = static_cast<float>(from[i]) * scale;
}

template <format type> __global__ void __launch_bounds__(small_block) get_blocks_kernel(get_rows_params p, int32_t block_bytes) {
    constexpr int32_t block = packed<type>::block;
    const uint8_t *from = static_cast<const uint8_t *>(p.table) + p.ids[blockIdx.x] * p.row_bytes;
    float *y = p.y + blockIdx.x * p.y_stride;
    for (int32_t b = static_cast<int32_t>(threadIdx.x); b < p.d / block; b += small_block) decode_block<type>(from + static_cast<int64_t>(b) * block_bytes, y + b * block);
}

} // namespace

int launch_get_rows(const get_rows_params &p, stream s) {
    const unsigned rows = static_cast<unsigned>(p.n);
    switch (p.type) {
    case format::f32: return DS_LAUNCH(get_floats_kernel<format::f32>, rows, small_block, 0, s, p);
    case format::f16: return DS_LAUNCH(get_floats_kernel<format::f16>, rows, small_block, 0, s, p);
    case format::bf16: return DS_LAUNCH(get_floats_kernel<format::bf16>, rows, small_block, 0, s, p);
    case format::i8: return DS_LAUNCH(get_i8_kernel, rows, small_block, 0, s, p);
    default: break;
    }
    int code = 1;      // cudaErrorInvalidValue
    const int32_t bytes = static_cast<int32_t>(info(p.type).bytes);
    with_packed(p.type, [&](auto tag) { code = DS_LAUNCH(get_blocks_kernel<tag.value>, rows, small_block, 0, s, p, bytes); });
    return code;
}

} // namespace ds::cuda
