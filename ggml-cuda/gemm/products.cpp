// The ways to compute products that operations share. Scratch holds, in this order: normed rows as floats,
// for float weights; the rows in the form that a format wants, one format after the other in the same memory,
// since all work is on one stream; a library's scratch.
#include "products.h"

namespace ds::cuda {

// With fewer rows a product is bound by reading the weights, and our own kernel gives the CPU's bits.
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
                      product_way way) {
    const bool library = way == product_way::library || way == product_way::mixed;
    size_t normed = 0, most = 0;
    for (const tensor *w : weights) {
        if (!w) continue;
        if (is_float(w->type)) {
            normed = normed_bytes(n, k);
            if (library && c.multiply) most = std::max(most, split_bytes(n, k) + library_bytes);
        } else
            most = std::max(most,
                            quantized_bytes(w->type, n, k) + (way == product_way::library && c.integers_bytes
                                                                  ? c.integers_bytes(n, w->ne[0])
                                                                  : 0));
    }
    return normed + most;
}

weight_kind kind_of(format f) {
    return is_float(f) ? weight_kind::floats : f == format::i8 ? weight_kind::i8 : weight_kind::packed;
}

static matrix matrix_for(const part &p) {
    return {p.w->data, floats_of(p.w->scale), floats_of(p.bias), dim(*p.w, p.w->rank - 2), p.column};
}

// The parts from `first` on that have the same format as it.
static std::span<const part> same_format(const products &p, size_t first) {
    size_t last = first + 1;
    while (last < p.parts.size() && p.parts[last].w->type == p.parts[first].w->type) ++last;
    return p.parts.subspan(first, last - first);
}

static products_params quantized_params(const products &p, std::span<const part> parts, char *rows) {
    const format type = parts[0].w->type;
    products_params q{};
    q.type = type;
    q.q = quantized_rows(rows), q.q_stride = i8_stride(p.k);
    q.q_scale = quantized_scales(rows, p.n, p.k),
    q.scale_stride = type == format::i8 ? 1 : p.k / block_of(type);
    for (const part &one : parts) q.w[q.count++] = matrix_for(one);
    q.n = p.n, q.k = p.k, q.batch = 1;
    q.y = p.y, q.y_stride = p.y_stride;
    q.residual = floats_of(p.residual), q.residual_stride = p.residual ? p.residual->stride[0] : 0;
    return q;
}

// Whether `way`, which is not `mixed`, can compute the products of parts of one format.
static bool format_fits(const context &c, const products &p, std::span<const part> parts, product_way way) {
    if (is_float(parts[0].w->type))
        return way == product_way::lanes ||
               (way == product_way::library && c.multiply && p.n >= library_rows);
    const products_params q = quantized_params(p, parts, nullptr);
    if (way == product_way::library) return q.type == format::i8 && c.integers_fit && c.integers_fit(q);
    return kernel_fits(way, q, c.facts);
}

// The first way of the list that fits parts of one format; `count`: none.
static product_way way_of(const context &c, const products &p, std::span<const part> parts) {
    for (int w = 0; w < static_cast<int>(product_way::count); ++w) {
        const auto way = static_cast<product_way>(w);
        if (way != product_way::mixed && format_fits(c, p, parts, way)) return way;
    }
    return product_way::count;
}

template <class F> static bool all_formats(const products &p, const F &fits) {
    for (size_t i = 0; i < p.parts.size();) {
        const std::span<const part> parts = same_format(p, i);
        if (!fits(parts)) return false;
        i += parts.size();
    }
    return true;
}

bool each_fits(const context &c, const products &p) {
    return all_formats(p, [&](auto parts) { return way_of(c, p, parts) != product_way::count; });
}

bool products_fit(const context &c, const products &p, product_way way) {
    if (way == product_way::mixed) {
        const auto other = [&](const part &one) {
            return kind_of(one.w->type) != kind_of(p.parts[0].w->type);
        };
        return std::any_of(p.parts.begin(), p.parts.end(), other) && each_fits(c, p);
    }
    return all_formats(p, [&](auto parts) { return format_fits(c, p, parts, way); });
}

static void run_quantized(const context &c, const products &p, std::span<const part> parts, product_way way,
                          const node &n, char *rows) {
    const products_params q = quantized_params(p, parts, rows);
    if (way == product_way::library) {
        char *const scratch = rows + quantized_bytes(q.type, p.n, p.k);
        check_launch(c, c.multiply_integers(c.library, q, scratch, c.queue), n);
    } else check_launch(c, launch_products(way, q, c.facts, c.queue), n);
}

// A library multiplies both sides in one format: x with its 24 bits is split in two pieces of f16 (11 bits)
// or bf16 (8 bits).
static void run_library(const context &c, const products &p, const part &one, const float *x,
                        int64_t x_stride, const node &n, char *rows) {
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
    char *const scratch = rows + split_bytes(p.n, p.k);
    const float *unit = nullptr;
    if (w.type == format::f32) check_launch(c, c.multiply(c.library, l, scratch), n);
    else {
        const size_t half = align256(static_cast<size_t>(p.n) * static_cast<size_t>(p.k) * sizeof(uint16_t));
        const split_params s{w.type,
                             x,
                             x_stride,
                             reinterpret_cast<uint16_t *>(rows),
                             reinterpret_cast<uint16_t *>(rows + half),
                             reinterpret_cast<float *>(rows + 2 * half),
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

static void run_lanes(const context &c, const products &p, const part &one, const float *x, int64_t x_stride,
                      const node &n) {
    const tensor &w = *one.w;
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

void run_products(const context &c, const products &p, product_way way, const node &n, char *work) {
    const bool floats =
        std::any_of(p.parts.begin(), p.parts.end(), [](const part &one) { return is_float(one.w->type); });
    float *const normed = floats && p.norm ? reinterpret_cast<float *>(work) : nullptr;
    char *const rows = work + (floats ? normed_bytes(p.n, p.k) : 0);
    const float *x = normed ? normed : p.x;
    const int64_t x_stride = normed ? p.k : p.x_stride;
    if (normed)
        check_launch(c,
                     launch_quantize({p.x, p.x_stride, floats_of(p.norm), p.eps, normed, p.k, nullptr, 0,
                                      nullptr, 0, p.n, p.k},
                                     c.queue),
                     n);
    int32_t quantized_in = -1;  // the block that `rows` is quantized in; -1: it is not
    for (size_t i = 0; i < p.parts.size();) {
        const std::span<const part> parts = same_format(p, i);
        const format type = parts[0].w->type;
        const product_way one_way = way == product_way::mixed ? way_of(c, p, parts) : way;
        i += parts.size();
        if (is_float(type)) {
            for (const part &one : parts) {
                if (one_way == product_way::library) run_library(c, p, one, x, x_stride, n, rows);
                else run_lanes(c, p, one, x, x_stride, n);
            }
            quantized_in = -1;
            continue;
        }
        if (quantized_in != block_of(type)) {
            quantized_in = block_of(type);
            check_launch(
                c,
                launch_quantize({p.x, p.x_stride, floats_of(p.norm), p.eps, nullptr, 0, quantized_rows(rows),
                                 i8_stride(p.k), quantized_scales(rows, p.n, p.k), quantized_in, p.n, p.k},
                                c.queue),
                n);
        }
        run_quantized(c, p, parts, one_way, n, rows);
    }
}

}  // namespace ds::cuda
