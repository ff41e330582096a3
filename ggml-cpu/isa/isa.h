// What an instruction set gives: one table of kernels over plain pointers, which know vectors and neither
// threads nor tensors. Every table gives the same bits (tensor/numerics.h), and no kernel touches a byte
// outside the arrays that it was given.
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

// Products of the same shape with packed weights; x are rows that quantize wrote.
struct packed_args {
    const char *w;
    size_t w_stride;  // bytes
    const char *x;
    size_t x_stride;  // bytes
    float *y;
    size_t y_stride;               // floats
    const float *bias;             // or null
    size_t blocks, weights, rows;  // blocks: of a row, of the format's size
};

// I8 products of the same shape; x are rows that quantize wrote.
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
    // [key_size][64], [64][value_stride], of which head_size; of latents both are [64][key_size]
    const char *k, *v;
    const char *next_k;  // of the page that will be next, or null; a hint
    size_t rows, head_size;
    size_t key_size;      // head_size, but where keys are made of latents, or are these
    size_t value_stride;  // elements
    float scale;          // attention_scale
    bool first;           // the sequence's first page
};

// The same over a page of i8, in two passes over the pages: scores finds every row's max and largest, then
// values adds to total and denominator. A row with exponent i8_nan is left out of the second pass.
struct i8_attend_args {
    const char *q;  // rows that query wrote, one after the other
    // of this page's positions; a row's are score_stride floats from the next's
    float *scores;
    size_t score_stride;
    const int32_t *seen;             // [rows]
    const int8_t *k, *v;             // [64][head_size], [head_size][64]
    const float *k_scale, *v_scale;  // [64]
    // what will be read next: the following page's keys or values, or null; a hint
    const char *next;
    // [rows], so far: of the scores; of the values' scales. In the second pass max is the whole number above
    float *max, *largest;
    const int32_t *exponent;       // [rows], above largest
    int64_t *total, *denominator;  // [rows][i8_total_stride(head_size)], [rows], so far
    char *scratch;                 // i8_scratch_bytes
    size_t rows, head_size;
};
constexpr int32_t i8_nan = 1 << 30;

struct float_kernels {
    void (*add)(const float *a, const float *b, float *y, size_t n);
    void (*gated)(unary f, const float *gate, const float *up, float *y, size_t n);
    void (*divide)(const float *x, float divisor, float *y, size_t n);
    void (*add_times)(float factor, const float *x, float *y, size_t n);  // y = fma(factor, x, y)
    void (*encode_f16)(const float *x, uint16_t *y, size_t n);
    void (*rms_norm)(const float *x, const float *w, float *y, size_t n, float eps);
    // The pairs (a[i], b[i]), or the pairs (a[2i], a[2i + 1]).
    void (*rope_halves)(const float *a, const float *b, const float *cosine, const float *sine, float *ya,
                        float *yb, size_t pairs);
    void (*rope_adjacent)(const float *a, const float *cosine, const float *sine, float *y, size_t pairs);
    void (*dot_f32)(const dot_args &);
    void (*dot_f16)(const dot_args &);
    void (*dot_bf16)(const dot_args &);
    void (*attend_f32)(const attend_args &);
    void (*attend_f16)(const attend_args &);
    void (*attend_latents_f32)(const attend_args &);
    void (*attend_latents_f16)(const attend_args &);
};

struct packed_kernels {
    // of a quantized block of activations, which has as many elements as one of weights
    size_t x_bytes;
    size_t few_rows;      // of activations: up to here `rows` is quicker than `tile`
    size_t tile_weights;  // rows of weights that a tile takes
    size_t tile_bytes;    // of a tile
    void (*quantize)(const float *x, char *y, size_t blocks);
    // for few rows of activations: weights are read where they lie
    void (*rows)(const packed_args &);
    // for many: at most tile_weights rows of weights, repacked into tile_bytes, part by part
    void (*tile)(const packed_args &, char *scratch);
};

struct i8_kernels {
    size_t element;       // bytes of a quantized activation: see i8_row_bytes
    size_t few_rows;      // of activations: up to here `rows` is quicker than `tile`
    size_t tile_weights;  // rows of weights that a tile takes
    size_t tile_bytes;    // of a tile
    size_t attend_rows;   // query rows that go over a page together, at most: see i8_scratch_bytes
    void (*quantize)(const float *x, char *y, size_t k);
    // for few rows of activations: weights are read where they lie
    void (*rows)(const i8_args &);
    // for many: at most tile_weights rows of weights, repacked into tile_bytes
    void (*tile)(const i8_args &, char *scratch);
    // Pages. A head turned, in place; a head quantized, element i to to[i * step], which gives its scale; a
    // turned query row in two planes.
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
    const packed_kernels *(*packed)(format f);  // of a packed format
    const i8_kernels *i8;
    // available, were it asked for; null: `available` asks the system for nothing
    bool (*could_be)() = nullptr;
};

// elements of a row in a tile: 32 rows stay in a second-level cache
constexpr size_t packed_tile_width = 2048;

// Integers that products take: a head of 64 bytes, which says what the sums start from and are multiplied by,
// then one or two planes of elements.
constexpr size_t align64(size_t n) { return (n + 63) / 64 * 64; }
constexpr size_t i8_row_bytes(size_t element, size_t n, size_t planes) {
    return 64 + planes * align64(n * element);
}
constexpr size_t i8_total_stride(size_t head_size) { return align64(head_size); }
// a page repacked, weights of some rows, their sums
constexpr size_t i8_scratch_bytes(size_t element, size_t attend_rows, size_t head_size) {
    const size_t d = align64(head_size);
    return d * page_positions * element +
           attend_rows * (i8_row_bytes(element, page_positions, 2) + d * sizeof(int32_t));
}

// The table's entry for a format that is known when it is running, of a template over the format.
template <template <format> class table> const packed_kernels *packed_table(format f) {
    const packed_kernels *found = nullptr;
    with_packed(f, [&](auto tag) { found = &table<tag.value>::kernels; });
    return found;
}

extern const isa isa_scalar;
const packed_kernels *packed_scalar(format f);
#if defined(__x86_64__) && !defined(DS_SCALAR_ONLY)
#define DS_X86_KERNELS 1
extern const isa isa_avx2, isa_avx512, isa_avx512_vnni, isa_amx;
extern const float_kernels floats_avx512;
const packed_kernels *packed_avx512_vnni(format f);
#elif defined(__aarch64__) && !defined(DS_SCALAR_ONLY)
#define DS_ARM_KERNELS 1
extern const isa isa_neon;
#endif

}  // namespace ds
