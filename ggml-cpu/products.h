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
        return align64(is_packed(type) ? blocks() * c.vec->packed(type).x_bytes : k * sizeof(float));
    }
    void quantize_row(const float *x, char *to) const {
        if (type == format::i8) c.vec->i8->quantize(x, to, k);
        else if (is_packed(type)) c.vec->packed(type).quantize(x, to, blocks());
        else std::memcpy(to, x, k * sizeof(float));
    }

    // Quantized rows lie one after another, or, where a kernel for many rows wants that, in groups of so
    // many, packed; only the last group may have fewer. Row r, the first of a group, begins at r *
    // row_bytes() either way.
    size_t group() const {
        return type == format::i8 ? c.vec->i8->group_rows
               : is_packed(type)  ? c.vec->packed(type).group_rows
                                  : 1;
    }
    size_t group(bool by_few) const { return by_few ? 1 : group(); }
    size_t rows_bytes(size_t rows) const { return ceil_div(rows, group()) * group() * row_bytes(); }
    // Scratch for `put_row`: a group's rows before they are packed.
    size_t group_bytes() const { return group() > 1 ? group() * row_bytes() : 0; }
    void pack(const char *const *rows, size_t n, char *to) const {
        if (type == format::i8) c.vec->i8->pack(rows, n, k, to);
        else c.vec->packed(type).pack(rows, n, blocks(), to);
    }
    // Quantizes row r of `rows`. A thread puts all rows of a group, in order.
    void put_row(const float *x, size_t r, size_t rows, char *to, bool by_few, char *scratch) const {
        const size_t together = group(by_few), at = r % together;
        if (together == 1) return quantize_row(x, to + r * row_bytes());
        quantize_row(x, scratch + at * row_bytes());
        if (at + 1 < together && r + 1 < rows) return;
        const char *group_rows[most_group];
        for (size_t i = 0; i <= at; ++i) group_rows[i] = scratch + i * row_bytes();
        pack(group_rows, at + 1, to + (r - at) * row_bytes());
    }
    // Scratch for `run`.
    size_t tile_bytes() const {
        return align64(type == format::i8 ? c.vec->i8->tile_bytes
                       : is_packed(type)  ? c.vec->packed(type).tile_bytes
                                          : 0);
    }
    // For `put_row`, then for `run`.
    size_t scratch_bytes() const { return std::max(tile_bytes(), group_bytes()); }

    // Few rows of activations make a GEMV: weights are read as stored. Many make a GEMM: weights are repacked
    // in tiles of tile_weights() rows.
    bool few(size_t rows) const {
        return type == format::i8 ? rows <= c.vec->i8->few_rows
                                  : is_packed(type) && rows <= c.vec->packed(type).few_rows;
    }
    size_t tile_weights() const {
        return type == format::i8 ? c.vec->i8->tile_weights
               : is_packed(type)  ? c.vec->packed(type).tile_weights
                                  : 32;
    }

    // Whether gate and up can run as one.
    static bool together(const product &gate, const product &up) {
        return gate.type == format::i8 && up.type == format::i8 && gate.c.vec->i8->gated;
    }

    // Weight rows [first, first + weights) by some rows of activations, many's in whole groups.
    struct part {
        size_t first, weights;
        const char *x;
        size_t x_stride, rows;        // bytes
        float *y;                     // of weight row `first`
        size_t y_stride;              // floats
        const float *bias = nullptr;  // of weight row `first`, or null
    };
    void run(const tensor &w, const part &p, char *tile, bool by_few) const {
        if (type == format::i8) run_i8(w, p, tile, by_few);
        else if (is_packed(type)) run_packed(w, p, tile, by_few);
        else run_floats(w, p);
    }

    // y = f(gate) * up of many rows, where the two run as one; p is gate's part.
    void run_gated(const tensor &gate, const tensor &up, unary f, const part &p, char *tile) const {
        by_tiles(p, tile_weights(), [&](size_t i, size_t n) {
            c.vec->i8->gated(args_of(gate, p, i, n), args_of(up, p, i, n), f, tile);
        });
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
    i8_args args_of(const tensor &w, const part &p, size_t i, size_t n) const {
        return {.w = at(w, static_cast<int64_t>(p.first + i)),
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
    }
    void run_i8(const tensor &w, const part &p, char *tile, bool by_few) const {
        const i8_kernels &kernels = *c.vec->i8;
        by_tiles(p, by_few ? p.weights : tile_weights(), [&](size_t i, size_t n) {
            const i8_args a = args_of(w, p, i, n);
            by_few ? kernels.rows(a) : kernels.tile(a, tile);
        });
    }
    void run_packed(const tensor &w, const part &p, char *tile, bool by_few) const {
        const packed_kernels kernels = c.vec->packed(type);
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
// The panel for few rows of activations.
inline size_t stream_panel(size_t weights, unsigned threads) {
    return std::clamp<size_t>(ceil_div(ceil_div(weights, 8 * threads), 8) * 8, 8, most_panel);
}
// And for many. Packed groups pass by a panel's weights again and again, so that it takes more than one
// block of weights where there are enough for all threads.
inline size_t tile_panel(const product &p, size_t weights, unsigned threads) {
    constexpr size_t block = 32;
    if (p.group() == 1) return p.tile_weights();
    return std::clamp(ceil_div(ceil_div(weights, 4 * threads), block) * block, block, p.tile_weights());
}
inline cut make_cut(const product &p, bool by_few, size_t weights, size_t rows, unsigned threads) {
    const size_t panel = by_few ? stream_panel(weights, threads) : tile_panel(p, weights, threads),
                 panels = ceil_div(weights, panel), wanted = 4 * threads;
    if (by_few || panels >= wanted || threads == 1) return {panel, panels, rows, 1};
    const size_t part = p.group() == 1 ? 48 : 4 * p.group(),
                 groups = std::min(ceil_div(wanted, panels), ceil_div(rows, part)),
                 size = ceil_div(ceil_div(rows, groups), part) * part;
    return {panel, panels, size, ceil_div(rows, size)};
}

// Rows of x that go into several matrices: normed if there is a norm, and quantized once for each weight
// format.
struct shared_input {
    const tensor &x;
    const tensor *norm;  // or null
    float eps;
    const tensor *const *w;
    size_t count;  // of matrices

    size_t rows() const { return static_cast<size_t>(x.ne[0]); }
    // The offset in bytes of the quantized rows for matrix i.
    size_t offset(const cpu &c, size_t i) const {
        for (size_t j = 0; j < i; ++j)
            if (w[j]->type == w[i]->type) return offset(c, j);
        size_t bytes = 0;
        for (size_t j = 0; j < i; ++j)
            if (is_first(j)) bytes += product(c, *w[j]).rows_bytes(rows());
        return bytes;
    }
    size_t bytes(const cpu &c) const { return all_rows_bytes(c) + c.pool.size() * scratch_bytes(c); }
    void quantize_rows(cpu &c, char *work) const {
        char *const scratch = work + all_rows_bytes(c);
        const auto d = static_cast<size_t>(x.ne[1]);
        size_t together = 1;
        for (size_t i = 0; i < count; ++i) {
            const product p(c, *w[i]);
            together = std::max(together, p.group(p.few(rows())));
        }
        const auto part = [&](size_t begin, size_t end, unsigned worker) {
            char *const own = scratch + worker * scratch_bytes(c);
            float *const normed = reinterpret_cast<float *>(own + groups_bytes(c));
            for (size_t r = begin * together; r < std::min(end * together, rows()); ++r) {
                const float *row = f32_at(x, static_cast<int64_t>(r));
                if (norm) {
                    c.vec->floats->rms_norm(row, f32_at(*norm, 0), normed, d, eps);
                    row = normed;
                }
                char *group = own;
                for (size_t i = 0; i < count; ++i) {
                    const product p(c, *w[i]);
                    if (!is_first(i)) continue;
                    p.put_row(row, r, rows(), work + offset(c, i), p.few(rows()), group);
                    group += p.group_bytes();
                }
            }
        };
        share_range(c, ceil_div(rows(), together), elements(x) / 4, part);
    }

private:
    bool is_first(size_t i) const {
        return std::none_of(w, w + i, [&](const tensor *other) { return other->type == w[i]->type; });
    }
    size_t all_rows_bytes(const cpu &c) const {
        size_t all = 0;
        for (size_t i = 0; i < count; ++i)
            if (is_first(i)) all += product(c, *w[i]).rows_bytes(rows());
        return all;
    }
    // A worker's: a group for each format, and a normed row.
    size_t groups_bytes(const cpu &c) const {
        size_t all = 0;
        for (size_t i = 0; i < count; ++i)
            if (is_first(i)) all += product(c, *w[i]).group_bytes();
        return all;
    }
    size_t scratch_bytes(const cpu &c) const {
        return groups_bytes(c) + align64(static_cast<size_t>(x.ne[1]) * sizeof(float));
    }
};

}  // namespace ds
