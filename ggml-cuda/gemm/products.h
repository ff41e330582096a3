// Products of the same rows with several matrices of any formats, which operations are made of. Rows are
// normed and quantized once for consecutive matrices that want them in the same form.
#pragma once

#include "../context.h"

namespace ds::cuda {

// One of the matrices that x is multiplied with.
struct part {
    const tensor *w, *bias;
    int32_t column;  // of y
};

// y = residual + (norm(x) w^T + bias) for each part.
struct products {
    const float *x;  // [n, k]
    int64_t x_stride;
    const tensor *norm;  // [k], or null
    float eps;
    int32_t n, k;
    std::span<const part> parts;
    float *y;
    int64_t y_stride;
    const tensor *residual;  // or null; only with a single part
};

// Scratch of `way` for these weights, of which some may be null. Grows with n and k.
size_t products_bytes(const context &, std::span<const tensor *const> weights, int64_t n, int64_t k,
                      product_way way);
void run_products(const context &, const products &, product_way, const node &, char *work);
// Whether `way` can compute the product of every part.
bool products_fit(const context &, const products &, product_way way);
// Whether every part has some way other than `mixed`, which `mixed` needs.
bool each_fits(const context &, const products &);

// The kinds of weights, which have different ways.
enum class weight_kind { i8, packed, floats };
weight_kind kind_of(format);

// From this many rows on a tile of wgmma, 128 rows, is more than half full; with fewer, `rows` and `tiles`
// run.
constexpr int32_t wgmma_least_rows = 65;

// Whether a kernel fits an operation: it can compute it, and its tiles are not mostly empty.
template <class P> bool kernel_fits(product_way way, const P &p, const device_facts &d) {
    return fits(way, p, d) && (way != product_way::wgmma || p.n >= wgmma_least_rows);
}

// Elements per block in which rows are quantized for weights of a format; 0: a row as one, for I8.
inline int32_t block_of(format f) { return f == format::i8 ? 0 : static_cast<int32_t>(info(f).block); }

}  // namespace ds::cuda
