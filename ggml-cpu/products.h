// Products as parts of another operation: rows of activations are quantized once, then multiplied by any part
// of the weights, on the caller's thread. The kernels are matmul's, so the bits are the same.
#pragma once

#include "variants.h"

#include "../tensor/op.h"

namespace ds {

// Weights [.., m, k] of one format.
struct product {
    const cpu &c;
    format type;
    size_t k;

    product(const cpu &backend, const tensor &w)
        : c(backend), type(w.type), k(static_cast<size_t>(w.ne[w.rank - 1])) {}
    // float weights: activations need no quantizing
    bool floats() const { return type != format::i8 && !is_packed(type); }

    // A row of quantized activations.
    size_t row_bytes() const {
        if (type == format::i8) return i8_row_bytes(c.vec->i8->element, k, 1);
        return align64(is_packed(type) ? blocks() * c.vec->packed(type)->x_bytes : k * sizeof(float));
    }
    void quantize_rows(const float *x, char *to) const {
        if (type == format::i8) c.vec->i8->quantize(x, to, k);
        else if (is_packed(type)) c.vec->packed(type)->quantize(x, to, blocks());
        else std::memcpy(to, x, k * sizeof(float));
    }
    // Scratch for `run`.
    size_t tile_bytes() const {
        return align64(type == format::i8 ? c.vec->i8->tile_bytes
                       : is_packed(type)  ? c.vec->packed(type)->tile_bytes
                                          : 0);
    }

    // Few rows of activations make a GEMV: weights are read as stored. Many make a GEMM: weights are repacked
    // in tiles of tile_weights() rows.
    bool few(size_t rows) const {
        return type == format::i8 ? rows <= c.vec->i8->few_rows
                                  : is_packed(type) && rows <= c.vec->packed(type)->few_rows;
    }
    size_t tile_weights() const {
        return type == format::i8 ? c.vec->i8->tile_weights
               : is_packed(type)  ? c.vec->packed(type)->tile_weights
                                  : 32;
    }

    // Weight rows [first, first + weights) by some rows of activations.
    struct part {
        size_t first, weights;
        const char *x;
        size_t x_stride, rows;        // bytes
        float *y;                     // of weight row `first`
        size_t y_stride;              // floats
        const float *bias = nullptr;  // of weight row `first`, or null
    };
    void run(const tensor &w, const part &p, char *tile) const { run(w, p, tile, few(p.rows)); }
    void run(const tensor &w, const part &p, char *tile, bool by_few) const {
        if (type == format::i8) run_i8(w, p, tile, by_few);
        else if (is_packed(type)) run_packed(w, p, tile, by_few);
        else run_floats(w, p);
    }

private:
    size_t blocks() const { return k / static_cast<size_t>(info(type).block); }
    size_t stride_of(const tensor &w) const {
        return ds::row_bytes(type, static_cast<uint64_t>(w.stride[0]));
    }

    // f(first, count) for tiles of `width` rows of weights.
    template <class F> static void by_tiles(const part &p, size_t width, const F &f) {
        for (size_t i = 0; i < p.weights; i += width) f(i, std::min(width, p.weights - i));
    }
    void run_i8(const tensor &w, const part &p, char *tile, bool by_few) const {
        const i8_kernels &kernels = *c.vec->i8;
        by_tiles(p, by_few ? p.weights : tile_weights(), [&](size_t i, size_t n) {
            const i8_args a = {.w = at(w, static_cast<int64_t>(p.first + i)),
                               .w_stride = stride_of(w),
                               .w_scale = f32_at(*w.scale, 0) + p.first + i,
                               .x = p.x,
                               .x_stride = p.x_stride,
                               .y = p.y + i,
                               .y_stride = p.y_stride,
                               .bias = p.bias ? p.bias + i : nullptr,
                               .k = k,
                               .weights = n,
                               .rows = p.rows};
            by_few ? kernels.rows(a) : kernels.tile(a, tile);
        });
    }
    void run_packed(const tensor &w, const part &p, char *tile, bool by_few) const {
        const packed_kernels &kernels = *c.vec->packed(type);
        by_tiles(p, by_few ? p.weights : tile_weights(), [&](size_t i, size_t n) {
            const packed_args a = {.w = at(w, static_cast<int64_t>(p.first + i)),
                                   .w_stride = stride_of(w),
                                   .x = p.x,
                                   .x_stride = p.x_stride,
                                   .y = p.y + i,
                                   .y_stride = p.y_stride,
                                   .bias = p.bias ? p.bias + i : nullptr,
                                   .blocks = blocks(),
                                   .weights = n,
                                   .rows = p.rows};
            by_few ? kernels.rows(a) : kernels.tile(a, tile);
        });
    }
    void run_floats(const tensor &w, const part &p) const {
        const float_kernels &f = *c.vec->floats;
        (type == format::f32   ? f.dot_f32
         : type == format::f16 ? f.dot_f16
                               : f.dot_bf16)({.w = at(w, static_cast<int64_t>(p.first)),
                                              .w_stride = stride_of(w),
                                              .x = reinterpret_cast<const float *>(p.x),
                                              .x_stride = p.x_stride / sizeof(float),
                                              .y = p.y,
                                              .y_stride = p.y_stride,
                                              .bias = p.bias,
                                              .k = k,
                                              .weights = p.weights,
                                              .rows = p.rows});
    }
};

// Rows of weights per task, for so many products with `weights` rows each: enough tasks to balance the
// threads, and otherwise long stretches of memory.
constexpr size_t most_panel = 256;
inline size_t product_panel(size_t products, size_t weights, unsigned threads) {
    return std::clamp<size_t>(ceil_div(ceil_div(products * weights, 16 * threads), 16) * 16, 16, most_panel);
}

// How a product's output is cut: into panels of weight rows, and groups of activation rows.
struct cut {
    size_t panel, panels, group, groups;
};
inline cut make_cut(size_t weights, size_t rows, size_t panel, size_t group, unsigned threads) {
    const size_t wanted = 4 * threads, panels = ceil_div(weights, panel);
    if (panels >= wanted || threads == 1) return {panel, panels, rows, 1};
    const size_t groups = std::min(ceil_div(wanted, panels), ceil_div(rows, group)),
                 size = ceil_div(ceil_div(rows, groups), group) * group;
    return {panel, panels, size, ceil_div(rows, size)};
}
// The panel for few rows of activations.
inline size_t stream_panel(size_t weights, unsigned threads) {
    return std::clamp<size_t>(ceil_div(ceil_div(weights, 8 * threads), 8) * 8, 8, most_panel);
}
inline cut make_cut(const product &p, bool by_few, size_t weights, size_t rows, unsigned threads) {
    if (!by_few) return make_cut(weights, rows, p.tile_weights(), 48, threads);
    const size_t panel = stream_panel(weights, threads);
    return {panel, ceil_div(weights, panel), rows, 1};
}

// Rows of x that go into several matrices: normed if there is a norm, and quantized once for each weight
// format.
struct shared_input {
    const tensor &x;
    const tensor *norm;  // or null
    float eps;
    const tensor *const *w;
    size_t count;  // of matrices

    size_t row_floats() const {
        return align64(static_cast<size_t>(x.ne[1]) * sizeof(float)) / sizeof(float);
    }
    // The offset in bytes of the quantized rows for matrix i.
    size_t offset(const cpu &c, size_t i) const {
        for (size_t j = 0; j < i; ++j)
            if (w[j]->type == w[i]->type) return offset(c, j);
        size_t bytes = 0;
        for (size_t j = 0; j < i; ++j)
            if (is_first(j)) bytes += rows_bytes(c, j);
        return bytes;
    }
    size_t bytes(const cpu &c) const {
        size_t all = c.pool.size() * row_floats() * sizeof(float);
        for (size_t i = 0; i < count; ++i)
            if (is_first(i)) all += rows_bytes(c, i);
        return all;
    }
    void quantize_rows(cpu &c, char *work) const {
        float *const normed = reinterpret_cast<float *>(work + bytes(c)) - c.pool.size() * row_floats();
        const auto d = static_cast<size_t>(x.ne[1]);
        share_range(c, static_cast<size_t>(x.ne[0]), elements(x) / 4,
                    [&](size_t begin, size_t end, unsigned worker) {
                        for (size_t r = begin; r < end; ++r) {
                            const float *row = f32_at(x, static_cast<int64_t>(r));
                            if (norm) {
                                float *const to = normed + worker * row_floats();
                                c.vec->floats->rms_norm(row, f32_at(*norm, 0), to, d, eps);
                                row = to;
                            }
                            for (size_t i = 0; i < count; ++i) {
                                const product p(c, *w[i]);
                                if (is_first(i))
                                    p.quantize_rows(row, work + offset(c, i) + r * p.row_bytes());
                            }
                        }
                    });
    }

private:
    bool is_first(size_t i) const {
        return std::none_of(w, w + i, [&](const tensor *other) { return other->type == w[i]->type; });
    }
    size_t rows_bytes(const cpu &c, size_t i) const {
        return static_cast<size_t>(x.ne[0]) * product(c, *w[i]).row_bytes();
    }
};

}  // namespace ds
