// get_rows: one block per row; a thread takes single elements, or 32 elements of a packed format.
#include "gemm/blocks.cuh"
#include "small.cuh"

namespace ds::cuda {

namespace {

template <format type> __global__ void __launch_bounds__(small_block) get_floats_kernel(get_rows_params p) {
    wait_for_prior_kernels();
    const char *from = static_cast<const char *>(p.table) + p.ids[blockIdx.x] * p.row_bytes;
    float *y = p.y + blockIdx.x * p.y_stride;
    for (int32_t i = static_cast<int32_t>(threadIdx.x); i < p.d; i += small_block)
        y[i] = load_float<type>(from, i);
}

__global__ void __launch_bounds__(small_block) get_i8_kernel(get_rows_params p) {
    wait_for_prior_kernels();
    const int32_t id = p.ids[blockIdx.x];
    const int8_t *from = static_cast<const int8_t *>(p.table) + id * p.row_bytes;
    float *y = p.y + blockIdx.x * p.y_stride;
    const float scale = p.scale[id];
    for (int32_t i = static_cast<int32_t>(threadIdx.x); i < p.d; i += small_block)
        y[i] = static_cast<float>(from[i]) * scale;
}

template <format type> __global__ void __launch_bounds__(small_block) get_blocks_kernel(get_rows_params p) {
    wait_for_prior_kernels();
    using reader = packed_reader<type>;
    constexpr int32_t block_pieces = reader::block / 32;
    constexpr bool minima = reader::header.m >= 0;
    const uint8_t *from = static_cast<const uint8_t *>(p.table) + p.ids[blockIdx.x] * p.row_bytes;
    for (int32_t i = static_cast<int32_t>(threadIdx.x); i < p.d / 32; i += small_block) {
        const uint8_t *const at = from + static_cast<int64_t>(i / block_pieces) * bytes_of<type>::a_block;
        const packed_piece values = reader::read(at, i % block_pieces);
        const float d = float_of_half(static_cast<uint16_t>(two_bytes(at + reader::header.d)));
        float m = 0.0f;
        if constexpr (minima)
            m = float_of_half(static_cast<uint16_t>(two_bytes(at + reader::header.m))) *
                (reader::block == 256 ? -1.0f : 1.0f);
        float *const y = p.y + blockIdx.x * p.y_stride + i * 32;
        for (int e = 0; e < 32; ++e) {
            const float x = (d * static_cast<float>(values.scale[e / 16])) *
                            static_cast<float>(static_cast<int8_t>(values.q[e / 4] >> e % 4 * 8));
            y[e] = minima ? x + m * static_cast<float>(values.min[e / 16]) : x;
        }
    }
}

}  // namespace

int launch_get_rows(const get_rows_params &p, stream s) {
    const unsigned rows = static_cast<unsigned>(p.n);
    switch (p.type) {
    case format::f32: return DS_LAUNCH(get_floats_kernel<format::f32>, rows, small_block, 0, s, p);
    case format::f16: return DS_LAUNCH(get_floats_kernel<format::f16>, rows, small_block, 0, s, p);
    case format::bf16: return DS_LAUNCH(get_floats_kernel<format::bf16>, rows, small_block, 0, s, p);
    case format::i8: return DS_LAUNCH(get_i8_kernel, rows, small_block, 0, s, p);
    default: break;
    }
    return with_packed_format(p.type, [&](auto tag) {
        const auto kernel = get_blocks_kernel<tag.value>;
        return DS_LAUNCH(kernel, rows, small_block, 0, s, p);
    });
}

}  // namespace ds::cuda
