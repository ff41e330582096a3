// Products of rows with matrices that a route chooses. Pairs of a row and a rank are sorted by matrix and cut
// into groups on the device, so that a matrix's weights are read once per group, and those of matrices
// without rows never. Then the kernels of products run with one group per block.
#pragma once

#include "../gemm/product.cuh"
#include "config.h"

namespace ds::cuda {

struct sort_args {
    const float *route;  // [n, 2, used]
    int64_t route_stride;
    int32_t n, used, group_rows, groups;
    int32_t per;       // consecutive pairs that have the same row
    int32_t *slot;     // [n * used]: each pair's index after sorting
    int32_t *row_of;   // [n * used]: the row in each slot
    row_group *group;  // [groups], empty ones last
};
int launch_sort(const sort_args &, stream);

struct rows_in {
    const float *x;  // floats
    int64_t x_stride;
    void *quantized;  // memory for them quantized
    int32_t n, k;
    const int32_t *row_of;
};
// Quantizes the rows for weights of the format.
int quantize_rows(const rows_in &, format, stream);
product_args args_for(const rows_in &, const expert_matrices &, int32_t m, float *y, const row_group *);
int launch_i8_groups(const product_args &, bool gated, const group_cut &, const device_facts &, stream);
// y [slots, m], with weights of any format.
int launch_one(const rows_in &, const expert_matrices &, int32_t m, float *y, const row_group *,
               const group_cut &, const device_facts &, stream);

}  // namespace ds::cuda
