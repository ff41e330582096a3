// Products with packed weights in the CPU's order, so with its bits: a block's product is a sum of integers,
// and an output adds its blocks one after the other (numerics.h, q8_block_step). A warp takes some weights
// and up to 8 rows. Its lanes share 32 pieces of 32 elements and leave the blocks' integers in shared memory;
// then each lane adds those of one output, in order.
#include "blocks.cuh"
#include "config.h"
#include "product.cuh"

namespace ds::cuda {

namespace {

constexpr int packed_warps = 4, packed_rows = 8;

// Weights per warp; times rows at most 32 outputs.
constexpr int packed_weights(int rows) { return rows == 1 ? 8 : 4; }

// What a warp stores of 1,024 elements.
template <format f, int rows> struct block_sums_of {
    static constexpr int blocks = 1024 / packed_reader<f>::block, weights = packed_weights(rows),
                         outputs = weights * rows;
    static constexpr bool minima = packed_reader<f>::header.m >= 0;
    float product[blocks][outputs + 1];
    float min[minima ? blocks : 1][outputs + 1];
    float d[blocks][weights], m[minima ? blocks : 1][weights], x[blocks][rows];
};

template <format f, int rows> __global__ void __launch_bounds__(packed_warps *warp_lanes)
    packed_kernel(product_args a) {
    wait_for_prior_kernels();
    using reader = packed_reader<f>;
    using sums_of = block_sums_of<f, rows>;
    constexpr int block = reader::block, bytes = bytes_of<f>::a_block, weights = sums_of::weights,
                  lanes_a_block = block / 32;
    __shared__ sums_of memory[packed_warps];
    const share s = share_of<false>(a, packed_warps * weights, rows);
    const int lane = static_cast<int>(threadIdx.x) % warp_lanes,
              warp = static_cast<int>(threadIdx.x) / warp_lanes;
    const int32_t first = s.first + warp * weights, blocks = a.k / block;
    if (s.rows <= 0 || first >= s.m) return;
    sums_of &to = memory[warp];
    const uint8_t *const w = reinterpret_cast<const uint8_t *>(s.w);
    // this lane's block of those at hand, and its piece of that block
    const int mine = lane / lanes_a_block, piece = lane % lanes_a_block;
    const int output_weight = lane % weights, output_row = lane / weights;
    float sum = 0.0f;
    for (int32_t done = 0; done < blocks; done += sums_of::blocks) {
        const int32_t b = done + mine;
        const bool there = b < blocks;
        packed_piece p[weights];
        DS_UNROLL
        for (int i = 0; i < weights; ++i) {
            const bool here = there && first + i < s.m;
            const uint8_t *const at =
                w + ((here ? first + i : first) * static_cast<int64_t>(blocks) + (here ? b : 0)) * bytes;
            p[i] = reader::read(at, piece);
            if (piece == 0) {
                to.d[mine][i] = half_value(static_cast<uint16_t>(two_bytes(at + reader::header.d)));
                if (sums_of::minima) {
                    const float m = half_value(
                        static_cast<uint16_t>(two_bytes(at + (sums_of::minima ? reader::header.m : 0))));
                    to.m[mine][i] = block == 256 ? -m : m;
                }
            }
        }
        DS_UNROLL
        for (int r = 0; r < rows; ++r) {
            const bool here = there && r < s.rows;
            const int64_t row = here ? source_row(a, s, r) : 0;
            uint32_t x[8] = {};
            if (here) {
                const int8_t *const at =
                    s.q + row * a.q_stride + static_cast<int64_t>(b) * block + piece * 32;
                const uint4 low = load_16(at), high = load_16(at + 16);
                x[0] = low.x, x[1] = low.y, x[2] = low.z, x[3] = low.w, x[4] = high.x, x[5] = high.y,
                x[6] = high.z, x[7] = high.w;
            }
            if (piece == 0) to.x[mine][r] = here ? s.q_scale[row * a.scale_stride + b] : 0.0f;
            int32_t ones[2] = {0, 0};
            if (sums_of::minima) DS_UNROLL
            for (int i = 0; i < 8; ++i) ones[i / 4] = __dp4a(0x01010101, static_cast<int>(x[i]), ones[i / 4]);
            DS_UNROLL
            for (int i = 0; i < weights; ++i) {
                int32_t half[2] = {0, 0};
                DS_UNROLL
                for (int j = 0; j < 8; ++j)
                    half[j / 4] = __dp4a(static_cast<int>(p[i].q[j]), static_cast<int>(x[j]), half[j / 4]);
                int32_t scaled = p[i].scale[0] * half[0] + p[i].scale[1] * half[1],
                        min = p[i].min[0] * ones[0] + p[i].min[1] * ones[1];
                DS_UNROLL
                for (int step = lanes_a_block / 2; step > 0; step /= 2) {
                    scaled += __shfl_xor_sync(all_lanes, scaled, step);
                    if (sums_of::minima) min += __shfl_xor_sync(all_lanes, min, step);
                }
                if (piece != 0) continue;
                to.product[mine][r * weights + i] = static_cast<float>(scaled);
                if (sums_of::minima) to.min[mine][r * weights + i] = static_cast<float>(min);
            }
        }
        __syncwarp();
        if (output_row < rows)
            for (int i = 0; i < sums_of::blocks && done + i < blocks; ++i) {
                const float x = to.x[i][output_row];
                sum = fma_f32(to.product[i][lane], to.d[i][output_weight] * x, sum);
                if (sums_of::minima)
                    sum = fma_f32(to.min[sums_of::minima ? i : 0][lane],
                                  to.m[sums_of::minima ? i : 0][output_weight] * x, sum);
            }
        __syncwarp();
    }
    const int32_t column = first + output_weight;
    if (output_row >= s.rows || output_row >= rows || column >= s.m) return;
    if (s.bias) sum = sum + s.bias[column];
    if (s.residual) sum = s.residual[(s.row + output_row) * a.residual_stride + column] + sum;
    s.y[(s.row + output_row) * a.y_stride + s.column + column] = sum;
}

template <format f, int rows>
int launch_packed_rows(product_args a, int32_t row_groups, int32_t heads, stream s) {
    a.w_step = a.w_step / packed_reader<f>::block * bytes_of<f>::a_block;
    const dim3 grid(static_cast<unsigned>(weights_across(a.w, a.count, packed_warps * packed_weights(rows))),
                    static_cast<unsigned>(row_groups ? row_groups : parts(a.n, rows)),
                    static_cast<unsigned>(heads));
    const auto kernel = packed_kernel<f, rows>;
    return DS_LAUNCH(kernel, grid, dim3(packed_warps * warp_lanes), 0, s, a);
}

}  // namespace

int launch_packed(format type, const product_args &a, int32_t most_rows, int32_t row_groups, int32_t heads,
                  stream s) {
    return with_packed_format(type, [&](auto tag) {
        return most_rows == 1 ? launch_packed_rows<tag.value, 1>(a, row_groups, heads, s)
                              : launch_packed_rows<tag.value, packed_rows>(a, row_groups, heads, s);
    });
}

}  // namespace ds::cuda
