// matmul on the CPU: panels of weight rows, and for many rows of activations groups of those, are shared out.
// Weights are read where they were mapped. For packed formats and I8, activations are quantized once, into
// the work bytes; then few rows (GEMV) read the weights as stored, many (GEMM) through tiles repacked in
// scratch.

#include "../products.h"

namespace ds {

namespace {

size_t dim(const tensor &t, int i) { return static_cast<size_t>(t.ne[i]); }

void add_residual(cpu &c, const node &n, size_t w0, size_t wn, size_t x0, size_t xn) {
    for (size_t i = x0; i < x0 + xn; ++i) {
        float *const y = f32_at(n.out, static_cast<int64_t>(i), static_cast<int64_t>(w0));
        c.vec->floats->add(f32_at(*n.src[3], static_cast<int64_t>(i), static_cast<int64_t>(w0)), y, y, wn);
    }
}

// f(first weight, weights, first row, rows, worker) for every piece, which then gets its residual.
template <class F> void share_pieces(cpu &c, const node &n, const cut &s, int64_t nanoseconds, const F &f) {
    const size_t weights = dim(n.out, 1), rows = dim(n.out, 0);
    const auto piece = [&](size_t task, unsigned worker) {
        const size_t w0 = task / s.groups * s.panel, x0 = task % s.groups * s.group,
                     wn = std::min(s.panel, weights - w0), xn = std::min(s.group, rows - x0);
        f(w0, wn, x0, xn, worker);
        if (n.src[3]) add_residual(c, n, w0, wn, x0, xn);
    };
    const size_t tasks = s.panels * s.groups;
    if (nanoseconds >= worth_sharing) return c.pool.run(tasks, piece);
    for (size_t i = 0; i < tasks; ++i) piece(i, 0);
}

const float *bias_at(const node &n, size_t w0) { return n.src[2] ? f32_at(*n.src[2], 0) + w0 : nullptr; }

// ---- Float weights

bool floats_fit(const cpu &, const node &n) {
    const format w = n.src[1]->type;
    return w == format::f32 || w == format::f16 || w == format::bf16;
}

void run_floats(cpu &c, const node &n, char *) {
    const tensor &x = *n.src[0], &w = *n.src[1];
    const size_t rows = dim(x, 0), weights = dim(w, 0), k = dim(x, 1), element = info(w.type).bytes;
    const float_kernels &f = *c.vec->floats;
    const auto dot = w.type == format::f32 ? f.dot_f32 : w.type == format::f16 ? f.dot_f16 : f.dot_bf16;
    const cut s = make_cut(weights, rows, 32, 48, c.pool.size());
    share_pieces(c, n, s, static_cast<int64_t>(weights * k * (rows + 1) / 20),
                 [&](size_t w0, size_t wn, size_t x0, size_t xn, unsigned) {
                     dot({.w = at(w, static_cast<int64_t>(w0)),
                          .w_stride = static_cast<size_t>(w.stride[0]) * element,
                          .x = f32_at(x, static_cast<int64_t>(x0)),
                          .x_stride = static_cast<size_t>(x.stride[0]),
                          .y = f32_at(n.out, static_cast<int64_t>(x0)) + w0,
                          .y_stride = static_cast<size_t>(n.out.stride[0]),
                          .bias = bias_at(n, w0),
                          .k = k,
                          .weights = wn,
                          .rows = xn});
                 });
}

// ---- Packed weights

bool packed_fits(const cpu &, const node &n) { return is_packed(n.src[1]->type); }
bool packed_few_fit(const cpu &c, const node &n) {
    return packed_fits(c, n) && dim(*n.src[0], 0) <= c.vec->packed(n.src[1]->type)->few_rows;
}

const packed_kernels &kernels_of(const cpu &c, const node &n) { return *c.vec->packed(n.src[1]->type); }
size_t blocks_of(const node &n) { return dim(*n.src[0], 1) / info(n.src[1]->type).block; }
size_t x_row_bytes(const cpu &c, const node &n) { return align64(blocks_of(n) * kernels_of(c, n).x_bytes); }

size_t packed_few_work(const cpu &c, const node &n) {
    return packed_fits(c, n) ? dim(*n.src[0], 0) * x_row_bytes(c, n) : 0;
}
size_t packed_many_work(const cpu &c, const node &n) {
    return packed_fits(c, n) ? packed_few_work(c, n) + c.pool.size() * align64(kernels_of(c, n).tile_bytes)
                             : 0;
}

// Quantizes the activations into `work`.
void quantize(cpu &c, const node &n, char *work) {
    const tensor &x = *n.src[0];
    const packed_kernels &k = kernels_of(c, n);
    const size_t blocks = blocks_of(n), row_bytes = x_row_bytes(c, n);
    share_range(c, dim(x, 0), elements(x) / 8, [&](size_t begin, size_t end, unsigned) {
        for (size_t i = begin; i < end; ++i)
            k.quantize(f32_at(x, static_cast<int64_t>(i)), work + i * row_bytes, blocks);
    });
}

packed_args packed_piece(const cpu &c, const node &n, const char *work, size_t w0, size_t wn, size_t x0,
                         size_t xn) {
    const tensor &w = *n.src[1];
    const size_t x_stride = x_row_bytes(c, n);
    return {.w = at(w, static_cast<int64_t>(w0)),
            .w_stride = row_bytes(w.type, static_cast<uint64_t>(w.stride[0])),
            .x = work + x0 * x_stride,
            .x_stride = x_stride,
            .y = f32_at(n.out, static_cast<int64_t>(x0)) + w0,
            .y_stride = static_cast<size_t>(n.out.stride[0]),
            .bias = bias_at(n, w0),
            .blocks = blocks_of(n),
            .weights = wn,
            .rows = xn};
}

int64_t packed_nanoseconds(const node &n) { return elements(*n.src[1]) * (n.src[0]->ne[0] + 3) / 100; }

void run_packed_few(cpu &c, const node &n, char *work) {
    const size_t weights = dim(*n.src[1], 0), rows = dim(*n.src[0], 0),
                 panel = stream_panel(weights, c.pool.size());
    const packed_kernels &k = kernels_of(c, n);
    quantize(c, n, work);
    const cut s = {panel, ceil_div(weights, panel), rows, 1};
    share_pieces(c, n, s, packed_nanoseconds(n), [&](size_t w0, size_t wn, size_t x0, size_t xn, unsigned) {
        k.rows(packed_piece(c, n, work, w0, wn, x0, xn));
    });
}

void run_packed_many(cpu &c, const node &n, char *work) {
    const size_t weights = dim(*n.src[1], 0), rows = dim(*n.src[0], 0);
    const packed_kernels &k = kernels_of(c, n);
    char *tiles = work + rows * x_row_bytes(c, n);
    quantize(c, n, work);
    const cut s = make_cut(weights, rows, k.tile_weights, 48, c.pool.size());
    share_pieces(c, n, s, packed_nanoseconds(n),
                 [&](size_t w0, size_t wn, size_t x0, size_t xn, unsigned worker) {
                     k.tile(packed_piece(c, n, work, w0, wn, x0, xn), tiles + worker * align64(k.tile_bytes));
                 });
}

// ---- I8 weights

bool i8_fits(const cpu &, const node &n) { return n.src[1]->type == format::i8; }
bool i8_few_fit(const cpu &c, const node &n) {
    return i8_fits(c, n) && dim(*n.src[0], 0) <= c.vec->i8->few_rows;
}

size_t i8_x_bytes(const cpu &c, const node &n) {
    return i8_row_bytes(c.vec->i8->element, dim(*n.src[0], 1), 1);
}
size_t i8_few_work(const cpu &c, const node &n) {
    return i8_fits(c, n) ? dim(*n.src[0], 0) * i8_x_bytes(c, n) : 0;
}
size_t i8_many_work(const cpu &c, const node &n) {
    return i8_fits(c, n) ? i8_few_work(c, n) + c.pool.size() * align64(c.vec->i8->tile_bytes) : 0;
}

void quantize_i8(cpu &c, const node &n, char *work) {
    const tensor &x = *n.src[0];
    const size_t k = dim(x, 1), row_bytes = i8_x_bytes(c, n);
    share_range(c, dim(x, 0), elements(x) / 8, [&](size_t begin, size_t end, unsigned) {
        for (size_t i = begin; i < end; ++i)
            c.vec->i8->quantize(f32_at(x, static_cast<int64_t>(i)), work + i * row_bytes, k);
    });
}

i8_args i8_piece(const cpu &c, const node &n, const char *work, size_t w0, size_t wn, size_t x0, size_t xn) {
    const tensor &w = *n.src[1];
    const size_t row_bytes = i8_x_bytes(c, n);
    return {.w = at(w, static_cast<int64_t>(w0)),
            .w_stride = static_cast<size_t>(w.stride[0]),
            .w_scale = f32_at(*w.scale, 0) + w0,
            .x = work + x0 * row_bytes,
            .x_stride = row_bytes,
            .y = f32_at(n.out, static_cast<int64_t>(x0)) + w0,
            .y_stride = static_cast<size_t>(n.out.stride[0]),
            .bias = bias_at(n, w0),
            .k = dim(w, 1),
            .weights = wn,
            .rows = xn};
}

int64_t i8_nanoseconds(const node &n) { return elements(*n.src[1]) * (n.src[0]->ne[0] + 5) / 200; }

void run_i8_few(cpu &c, const node &n, char *work) {
    const size_t weights = dim(*n.src[1], 0), rows = dim(*n.src[0], 0),
                 panel = stream_panel(weights, c.pool.size());
    quantize_i8(c, n, work);
    const cut s = {panel, ceil_div(weights, panel), rows, 1};
    share_pieces(c, n, s, i8_nanoseconds(n), [&](size_t w0, size_t wn, size_t x0, size_t xn, unsigned) {
        c.vec->i8->rows(i8_piece(c, n, work, w0, wn, x0, xn));
    });
}

void run_i8_many(cpu &c, const node &n, char *work) {
    const size_t weights = dim(*n.src[1], 0), rows = dim(*n.src[0], 0),
                 tile_bytes = align64(c.vec->i8->tile_bytes);
    char *tiles = work + rows * i8_x_bytes(c, n);
    quantize_i8(c, n, work);
    const cut s = make_cut(weights, rows, c.vec->i8->tile_weights, 48, c.pool.size());
    share_pieces(c, n, s, i8_nanoseconds(n),
                 [&](size_t w0, size_t wn, size_t x0, size_t xn, unsigned worker) {
                     c.vec->i8->tile(i8_piece(c, n, work, w0, wn, x0, xn), tiles + worker * tile_bytes);
                 });
}

constexpr variant list[] = {
    {"i8_few", i8_few_fit, i8_few_work, run_i8_few},
    {"i8_many", i8_fits, i8_many_work, run_i8_many},
    {"packed_few", packed_few_fit, packed_few_work, run_packed_few},
    {"packed_many", packed_fits, packed_many_work, run_packed_many},
    {"floats", floats_fit, nullptr, run_floats},
    reference_variant,
};

}  // namespace

constexpr variants matmul_variants = list;

}  // namespace ds
