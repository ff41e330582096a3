// The kernels of the small operations and of products with float weights, called as those of launch.h are.
// All of them give the reference's bits.
#pragma once

#include "launch.h"

namespace ds::cuda {

struct add_params {
    const float *a, *b;  // [ne0, ne1, ne2]
    float *y;
    int64_t a_stride[3], b_stride[3], y_stride[3];
    int32_t ne[3];
};
int launch_add(const add_params &, stream);

struct get_rows_params {
    format type;
    const void *table;  // [v, d]
    int64_t row_bytes;
    const float *scale;  // I8: [v]
    const int32_t *ids;  // [n]
    float *y;            // [n, d]
    int64_t y_stride;
    int32_t n, d;
};
int launch_get_rows(const get_rows_params &, stream);

struct norm_params {
    const float *x;  // [n, heads, d]
    int64_t x_stride, x_head_stride;
    const float *w;  // [d]
    float *y;
    int64_t y_stride, y_head_stride;
    float eps;
    int32_t n, heads, d;
};
int launch_norm(const norm_params &, stream);

struct rope_table_launch_params {
    const int32_t *positions;  // [n]
    const float *factors;      // [pairs], or null
    float *y;                  // [n, 2, pairs]
    int32_t n, pairs;
    rope_table_params p;
};
int launch_rope_table(const rope_table_launch_params &, stream);

struct rope_launch_params {
    const float *x;  // [n, heads, d]
    int64_t x_stride, x_head_stride;
    const float *table;  // [n, 2, pairs]
    float *y;
    int64_t y_stride, y_head_stride;
    int32_t n, heads, d, pairs;
    rope_params p;
};
int launch_rope(const rope_launch_params &, stream);

// Copies heads that are slices of wider rows, making them contiguous.
struct copy_heads_params {
    const float *x;  // [n, heads, d]
    int64_t x_stride, x_head_stride;
    float *y;  // contiguous
    int32_t n, heads, d;
};
int launch_copy_heads(const copy_heads_params &, stream);

struct kv_write_params {
    const float *k, *v;  // [n, kv_heads, head_size]; latent pages: v is [n, 1, rope_size]
    int64_t k_stride, k_head_stride, v_stride, v_head_stride;
    char *pages;
    int64_t page_bytes;
    const int32_t *slots;  // [n]
    int32_t n;
    kv_layout layout;
};
int launch_kv_write(const kv_write_params &, stream);

// ---- Products with float weights

// y[n, m] = residual + (x w^T + bias), with sums in the order that floats have (numerics.h), for `batch`
// heads.
struct lanes_params {
    format type;     // f32, f16, bf16
    const float *x;  // [n, k]
    int64_t x_stride, x_step;
    const void *w;  // [m, k]
    int64_t w_stride, w_step;
    const float *bias;      // [m], or null
    const float *residual;  // [n, m], or null
    int64_t residual_stride;
    float *y;
    int64_t y_stride, y_step;
    int32_t n, m, k, batch;
};
int launch_lanes(const lanes_params &, stream);

// For a library, which wants both sides in one format: x = (high + low) * unit, with one unit per row, a
// power of two that keeps f16 from overflowing.
struct split_params {
    format type;     // f16, bf16
    const float *x;  // [n, k]
    int64_t x_stride;
    uint16_t *high, *low;  // [n, k]
    float *unit;           // [n]
    int32_t n, k;
};
int launch_split(const split_params &, stream);

// y = residual + (y * unit + bias), in place.
struct finish_params {
    float *y;  // [n, m]
    int64_t y_stride;
    const float *unit;      // [n], or null
    const float *bias;      // [m], or null
    const float *residual;  // [n, m], or null
    int64_t residual_stride;
    int32_t n, m;
};
int launch_finish(const finish_params &, stream);

}  // namespace ds::cuda
