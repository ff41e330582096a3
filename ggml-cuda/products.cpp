// Scratch, in this order: normed rows as floats, for float weights; what the rows become, one format after
// the other, in the same place, for the stream takes one after the other; a library's scratch.
#include "products.h"

namespace ds::cuda {

static int32_t block_of(format f) { return f == format::i8 ? 0 : static_cast<int32_t>(info(f).block); }

// Below this many rows float weights are read by our own kernel: the products are bound by memory, and exact.
static constexpr int32_t library_rows = 17;

static size_t normed_bytes(int64_t n, int64_t k) {
    return align256(static_cast<size_t>(n * k) * sizeof(float));
}
static size_t split_bytes(int64_t n, int64_t k) {
    return 2 * align256(static_cast<size_t>(n * k) * sizeof(uint16_t)) +
           align256(static_cast<size_t>(n) * sizeof(float));
}

static size_t quantized_bytes(format f, int64_t n, int64_t k) {
    return align256(quantized_bytes(n, k, block_of(f)));
}

size_t products_bytes(const context &c, std::span<const tensor *const> weights, int64_t n, int64_t k,
                      int way) {
    size_t normed = 0, ready = 0;
    for (const tensor *w : weights) {
        if (!w) continue;
        if (is_float(w->type)) {
            normed = normed_bytes(n, k);
            ready = std::max(ready, split_bytes(n, k) + (c.multiply ? library_bytes : 0));
        } else
            ready = std::max(ready, quantized_bytes(w->type, n, k) + (way == library_way && c.integers_bytes
                                                                          ? c.integers_bytes(n, w->ne[0])
                                                                          : 0));
    }
    return normed + ready;
}

static matrix matrix_for(const part &p) {
    return {p.w->data, floats_of(p.w->scale), floats_of(p.bias), dim(*p.w, p.w->rank - 2), p.column};
}

// The parts from `first` on that are of one format.
static std::span<const part> run_of(const products &p, size_t first) {
    size_t last = first + 1;
    while (last < p.parts.size() && p.parts[last].w->type == p.parts[first].w->type) ++last;
    return p.parts.subspan(first, last - first);
}

static products_params quantized_params(const products &p, std::span<const part> parts, char *ready) {
    const format type = parts[0].w->type;
    products_params q{};
    q.type = type;
    q.q = quantized_rows(ready), q.q_stride = i8_stride(p.k);
    q.q_scale = quantized_scales(ready, p.n, p.k),
    q.scale_stride = type == format::i8 ? 1 : p.k / block_of(type);
    for (const part &one : parts) q.w[q.count++] = matrix_for(one);
    q.n = p.n, q.k = p.k, q.batch = 1;
    q.y = p.y, q.y_stride = p.y_stride;
    q.residual = floats_of(p.residual), q.residual_stride = p.residual ? p.residual->stride[0] : 0;
    return q;
}

bool way_fits(const context &c, const products &p, int way) {
    bool all = true, some = false;
    for (size_t i = 0; i < p.parts.size(); ++i) {
        if (is_float(p.parts[i].w->type)) {
            some |= way == static_cast<int>(product_way::plain);
            continue;
        }
        const products_params q = quantized_params(p, run_of(p, i), nullptr);
        all &= fits(choose(q, c.facts), q, c.facts);
        some |= way == library_way ? c.integers_fit && c.integers_fit(q)
                                   : way != chosen_way && fits(static_cast<product_way>(way), q, c.facts);
    }
    return all && (some || way == chosen_way);
}

static void run_quantized(const context &c, const products &p, std::span<const part> parts, int way,
                          const node &n, char *ready) {
    const products_params q = quantized_params(p, parts, ready);
    if (way == library_way && c.integers_fit && c.integers_fit(q))
        return check_launch(
            c, c.multiply_integers(c.library, q, ready + quantized_bytes(q.type, p.n, p.k), c.queue), n);
    const bool can = way < chosen_way && fits(static_cast<product_way>(way), q, c.facts);
    check_launch(
        c, launch_products(can ? static_cast<product_way>(way) : choose(q, c.facts), q, c.facts, c.queue), n);
}

// By the library: what has no more than 11 or 8 bits goes there in two pieces, for x has 24.
static void run_library(const context &c, const products &p, const part &one, const float *x,
                        int64_t x_stride, const node &n, char *ready) {
    const tensor &w = *one.w;
    library_product l{.type = w.type,
                      .x = x,
                      .x_stride = x_stride,
                      .w = w.data,
                      .w_stride = w.stride[0],
                      .y = p.y + one.column,
                      .y_stride = p.y_stride,
                      .n = p.n,
                      .m = dim(w, 0),
                      .k = p.k,
                      .add = false};
    char *const scratch = ready + split_bytes(p.n, p.k);
    const float *unit = nullptr;
    if (w.type == format::f32) check_launch(c, c.multiply(c.library, l, scratch), n);
    else {
        const size_t half = align256(static_cast<size_t>(p.n) * static_cast<size_t>(p.k) * sizeof(uint16_t));
        const split_params s{w.type,
                             x,
                             x_stride,
                             reinterpret_cast<uint16_t *>(ready),
                             reinterpret_cast<uint16_t *>(ready + half),
                             reinterpret_cast<float *>(ready + 2 * half),
                             p.n,
                             p.k};
        check_launch(c, launch_split(s, c.queue), n);
        l.x_stride = p.k;
        for (const uint16_t *piece : {s.high, s.low}) {
            l.x = piece;
            l.add = piece == s.low;
            check_launch(c, c.multiply(c.library, l, scratch), n);
        }
        unit = s.unit;
    }
    if (!unit && !one.bias && !p.residual) return;
    check_launch(c,
                 launch_finish({l.y, l.y_stride, unit, floats_of(one.bias), floats_of(p.residual),
                                p.residual ? p.residual->stride[0] : 0, p.n, l.m},
                               c.queue),
                 n);
}

static void run_floats(const context &c, const products &p, const part &one, const float *x, int64_t x_stride,
                       int way, const node &n, char *ready) {
    const tensor &w = *one.w;
    if (c.multiply && p.n >= library_rows && way != static_cast<int>(product_way::plain))
        return run_library(c, p, one, x, x_stride, n, ready);
    check_launch(c,
                 launch_lanes({.type = w.type,
                               .x = x,
                               .x_stride = x_stride,
                               .x_step = 0,
                               .w = w.data,
                               .w_stride = w.stride[0],
                               .w_step = 0,
                               .bias = floats_of(one.bias),
                               .residual = floats_of(p.residual),
                               .residual_stride = p.residual ? p.residual->stride[0] : 0,
                               .y = p.y + one.column,
                               .y_stride = p.y_stride,
                               .y_step = 0,
                               .n = p.n,
                               .m = dim(w, 0),
                               .k = p.k,
                               .batch = 1},
                              c.queue),
                 n);
}

void run_products(const context &c, const products &p, int way, const node &n, char *work) {
    const bool floats =
        std::any_of(p.parts.begin(), p.parts.end(), [](const part &one) { return is_float(one.w->type); });
    float *const normed = floats && p.norm ? reinterpret_cast<float *>(work) : nullptr;
    char *const ready = work + (floats ? normed_bytes(p.n, p.k) : 0);
    const float *x = normed ? normed : p.x;
    const int64_t x_stride = normed ? p.k : p.x_stride;
    if (normed)
        check_launch(c,
                     launch_quantize({p.x, p.x_stride, floats_of(p.norm), p.eps, normed, p.k, nullptr, 0,
                                      nullptr, 0, p.n, p.k},
                                     c.queue),
                     n);
    int32_t is_quantized = -1;  // the block that rows lie quantized in
    for (size_t i = 0; i < p.parts.size();) {
        const std::span<const part> parts = run_of(p, i);
        const format type = parts[0].w->type;
        i += parts.size();
        if (is_float(type)) {
            for (const part &one : parts) run_floats(c, p, one, x, x_stride, way, n, ready);
            is_quantized = -1;
            continue;
        }
        if (is_quantized != block_of(type)) {
            is_quantized = block_of(type);
            check_launch(
                c,
                launch_quantize({p.x, p.x_stride, floats_of(p.norm), p.eps, nullptr, 0, quantized_rows(ready),
                                 i8_stride(p.k), quantized_scales(ready, p.n, p.k), is_quantized, p.n, p.k},
                                c.queue),
                n);
        }
        run_quantized(c, p, parts, way, n, ready);
    }
}

}  // namespace ds::cuda
