// The kernels of the large operations as the backend calls them: one plain struct per kernel, a shape on
// every pointer, strides in elements, device pointers. The caller has checked shapes (tensor/ops/*.cpp) and
// chosen a way that fits. A launch only queues work on the stream: it neither allocates nor waits, so it can
// be captured in a graph, and its grid depends on the struct's plain fields alone. It returns a cudaError_t.
//
// Weights have the file's layout: I8 [m, k] row after row, packed formats block after block. The fast ways
// need rows and bases at multiples of 16 bytes, which real models have; `fits` checks that, and `plain`
// accepts anything. Scratch must be 256-byte aligned.
#pragma once

#include "../tensor/ops.h"

struct CUstream_st;

namespace ds::cuda {

// A cudaStream_t. With `overlaps` a kernel may begin before the previous one has ended, and waits where it
// needs its results (wait_for_prior_kernels in device.cuh).
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
    bool wgmma;            // code for sm_90a was compiled and runs; set by prepare_kernels
};

// Called once per device before the first launch: permits kernels more than 48 KiB of shared memory, and
// finds out which are available.
int prepare_kernels(device_facts &);

// ---- Activations, normed and quantized for products

// y = rms_norm(x) * norm, if there is a norm, as floats, quantized, or both. Outputs that are not wanted are
// null.
struct quantize_params {
    const float *x;  // [n, k]
    int64_t x_stride;
    const float *norm;  // [k], or null
    float eps;
    float *y;  // [n, k], or null
    int64_t y_stride;
    int8_t *q;         // [n, q_stride], or null
    int64_t q_stride;  // i8_stride(k); zeros from k on
    float *scale;      // [n, k / block], or [n]
    // quantized in blocks of 32 or 256 for packed weights; 0: a row as one, for I8
    int32_t block;
    int32_t n, k;
};
int launch_quantize(const quantize_params &, stream);
constexpr int64_t i8_stride(int64_t k) { return (k + 127) / 128 * 128; }
// Size of q and the scales together, and where each begins.
size_t quantized_bytes(int64_t n, int64_t k, int32_t block);
int8_t *quantized_rows(void *work);
float *quantized_scales(void *work, int64_t n, int64_t k);

// ---- Products with I8 or packed weights

struct matrix {
    const void *w;       // [m, k], row after row
    const float *scale;  // I8: [m]
    const float *bias;   // [m], or null
    int32_t m;
    int32_t column;  // of y, for the first result
};
constexpr int32_t most_matrices = static_cast<int32_t>(most_projections);

// y[n, column + m] = residual + (q w^T + bias), for each of `count` matrices of one format. For `batch` heads
// (head_matmul) each pointer advances by its step from head to head; with batch 1 steps are not used.
struct products_params {
    format type;      // I8 or a packed format
    const int8_t *q;  // [n, q_stride], from launch_quantize with the format's block
    int64_t q_stride, q_step;
    const float *q_scale;              // [n, scale_stride]
    int64_t scale_stride, scale_step;  // I8: 1 per row; packed: k / block
    matrix w[most_matrices];
    int32_t count, n, k, batch;
    int64_t w_step, w_scale_step;  // elements
    float *y;
    int64_t y_stride, y_step;
    const float *residual;  // [n, m], with a single matrix; or null
    int64_t residual_stride;
};
// y[n, m] = f(q gate^T) * (q up^T), both I8. Other formats take two products and launch_gate.
struct gated_launch_params {
    format type;
    const int8_t *q;
    int64_t q_stride;
    const float *q_scale;
    int64_t scale_stride;
    matrix gate, up;  // with the same m; no bias
    int32_t n, k;
    unary f;
    float *y;
    int64_t y_stride;
};

// The ways to compute a product, in the order in which operations try them (gemm/run_products.cpp). Those
// before `mixed` are kernels for quantized rows; gemm/products.cpp has the others.
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
// Whether a kernel can compute this; false for ways that are not a kernel.
bool fits(product_way, const products_params &, const device_facts &);
bool fits(product_way, const gated_launch_params &, const device_facts &);
int launch_products(product_way, const products_params &, const device_facts &, stream);
int launch_gated(product_way, const gated_launch_params &, const device_facts &, stream);

// y = f(y) * up, in place, after the two products.
struct gate_params {
    float *y;  // [n, m]
    int64_t y_stride;
    const float *up;  // [n, m]
    int64_t up_stride;
    int32_t n, m;
    unary f;
};
int launch_gate(const gate_params &, stream);

// The last step of a library's product with I8 weights: its int32 sums, scaled as our kernels' results are.
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

// Scratch for a library; cuBLAS' documentation recommends 32 MiB for Hopper.
constexpr size_t library_bytes = size_t{32} << 20;

// Products with I8 weights by cuBLASLt. handle: a cublasLtHandle_t, or a cublasHandle_t, which is also one.
// m: rows of the largest matrix.
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
    int32_t max_pages;                   // per sequence; bounds the queued work
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
    format type;                       // any format that runs
    const void *w;                     // [experts, rows, columns]
    const float *scale;                // I8: [experts, rows]
    int64_t step = 0, scale_step = 0;  // elements from expert to expert; 0: contiguous
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
bool experts_fit(const experts_launch_params &);  // up to 1,024 experts and 65,535 rows
size_t experts_work_bytes(const experts_launch_params &);
int launch_experts(const experts_launch_params &, const device_facts &, stream);

// ---- Routed heads

struct head_router_launch_params {
    const float *logits;  // [n, routed]
    int64_t logits_stride;
    const float *shared;  // [n, shared_count], or null
    int64_t shared_stride;
    const float *mix;  // [n, 2]
    int64_t mix_stride;
    int32_t n, routed, shared_count, chosen;
    float *y;  // [n, 2, shared_count + chosen]
    int64_t y_stride;
};
bool head_router_fits(const head_router_launch_params &);  // at most 1,024 heads of either kind
int launch_head_router(const head_router_launch_params &, stream);

struct routed_launch_params {
    const float *x;  // [n, k], or by rank [n * used, k]
    int64_t x_stride;
    bool by_rank;
    const float *route;  // [n, 2, used]
    int64_t route_stride;
    expert_matrices w;  // [matrices, m, k]
    float *y;           // [n, used, m]
    int32_t n, used, matrices, m, k;
    void *work;
};
bool routed_fit(const routed_launch_params &);  // up to 1,024 matrices and 65,535 rows
size_t routed_work_bytes(const routed_launch_params &);
int launch_routed(const routed_launch_params &, const device_facts &, stream);

struct spread_launch_params {
    const float *x;  // [n, used, d]
    int64_t x_stride, x_rank_stride;
    const float *route;  // [n, 2, used]
    int64_t route_stride;
    float *y;  // [n, heads * d]
    int64_t y_stride;
    int32_t n, used, heads, d;
};
int launch_spread(const spread_launch_params &, stream);

}  // namespace ds::cuda
