// Products that are parts of another operation: rows of activations are made ready once, and then any of them meet any part of the weights, on the caller's
// thread. The kernels are matmul's, so the bits are.
#pragma once

#include "variants.h"

#include "../tensor/op.h"

namespace ds {

// Weights [.., m, k] of one format.
struct product {
    const cpu &c;
    format type;
    size_t k;

    product(const cpu &c, const tensor &w) : c(c), type(w.type), k(static_cast<size_t>(w.ne[w.rank - 1])) {}
    bool floats() const { return type != format::i8 && !is_packed(type); }     // weights; activations are taken as they are then

    // A row of activations, ready.
    size_t row_bytes() const {
        if (type == format::i8) return i8_row_bytes(c.vec->i8->element, k, 1);
        return align64(is_packed(type) ? blocks() * c.vec->packed(type)->x_bytes : k * sizeof(float));
    }
    void make_ready(const float *x, char *to) const {
        if (type == format::i8) c.vec->i8->quantize(x, to, k);
        else if (is_packed(type)) c.vec->packed(type)->quantize(x, to, blocks());
        else std::memcpy(to, x, k * sizeof(float));
    }
    // Scratch that `run` takes.
    size_t tile_bytes() const { return align64(type == format::i8 ? c.vec->i8->tile_bytes : is_packed(type) ? c.vec->packed(type)->tile_bytes : 0); }

    // Rows of weights from `first` on, `weights` of them, with some rows of activations.
    struct part {
        size_t first, weights;
        const char *x;
        size_t x_stride, rows;       // bytes
        float *y;                    // of weight row `first`
        size_t y_stride;             // floats
    };
    void run(const tensor &w, const part &p, char *tile) const {
        if (type == format::i8) run_i8(w, p, tile);
        else if (is_packed(type)) run_packed(w, p, tile);
        else run_floats(w, p);
    }

private:
    size_t blocks() const { return k / static_cast<size_t>(info(type).block); }
    size_t stride_of(const tensor &w) const { return ds::row_bytes(type, static_cast<uint64_t>(w.stride[0])); }

    // In tiles of `width` rows of weights, or all at once.
    template <class F> static void by_tiles(const part &p, size_t width, const F &f) {
        for (size_t i = 0; i < p.weights; i += width) f(i, std::min(width, p.weights - i));
    }
    void run_i8(const tensor &w, const part &p, char *tile) const {
        const i8_kernels &kernels = *c.vec->i8;
        const bool few = p.rows <= kernels.few_rows;
        by_tiles(p, few ? p.weights : kernels.tile_weights, [&](size_t i, size_t n) {
            const i8_args a = {.w = at(w, static_cast<int64_t>(p.first + i)), .w_stride = stride_of(w), .w_scale = f32_at(*w.scale, 0) + p.first + i,
                               .x = p.x, .x_stride = p.x_stride, .y = p.y + i, .y_stride = p.y_stride, .bias = nullptr, .k = k, .weights = n, .rows = p.rows};
            few ? kernels.rows(a) : kernels.tile(a, tile);
        });
    }
    void run_packed(const tensor &w, const part &p, char *tile) const {
        const packed_kernels &kernels = *c.vec->packed(type);
        const bool few = p.rows <= kernels.few_rows;
        by_tiles(p, few ? p.weights : kernels.tile_weights, [&](size_t i, size_t n) {
            const packed_args a = {.w = at(w, static_cast<int64_t>(p.first + i)), .w_stride = stride_of(w), .x = p.x, .x_stride = p.x_stride,
                                   .y = p.y + i, .y_stride = p.y_stride, .bias = nullptr, .blocks = blocks(), .weights = n, .rows = p.rows};
            few ? kernels.rows(a) : kernels.tile(a, tile);
        });
    }
    void run_floats(const tensor &w, const part &p) const {
        const float_kernels &f = *c.vec->floats;
        (type == format::f32 ? f.dot_f32 : type == format::f16 ? f.dot_f16 : f.dot_bf16)(
            {.w = at(w, static_cast<int64_t>(p.first)), .w_stride = stride_of(w), .x = reinterpret_cast<const float *>(p.x), .x_stride = p.x_stride / sizeof(float),
             .y = p.y, .y_stride = p.y_stride, .bias = nullptr, .k = k, .weights = p.weights, .rows = p.rows});
    }
};

// Rows of weights a task of so many products with `weights` rows each: enough tasks to go round evenly, none so short that memory is read in crumbs.
constexpr size_t most_product_panel = 64;
inline size_t product_panel(size_t products, size_t weights, unsigned threads) {
    return std::clamp<size_t>(ceil_div(ceil_div(products * weights, 16 * threads), 16) * 16, 16, most_product_panel);
}

} // namespace ds
