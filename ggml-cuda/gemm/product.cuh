// What the kernels of products share: which weights and rows of activations a block takes, and how a sum
// becomes a result.
#pragma once

#include "../device.cuh"
#include "../launch.h"

namespace ds::cuda {

// Rows [first, first + rows) of the activations sorted by expert; all go to `expert`.
struct row_group {
    int32_t expert, first, rows;
};

struct product_args {
    const int8_t *q;
    int64_t q_stride, q_step;
    const float *q_scale;
    int64_t scale_stride, scale_step;
    matrix w[most_matrices];  // gated: gate and up
    int32_t count, n, k;
    int64_t w_step, w_scale_step;  // elements from head to head, or from expert to expert
    float *y;
    int64_t y_stride, y_step;
    const float *residual;
    int64_t residual_stride;
    unary f;
    // experts: [gridDim.y], empty ones last. Null: no experts
    const row_group *groups;
    // experts: the row of q for each sorted row. Null: q is sorted itself
    const int32_t *row_of;
};

// A block's share, with head and expert resolved.
struct share {
    const int8_t *w, *up;
    const float *scale, *up_scale, *bias;
    int32_t m, first;   // weights of the matrix; the share's first
    int32_t row, rows;  // rows of y, and of q unless row_of maps them
    int32_t column;     // of y, for the matrix's first weight
    const int8_t *q;
    const float *q_scale, *residual;
    float *y;
};

// across: weights per share. down: rows per share.
template <bool gated> __device__ share share_of(const product_args &a, int32_t across, int32_t down) {
    int32_t i = 0, part = static_cast<int32_t>(blockIdx.x);
    if (!gated)
        for (; i + 1 < a.count && part >= (a.w[i].m + across - 1) / across; ++i)
            part -= (a.w[i].m + across - 1) / across;
    const matrix &w = a.w[i];
    share s;
    int64_t head = blockIdx.z;
    s.row = static_cast<int32_t>(blockIdx.y) * down;
    s.rows = a.n - s.row < down ? a.n - s.row : down;
    if (a.groups) {
        const row_group g = a.groups[blockIdx.y];
        head = g.expert;
        s.row = g.first;
        s.rows = g.rows;
    }
    s.w = static_cast<const int8_t *>(w.w) + head * a.w_step;
    s.scale = w.scale + head * a.w_scale_step;
    s.up = gated ? static_cast<const int8_t *>(a.w[1].w) + head * a.w_step : nullptr;
    s.up_scale = gated ? a.w[1].scale + head * a.w_scale_step : nullptr;
    s.bias = w.bias;
    s.m = w.m;
    s.first = part * across;
    s.column = w.column;
    s.q = a.q + (a.groups ? 0 : head * a.q_step);
    s.q_scale = a.q_scale + (a.groups ? 0 : head * a.scale_step);
    s.y = a.y + (a.groups ? 0 : head * a.y_step);
    s.residual = a.residual;
    return s;
}

// The row of q for row i < s.rows of the share.
__device__ __forceinline__ int64_t source_row(const product_args &a, const share &s, int32_t i) {
    return a.row_of ? a.row_of[s.row + i] : s.row + i;
}

// The result of the matrix's weight `w` and the share's row `i`. A gated product has neither bias nor
// residual.
__device__ __forceinline__ float finish(const product_args &a, const share &s, int32_t i, int32_t w,
                                        int32_t sum, float x_scale) {
    float y = i8_output(sum, s.scale[w], x_scale);
    if (s.bias) y = y + s.bias[w];
    if (s.residual) y = s.residual[(s.row + i) * a.residual_stride + w] + y;
    return y;
}
__device__ __forceinline__ float unary_of(unary f, float x) {
    switch (f) {
#define DS_UNARY(name, formula, derivative)                                                                  \
    case unary::name:                                                                                        \
        return formula;
#include "../../tensor/unary.def"
#undef DS_UNARY
    }
    return x;
}
__device__ __forceinline__ float finish_gated(const product_args &a, const share &s, int32_t w, int32_t gate,
                                              int32_t up, float x_scale) {
    return unary_of(a.f, i8_output(gate, s.scale[w], x_scale)) * i8_output(up, s.up_scale[w], x_scale);
}

product_args args_of(const products_params &p);
product_args args_of(const gated_launch_params &p);

// row_groups: the grid's height for experts; 0: no experts. The caller has checked that the kernel fits.
int launch_rows(const product_args &, bool gated, int32_t most_rows, int32_t row_groups, int32_t heads,
                const device_facts &, stream);
int launch_tiles(const product_args &, bool gated, int32_t tile_rows, int32_t row_groups, int32_t heads,
                 stream);
int launch_plain(const product_args &, bool gated, int32_t row_groups, int32_t heads, stream);
int launch_packed(format, const product_args &, int32_t most_rows, int32_t row_groups, int32_t heads, stream);
int launch_wgmma(const product_args &, bool gated, int32_t wide, int32_t row_groups, int32_t heads, stream);
int prepare_tiles();
int prepare_wgmma(device_facts &);

}  // namespace ds::cuda
