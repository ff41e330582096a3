// The kernels of an instruction set: one table of functions over plain pointers, which know neither threads
// nor tensors.
// Invariant: every table gives the same bits (tensor/numerics.h), and no kernel touches a byte outside the
// arrays passed to it.
#pragma once

#include "../../tensor/blocks.h"
#include "../../tensor/ops.h"

namespace ds {

// Float products: y[i * y_stride + j] = dot of weight row j and activation row i, + bias[j].
struct dot_args {
    const char *w;
    size_t w_stride;  // bytes
    const float *x;
    size_t x_stride;  // floats
    float *y;
    size_t y_stride;    // floats
    const float *bias;  // or null
    size_t k, weights, rows;
};

// Products of the same shape with packed weights; x are rows written by `quantize`, for `tile` in groups
// written by `pack`, if there is one.
struct packed_args {
    const char *w;
    size_t w_stride;  // bytes
    const char *x;
    size_t x_stride;  // bytes
    float *y;
    size_t y_stride;               // floats
    const float *bias;             // or null
    size_t blocks, weights, rows;  // blocks: per row, of the format's size
};

// I8 products of the same shape; x are rows written by `quantize`, for `tile` and `gated` in groups written
// by `pack`, if there is one.
struct i8_args {
    const char *w;
    size_t w_stride;       // bytes
    const float *w_scale;  // [weights]
    const char *x;
    size_t x_stride;  // bytes
    float *y;
    size_t y_stride;    // floats
    const float *bias;  // or null
    size_t k, weights, rows;
};

// One page's part in the attention of some query rows that share keys and values. Row r sees the page's first
// seen[r] positions, 0 to 64, never fewer than the row before it.
struct attend_args {
    const float *q;       // [rows][key_size]
    float *out;           // [rows][head_size], sums so far
    float *max, *sum;     // [rows], so far
    float *weights;       // [rows][64], scratch
    const int32_t *seen;  // [rows]
    // [key_size][64]; [64][value_stride], the first head_size used. Latents: both are [64][key_size]
    const char *k, *v;
    const char *next_k;  // of the next page, or null; a prefetch hint
    size_t rows, head_size;
    size_t key_size;      // head_size, except for latents and keys made of them
    size_t value_stride;  // elements
    float scale;          // attention_scale
    bool first;           // the sequence's first page
};

// The same over a page of i8, in two passes over the pages: `scores` finds every row's max and largest, then
// `values` adds to total and denominator. The second pass skips rows with exponent i8_nan.
struct i8_attend_args {
    const char *q;  // consecutive rows written by `query`
    // this page's positions; rows are score_stride floats apart
    float *scores;
    size_t score_stride;
    const int32_t *seen;             // [rows]
    const int8_t *k, *v;             // [64][head_size], [head_size][64]
    const float *k_scale, *v_scale;  // [64]
    // what will be read next, the following page's keys or values, or null; a prefetch hint
    const char *next;
    // [rows], so far: of the scores; of the values' scales. The second pass takes max rounded up to an
    // integer
    float *max, *largest;
    const int32_t *exponent;       // [rows], above largest
    int64_t *total, *denominator;  // [rows][i8_total_stride(head_size)], [rows], so far
    char *scratch;                 // i8_scratch_bytes
    size_t rows, head_size;
};
constexpr int32_t i8_nan = 1 << 30;

// y[i][j] = ( y[i][j] + ) the sum over the steps, in order, of a[i * a_row + t * a_step] * b[t * b_stride +
// j], each step an fma: how gradients are summed. With operands in bf16 or f16, a and b are rounded first.
struct outer_args {
    const float *a = nullptr;
    size_t a_row = 0, a_step = 0;  // floats
    const char *b = nullptr;
    size_t b_stride = 0;  // elements
    float *y = nullptr;
    size_t y_stride = 0;
    size_t rows = 0, columns = 0, steps = 0;  // rows: at most outer_most_rows
    bool add = false;                         // to what is in y
    format b_type = format::f32;              // f32, or as operands
    format operands = format::f32;            // f32, bf16 or f16
};
constexpr size_t outer_most_rows = 192, outer_steps = 256, outer_columns = 128;
// Of scratch: a chunk's rows and columns, repacked.
constexpr size_t outer_scratch = outer_steps * (outer_most_rows + 16 + outer_columns);

struct float_kernels {
    void (*add)(const float *a, const float *b, float *y, size_t n);
    void (*gated)(unary f, const float *gate, const float *up, float *y, size_t n);
    void (*divide)(const float *x, float divisor, float *y, size_t n);
    void (*add_times)(float factor, const float *x, float *y, size_t n);  // y = fma(factor, x, y)
    void (*encode_f16)(const float *x, uint16_t *y, size_t n);
    void (*encode_bf16)(const float *x, uint16_t *y, size_t n);
    void (*decode_f16)(const uint16_t *x, float *y, size_t n);
    void (*decode_bf16)(const uint16_t *x, float *y, size_t n);
    void (*rms_norm)(const float *x, const float *w, float *y, size_t n, float eps);
    // Rotate the pairs (a[i], b[i]), and the pairs (a[2i], a[2i + 1]); `direction` is 1, or -1 to rotate
    // back.
    void (*rope_halves)(const float *a, const float *b, const float *cosine, const float *sine, float *ya,
                        float *yb, size_t pairs, float direction);
    void (*rope_adjacent)(const float *a, const float *cosine, const float *sine, float *y, size_t pairs,
                          float direction);
    void (*dot_f32)(const dot_args &);
    void (*dot_f16)(const dot_args &);
    void (*dot_bf16)(const dot_args &);
    void (*attend_f32)(const attend_args &);
    void (*attend_f16)(const attend_args &);
    void (*attend_latents_f32)(const attend_args &);
    void (*attend_latents_f16)(const attend_args &);
    // Gradients. scratch: [outer_scratch]
    void (*outer)(const outer_args &, float *scratch);
    void (*gated_back)(unary f, const float *dy, const float *gate, const float *up, float *dgate, float *dup,
                       size_t n);
    float (*product_sum)(const float *a, const float *b, size_t n);  // in 128 lanes
    void (*times)(float factor, const float *x, float *y, size_t n);
    float (*norm_factor)(const float *x, size_t n, float eps);
    void (*rms_norm_back)(const float *dy, const float *x, const float *w, float *dx, size_t n, float eps);
    void (*add_norm_products)(const float *dy, const float *x, float factor, float *sum, size_t n);
    // A row of scores becomes their softmax, and the products dy . v, times scale, the scores' gradients.
    void (*attend_back)(float *scores, float *products, size_t n, float scale);
    void (*adamw)(const adamw_params &p, const float *g, float *w, float *m, float *v, size_t n);
    float (*largest_finite)(const float *x, size_t n);  // NaN if any is not finite
    int64_t (*sampling_sum)(const float *logits, float largest, size_t n);
    float (*entropy)(const float *logits, float log_sum, size_t n);
    // Logits become their gradients, but for the target's own share.
    void (*cross_entropy_slopes)(float *logits, float log_sum, float entropy, float by_log_probability,
                                 float by_entropy, size_t n);
};

constexpr size_t most_group = 16;

struct packed_kernels {
    // bytes of a quantized block of activations, which has as many elements as one of weights
    size_t x_bytes;
    size_t few_rows;      // of activations: up to here `rows` is faster than `tile`
    size_t tile_weights;  // rows of weights in a tile
    size_t tile_bytes;    // of a tile
    // of activations that `pack` puts together, at most most_group; 1: there is no `pack`
    size_t group_rows;
    void (*quantize)(const float *x, char *y, size_t blocks);
    // n quantized rows, 1 to group_rows; a group takes at most as many bytes as group_rows rows
    void (*pack)(const char *const *rows, size_t n, size_t blocks, char *group);
    // few rows of activations (GEMV): weights are read as stored
    void (*rows)(const packed_args &);
    // many (GEMM): at most tile_weights rows of weights, repacked into tile_bytes, part by part
    void (*tile)(const packed_args &, char *scratch);
};

struct i8_kernels {
    size_t element;       // bytes of a quantized activation: see i8_row_bytes
    size_t few_rows;      // of activations: up to here `rows` is faster than `tile`
    size_t tile_weights;  // rows of weights in a tile
    size_t tile_bytes;    // of a tile
    size_t attend_rows;   // the most query rows that share a pass over a page: see i8_scratch_bytes
    size_t group_rows;  // of activations that `pack` puts together, at most most_group; 1: there is no `pack`
    void (*quantize)(const float *x, char *y, size_t k);
    // n quantized rows, 1 to group_rows; a group takes as many bytes as group_rows rows
    void (*pack)(const char *const *rows, size_t n, size_t k, char *group);
    // few rows of activations: weights are read as stored
    void (*rows)(const i8_args &);
    // many: at most tile_weights rows of weights; scratch: tile_bytes
    void (*tile)(const i8_args &, char *scratch);
    // y = f(gate) * up, with as many rows of weights of each; y and x are gate's; no biases. Null: there is
    // none
    void (*gated)(const i8_args &gate, const i8_args &up, unary f, char *scratch);
    // Pages. hadamard transforms a head in place. put quantizes a head, element i to to[i * step], and
    // returns its scale. query quantizes a transformed query row into two planes.
    void (*hadamard)(float *x, size_t head_size);
    float (*put)(const float *x, int8_t *to, size_t step, size_t n);
    void (*query)(const float *q, float scale, char *y, size_t head_size);
    void (*scores)(const i8_attend_args &);
    void (*values)(const i8_attend_args &);
};

struct isa {
    const char *name;
    bool (*available)();  // on this machine, and to this process
    const float_kernels *floats;
    packed_kernels (*packed)(format f);  // of a packed format
    const i8_kernels *i8;
    // whether `available` would succeed, without asking the system for permission; null: as `available`
    bool (*could_be)() = nullptr;
};

// elements per row of a tile: 32 rows fit a second-level cache
constexpr size_t packed_tile_width = 2048;

// A quantized row: a head of 64 bytes, with what sums start from and are multiplied by, then one or two
// planes of elements.
constexpr size_t align64(size_t n) { return (n + 63) / 64 * 64; }
constexpr size_t i8_row_bytes(size_t element, size_t n, size_t planes) {
    return 64 + planes * align64(n * element);
}
constexpr size_t i8_total_stride(size_t head_size) { return align64(head_size); }
// a repacked page, some rows' weights, their sums
constexpr size_t i8_scratch_bytes(size_t element, size_t attend_rows, size_t head_size) {
    const size_t d = align64(head_size);
    return d * page_positions * element +
           attend_rows * (i8_row_bytes(element, page_positions, 2) + d * sizeof(int32_t));
}

// The kernels for a format known at run time, from a template over formats.
template <template <format> class table> packed_kernels packed_table(format f) {
    packed_kernels kernels = {};
    with_packed(f, [&](auto tag) { kernels = table<tag.value>::kernels; });
    return kernels;
}

extern const isa isa_scalar;
packed_kernels packed_scalar(format f);
#if defined(__x86_64__) && !defined(DS_SCALAR_ONLY)
#define DS_X86_KERNELS 1
extern const isa isa_avx2, isa_avx512, isa_avx512_vnni, isa_avx512_bf16, isa_amx;
extern const float_kernels floats_avx512, floats_avx512_bf16;
// Outer products of bf16 by AVX512-BF16, others by avx512's kernel.
void outer_avx512_bf16(const outer_args &, float *scratch);
bool has_avx512_bf16();
packed_kernels packed_avx512_vnni(format f);
#elif defined(__aarch64__) && !defined(DS_SCALAR_ONLY)
#define DS_ARM_KERNELS 1
extern const isa isa_neon;
#endif

}  // namespace ds
