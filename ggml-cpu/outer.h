// Outer products, shared out (isa.h, outer_args), and weights of any format as floats for them.
#pragma once

#include "variants.h"

#include "../tensor/op.h"

namespace ds {

constexpr size_t outer_scratch_bytes = align64(outer_scratch * sizeof(float));

// Any number of rows, on the caller's thread.
inline void run_outer(const cpu &c, outer_args p, char *scratch) {
    const size_t rows = p.rows;
    for (size_t i = 0; i < rows; i += outer_most_rows) {
        p.rows = std::min(outer_most_rows, rows - i);
        c.vec->floats->outer(p, reinterpret_cast<float *>(scratch));
        p.a += p.rows * p.a_row;
        p.y += p.rows * p.y_stride;
    }
}

// In pieces of the result, by all threads. scratch: outer_scratch_bytes for each thread.
inline void share_outer(cpu &c, const outer_args &p, char *scratch) {
    constexpr size_t unit = 96;  // rows that share the packing of columns, and a multiple of every tile's
    const size_t wanted = 4 * c.pool.size(),
                 height = std::min(outer_most_rows, ceil_div(p.rows, unit) * unit),
                 down = ceil_div(p.rows, height),
                 width = ceil_div(ceil_div(p.columns, ceil_div(wanted, down)), outer_columns) * outer_columns,
                 across = ceil_div(p.columns, width);
    const auto piece = [&](size_t i, unsigned worker) {
        const size_t r = i / across * height, j = i % across * width;
        outer_args q = p;
        q.a += r * p.a_row, q.b += j * info(p.b_type).bytes, q.y += r * p.y_stride + j;
        q.rows = std::min(height, p.rows - r), q.columns = std::min(width, p.columns - j);
        run_outer(c, q, scratch + worker * outer_scratch_bytes);
    };
    const size_t pieces = down * across;
    if (p.rows * p.columns * p.steps / 16 >= worth_sharing) return c.pool.run(pieces, piece);
    for (size_t i = 0; i < pieces; ++i) piece(i, 0);
}

// A row of a matrix as floats, in a format that runs.
inline void float_row(const tensor &w, int64_t row, float *to) {
    const auto width = static_cast<size_t>(w.ne[1]);
    decode_row(w.type, at(w, row), to, width);
    if (!w.scale) return;
    const float scale = *f32_at(*w.scale, row);
    for (size_t k = 0; k < width; ++k) to[k] = to[k] * scale;
}

// Rows of weights for outer products: in place if they are floats, else decoded to f32, a chunk at a time.
struct float_rows {
    const tensor &w;  // of rank 2

    static size_t chunk(const tensor &w) {
        return is_float(w.type) ? static_cast<size_t>(w.ne[w.rank - 2]) : 2 * outer_steps;
    }
    // Scratch for a chunk.
    static size_t bytes(const tensor &w) {
        return is_float(w.type) ? 0
                                : align64(chunk(w) * static_cast<size_t>(w.ne[w.rank - 1]) * sizeof(float));
    }
    // f(arguments), chunk by chunk of the rows, which are the steps; `with` has what does not concern b.
    template <class F> void each(cpu &c, char *scratch, outer_args with, const F &f) const {
        const auto rows = static_cast<size_t>(w.ne[0]), width = static_cast<size_t>(w.ne[1]);
        with.operands = operand_format(w.type);
        if (is_float(w.type)) {
            with.b = at(w, 0), with.b_stride = static_cast<size_t>(w.stride[0]), with.b_type = w.type;
            with.steps = rows;
            return f(with);
        }
        with.b = scratch, with.b_stride = width, with.b_type = format::f32;
        auto *const to = reinterpret_cast<float *>(scratch);
        const float *const a = with.a;
        for (size_t first = 0; first < rows; first += chunk(w)) {
            const size_t n = std::min(chunk(w), rows - first);
            share_range(c, n, static_cast<int64_t>(n * width), [&](size_t begin, size_t end, unsigned) {
                for (size_t r = begin; r < end; ++r)
                    float_row(w, static_cast<int64_t>(first + r), to + r * width);
            });
            with.a = a + first * with.a_step, with.steps = n, with.add |= first > 0;
            f(with);
        }
    }
};

}  // namespace ds
