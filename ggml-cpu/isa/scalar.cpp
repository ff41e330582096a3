// The kernels without vectors: they run on every machine, and the others are most easily compared with them.

#include "isa.h"
#include "target.h"

#include "../../tensor/numerics.h"

#include <algorithm>
#include <limits>

namespace ds {
namespace scalar {
namespace {

#include "vec_scalar.inl"
#include "float.inl"

// ---- Packed formats

// A block of quantized activations.
template <int n> struct packed_x {
    float scale;
    int8_t q[n];
};

template <format f> void packed_quantize(const float *x, char *y, size_t blocks) {
    constexpr int n = packed<f>::block;
    for (size_t b = 0; b < blocks; ++b) {
        packed_x<n> out;
        out.scale = quantize_block(x + b * n, out.q, n);
        memcpy(y + b * sizeof out, &out, sizeof out);
    }
}

template <format f> float packed_dot(const char *w, const char *x, size_t blocks) {
    float sum = 0.0f;
    packed_x<packed<f>::block> xb;
    for (; blocks > 0; --blocks, w += info(f).bytes, x += sizeof xb) {
        memcpy(&xb, x, sizeof xb);
        sum = block_step<f>(reinterpret_cast<const uint8_t *>(w), xb.q, xb.scale, sum);
    }
    return sum;
}

template <format f> void packed_rows(const packed_args &a) {
    for (size_t j = 0; j < a.weights; ++j)
        for (size_t i = 0; i < a.rows; ++i) {
            const float sum = packed_dot<f>(a.w + j * a.w_stride, a.x + i * a.x_stride, a.blocks);
            a.y[i * a.y_stride + j] = a.bias ? sum + a.bias[j] : sum;
        }
}
template <format f> void packed_tile(const packed_args &a, char *) { packed_rows<f>(a); }

template <format f> struct packed_of {
    static constexpr packed_kernels kernels = {.x_bytes = sizeof(packed_x<packed<f>::block>),
                                               .few_rows = 6,
                                               .tile_weights = 32,
                                               .tile_bytes = 0,
                                               .group_rows = 1,
                                               .quantize = packed_quantize<f>,
                                               .rows = packed_rows<f>,
                                               .tile = packed_tile<f>};
};

// ---- I8

using i8_x = int8_t;
int32_t i8_sum(const i8_x *, size_t) { return 0; }  // nothing starts from it
int32_t i8_start(int32_t) { return 0; }
#include "i8.inl"

int32_t i8_dot(const char *w, const char *x, size_t k) {
    int32_t product = 0;
    for (size_t i = 0; i < k; ++i) product += static_cast<int8_t>(w[i]) * static_cast<int8_t>(x[i]);
    return product;
}
struct scalar_pages {
    static constexpr size_t rows = 3;
    static void pack(const int8_t *page, size_t stride, size_t columns, size_t depth, char *tile) {
        for (size_t c = 0; c < columns; ++c) memcpy(tile + c * depth, page + c * stride, depth);
    }
    static void product(const page_args &a) {
        for (size_t r = 0; r < a.rows; ++r) {
            const char *high = a.x + r * i8_row_bytes(1, a.depth, 2) + i8_head_bytes,
                       *low = high + align64(a.depth);
            for (size_t c = 0; c < a.columns; ++c) {
                const char *column = a.tile + c * a.depth;
                // the sum fits in 32 bits, its first term need not
                const int32_t h = i8_dot(column, high, a.depth), l = i8_dot(column, low, a.depth);
                a.out[r * align64(a.columns) + c] =
                    static_cast<int32_t>(128u * static_cast<uint32_t>(h) + static_cast<uint32_t>(l));
            }
        }
    }
};

void i8_rows(const i8_args &a) {
    for (size_t j = 0; j < a.weights; ++j)
        for (size_t i = 0; i < a.rows; ++i) {
            const char *x = a.x + i * a.x_stride;
            const float y = i8_output(i8_dot(a.w + j * a.w_stride, x + i8_head_bytes, a.k), a.w_scale[j],
                                      i8_head_of(x).scale);
            a.y[i * a.y_stride + j] = a.bias ? y + a.bias[j] : y;
        }
}
void i8_tile(const i8_args &a, char *) { i8_rows(a); }

constexpr i8_kernels i8 = {.element = sizeof(i8_x),
                           .few_rows = 6,
                           .tile_weights = 32,
                           .tile_bytes = 0,
                           .attend_rows = scalar_pages::rows,
                           .group_rows = 1,
                           .quantize = i8_quantize,
                           .rows = i8_rows,
                           .tile = i8_tile,
                           .hadamard = i8_hadamard,
                           .put = i8_put,
                           .query = i8_query,
                           .scores = i8_scores_by<scalar_pages>,
                           .values = i8_values_by<scalar_pages>};

}  // namespace
}  // namespace scalar

static bool available() { return true; }
packed_kernels packed_scalar(format f) { return packed_table<scalar::packed_of>(f); }
const isa isa_scalar = {"scalar", available, &scalar::floats, packed_scalar, &scalar::i8};

}  // namespace ds
