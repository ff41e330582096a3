// Products of rows with matrices of any format, as parts of operations: rows are normed and made ready once
// for all matrices of a format, and then go where these want them.
#pragma once

#include "context.h"

namespace ds::cuda {

// How quantized weights are multiplied; `chosen` is the best that fits, and where another one does not fit,
// too.
constexpr int chosen_way = static_cast<int>(product_way::count), library_way = chosen_way + 1;

// One of the matrices that x is multiplied with.
struct part {
    const tensor *w, *bias;
    int32_t column;  // of y
};

// y = residual + (norm(x) w^T + bias) for each part. Rows of x [n, k] lie x_stride apart.
struct products {
    const float *x;
    int64_t x_stride;
    const tensor *norm;  // or null
    float eps;
    int32_t n, k;
    std::span<const part> parts;
    float *y;
    int64_t y_stride;
    const tensor *residual;  // or null; with one part
};

// Scratch grows with n and k.
// those that are null do not count
size_t products_bytes(const context &, std::span<const tensor *const> weights, int64_t n, int64_t k, int way);
void run_products(const context &, const products &, int way, const node &, char *work);
// Of a way: some part's weights can be multiplied so (float ones: `plain`, which is our own kernel and no
// library's). Of chosen_way: all can in some way.
bool way_fits(const context &, const products &, int way);

}  // namespace ds::cuda
