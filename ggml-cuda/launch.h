// The kernels of the big operations as the backend calls them: one plain struct a kernel, a shape on every
// pointer, strides in elements; the caller has checked shapes (tensor/ops/*.cpp) and chosen a way that fits.
// All pointers are to device memory. A launch only queues work on the stream: it allocates and waits for
// nothing, so it can be captured in a graph, and the grid depends on the struct's plain numbers alone. It
// returns a cudaError_t, 0 for none.
//
// Weights lie on the device as they lie in the file: I8 [m, k] row after row, packed formats block after
// block. The fast ways want rows and bases at multiples of 16 bytes, which those of real models are; `fits`
// says so, and the plain way takes anything. Scratch is wanted at multiples of 256 bytes.
#pragma once

#include "../tensor/ops.h"

struct CUstream_st;

namespace ds::cuda {

// A cudaStream_t. With `overlaps` a kernel may begin before the one in front of it has ended; it waits where
// it needs what that made (wait_for_prior_kernels, device.cuh).
struct stream {
    CUstream_st *handle;
    bool overlaps;
    stream(CUstream_st *h = nullptr, bool early = false) : handle(h), overlaps(early) {}
    operator CUstream_st *() const { return handle; }
};

struct device_facts {
    int32_t major, minor;  // compute capability
    int32_t processors;    // multiprocessors
    int32_t shared_bytes;  // the most dynamic shared memory that a block may ask for
    bool wgmma;            // sm_90a's code is there and runs: prepare_kernels says so
};

// Once a device, before the first launch: lets kernels have more than 48 KiB of shared memory, and sees which
// there are.
int prepare_kernels(device_facts &);

// ---- Rows of activations made ready for products

// y = rms_norm(x) * norm, if there is a norm; quantized as the weights ask. What is not wanted is null.
struct quantize_params {
    const float *x;  // [n, k]
    int64_t x_stride;
    const float *norm;  // [k], or null
    float eps;
    float *y;  // [n, k]: the rows as floats
    int64_t y_stride;
    int8_t *q;         // [n, q_stride]
    int64_t q_stride;  // i8_stride(k): zeros from k on
    float *scale;      // [n, k / block], or [n]
    // 32 or 256: quantized in such blocks, for packed weights; 0: the row as one, for I8
    int32_t block;
    int32_t n, k;
};
int launch_quantize(const quantize_params &, stream);
constexpr int64_t i8_stride(int64_t k) { return (k + 127) / 128 * 128; }
// Of q and scale together: q first, then the scales.
size_t quantized_bytes(int64_t n, int64_t k, int32_t block);
int8_t *quantized_rows(void *work);
float *quantized_scales(void *work, int64_t n, int64_t k);

// ---- Products with I8 or packed weights

struct matrix {
    const void *w;       // [m, k], row after row
    const float *scale;  // I8: [m]
    const float *bias;   // [m], or null
    int32_t m;
    int32_t column;  // of y, where its first result goes
};
constexpr int32_t most_matrices = 3;

// y[n, column + m] = residual + (q w^T + bias), for each of `count` matrices of one format. For `batch` heads
// at once (head_matmul) each pointer moves on by its own step from head to head; with batch 1 the steps are
// not used.
struct products_params {
    format type;      // i8, or a packed one
    const int8_t *q;  // [n, q_stride], from launch_quantize with the format's block
    int64_t q_stride, q_step;
    const float *q_scale;              // [n, scale_stride]
    int64_t scale_stride, scale_step;  // I8: 1 a row; packed: k / block
    matrix w[most_matrices];
    int32_t count, n, k, batch;
    int64_t w_step, w_scale_step;  // elements
    float *y;
    int64_t y_stride, y_step;
    const float *residual;  // [n, m] for the one matrix, or null
    int64_t residual_stride;
};
// y[n, m] = f(q gate^T) * (q up^T), both of I8. Of other formats: two products, and launch_gate
struct gated_launch_params {
    format type;
    const int8_t *q;
    int64_t q_stride;
    const float *q_scale;
    int64_t scale_stride;
    matrix gate, up;  // of the same m; no bias
    int32_t n, k;
    unary f;
    float *y;
    int64_t y_stride;
};

// The ways to compute a product, in the order in which operations try them (gemm/run_products.cpp). Those before
// `mixed` are kernels for quantized rows; the others are made of several launches (gemm/products.cpp).
enum class product_way : int32_t {
    wgmma,    // I8: wgmma on int8, sm_90a
    rows,     // I8, up to 32 rows: bound by memory, 16-byte loads
    tiles,    // I8: mma.sync on int8 tensor cores
    plain,    // I8 of any shape; slow
    packed,   // packed formats, any number of rows
    mixed,    // weights of several kinds (I8, packed, floats): each format by the first way that fits it
    library,  // floats of many rows by cuBLAS; I8 by cuBLASLt, only when forced
    lanes,    // floats in the CPU's order of sums
    count
};
constexpr const char *name_of(product_way w) {
    constexpr const char *names[] = {"wgmma",  "rows",  "tiles",   "plain",
                                     "packed", "mixed", "library", "lanes"};
    return names[static_cast<size_t>(w)];
}
// Whether a kernel can compute these; false for the ways that are no kernel.
bool fits(product_way, const products_params &, const device_facts &);
bool fits(product_way, const gated_launch_params &, const device_facts &);
int launch_products(product_way, const products_params &, const device_facts &, stream);
int launch_gated(product_way, const gated_launch_params &, const device_facts &, stream);

// y = f(y) * up, in place, where gate's and up's products were made by other means.
struct gate_params {
    float *y;  // [n, m]
    int64_t y_stride;
    const float *up;  // [n, m]
    int64_t up_stride;
    int32_t n, m;
    unary f;
};
int launch_gate(const gate_params &, stream);

// What a matrix product library leaves to us: sums [n, m] of int32, scaled as I8 results are.
struct scale_sums_params {
    const int32_t *sums;  // [n, m]
    int64_t sums_stride;
    const float *q_scale;  // [n]
    matrix w;              // scale, bias, m, column
    float *y;
    int64_t y_stride;
    const float *residual;  // [n, m], or null
    int64_t residual_stride;
    int32_t n;
};
int launch_scale_sums(const scale_sums_params &, stream);

// of scratch that a library gets, as cuBLAS' documentation advises for Hopper
constexpr size_t library_bytes = size_t{32} << 20;

// The same products by cuBLASLt (I8). `handle` is a cublasLtHandle_t, or the cublasHandle_t that passes for
// one; m: the largest matrix's.
bool lt_fits(const products_params &);
size_t lt_bytes(int64_t n, int64_t m);
int lt_products(void *handle, const products_params &, void *work, stream);

// ---- Attention over pages

struct attention_launch_params {
    const float *q;  // [n, heads, head_size]
    int64_t q_stride, q_head_stride;
    const float *q_rope;  // [n, heads, rope_size], or null
    int64_t rope_stride, rope_head_stride;
    const char *pages;  // page i begins at i * page_bytes
    int64_t page_bytes;
    const int32_t *tables;  // [sequences, max_pages]
    int64_t table_stride;
    int32_t max_pages;                   // of a sequence; bounds the work that is queued
    const int32_t *sequence, *position;  // [n]
    float *y;                            // [n, heads, head_size]
    int64_t y_stride, y_head_stride;
    int32_t n, heads;
    attention_params p;
    void *work;
};
// In the order in which they are tried.
enum class attention_way : int32_t {
    integers,  // pages of i8, tensor cores
    floats,    // pages of f16 or f32
    plain,     // pages of i8, any head size; slow
    count
};
const char *name_of(attention_way);
bool fits(attention_way, const attention_launch_params &, const device_facts &);
// Grows with n, heads and max_pages.
size_t attention_work_bytes(const attention_launch_params &, const device_facts &);
int launch_attention(attention_way, const attention_launch_params &, const device_facts &, stream);

// ---- Mixture of experts

struct router_launch_params {
    const float *logits;  // [n, experts]
    int64_t logits_stride;
    const float *bias;  // [experts], or null
    int32_t n, experts;
    router_params p;
    float *y;  // [n, 2, p.used]
    int64_t y_stride;
};
bool router_fits(const router_launch_params &);  // at most 1,024 experts
int launch_router(const router_launch_params &, stream);

struct expert_matrices {
    format type;                       // any that runs
    const void *w;                     // [experts, rows, columns]
    const float *scale;                // I8: [experts, rows]
    int64_t step = 0, scale_step = 0;  // elements from expert to expert; 0: one follows the other
};
struct experts_launch_params {
    const float *x;  // [n, d]
    int64_t x_stride;
    const float *route;  // [n, 2, used]
    int64_t route_stride;
    expert_matrices gate, up, down;  // [experts, ffn, d], the same, [experts, d, ffn]
    const float *shared;             // [n, d], or null
    int64_t shared_stride;
    float *y;  // [n, d]
    int64_t y_stride;
    int32_t n, used, experts, d, ffn;
    void *work;
};
bool experts_fit(const experts_launch_params &);  // at most 1,024 experts, and 65,535 rows
size_t experts_work_bytes(const experts_launch_params &);
int launch_experts(const experts_launch_params &, const device_facts &, stream);

}  // namespace ds::cuda
