// The operations that are products, from a node to launches, and their lists of variants. Every way to
// compute a product is an entry, in the order in which they are tried:
//
//   wgmma    I8      more than 64 rows, where wgmma is available
//   rows     I8      up to 32 rows
//   tiles    I8      any number of rows
//   plain    I8      what the others cannot take: unaligned weights, k not a multiple of 16
//   packed   packed
//   mixed    several of I8, packed and floats: each format by the first other way that fits it
//   library  floats  17 rows and more, with a library; I8 too, but only when forced, after `plain`
//   lanes    floats
#include "products.h"

namespace ds::cuda {

// The entries of an operation's list: a struct with fits, bytes and run for each way.
template <template <product_way> class operation, product_way... ways> static constexpr variant list_of[] = {
    {name_of(ways), operation<ways>::fits, operation<ways>::bytes, operation<ways>::run}...};

namespace {

size_t bytes_for(const context &c, const node &n, std::initializer_list<const tensor *> weights,
                 product_way way) {
    return products_bytes(c, {weights.begin(), weights.size()}, n.src[0]->ne[0], n.src[0]->ne[1], way);
}

// ---- matmul

struct matmul_parts {
    part one;
    products p;
    explicit matmul_parts(const node &n)
        : one{n.src[1], n.src[2], 0}, p{f32_at(*n.src[0], 0),
                                        n.src[0]->stride[0],
                                        nullptr,
                                        0.0f,
                                        dim(*n.src[0], 0),
                                        dim(*n.src[0], 1),
                                        {&one, 1},
                                        f32_at(n.out, 0),
                                        n.out.stride[0],
                                        n.src[3]} {}
    matmul_parts(const matmul_parts &) = delete;
};

template <product_way way> struct matmul_by {
    static bool fits(const context &c, const node &n) { return products_fit(c, matmul_parts(n).p, way); }
    static size_t bytes(const context &c, const node &n) { return bytes_for(c, n, {n.src[1]}, way); }
    static void run(const context &c, const node &n, char *work) {
        run_products(c, matmul_parts(n).p, way, n, work);
    }
};

// ---- projections

struct projection_parts {
    part list[most_projections];
    products p;
    explicit projection_parts(const node &n)
        : p{f32_at(*n.src[0], 0),
            n.src[0]->stride[0],
            n.src[1],
            n.as<rms_norm_params>().eps,
            dim(*n.src[0], 0),
            dim(*n.src[0], 1),
            {},
            f32_at(n.out, 0),
            n.out.stride[0],
            nullptr} {
        int32_t column = 0;
        size_t count = 0;
        for (; count < most_projections && n.src[2 + count]; ++count) {
            list[count] = {n.src[2 + count], n.src[2 + most_projections + count], column};
            column += dim(*n.src[2 + count], 0);
        }
        p.parts = {list, count};
    }
    projection_parts(const projection_parts &) = delete;
};

template <product_way way> struct projections_by {
    static bool fits(const context &c, const node &n) { return products_fit(c, projection_parts(n).p, way); }
    static size_t bytes(const context &c, const node &n) {
        return products_bytes(c, {n.src + 2, most_projections}, n.src[0]->ne[0], n.src[0]->ne[1], way);
    }
    static void run(const context &c, const node &n, char *work) {
        run_products(c, projection_parts(n).p, way, n, work);
    }
};

// ---- gated_projection: one kernel for both matrices where they are I8; else gate's products go to y, those
// ---- of up to scratch, and a last kernel combines them

gated_launch_params gated_params_of(const node &n, char *quantized) {
    const tensor &x = *n.src[0], &gate = *n.src[2], &up = *n.src[3];
    const int32_t rows = dim(x, 0), k = dim(x, 1);
    return {.type = gate.type,
            .q = quantized_rows(quantized),
            .q_stride = i8_stride(k),
            .q_scale = quantized_scales(quantized, rows, k),
            .scale_stride = 1,
            .gate = {gate.data, floats_of(gate.scale), nullptr, dim(gate, 0), 0},
            .up = {up.data, floats_of(up.scale), nullptr, dim(up, 0), 0},
            .n = rows,
            .k = k,
            .f = n.as<gated_params>().f,
            .y = f32_at(n.out, 0),
            .y_stride = n.out.stride[0]};
}
products products_of(const node &n, const part &one) {
    return {f32_at(*n.src[0], 0),
            n.src[0]->stride[0],
            n.src[1],
            n.as<gated_params>().eps,
            dim(*n.src[0], 0),
            dim(*n.src[0], 1),
            {&one, 1},
            f32_at(n.out, 0),
            n.out.stride[0],
            nullptr};
}

template <product_way way> struct gated_by {
    static bool fused(const node &n) {
        return way != product_way::library && n.src[2]->type == format::i8 && n.src[3]->type == format::i8;
    }
    static size_t up_bytes(const node &n) {
        return align256(static_cast<size_t>(n.out.ne[0] * n.out.ne[1]) * sizeof(float));
    }

    static bool fits(const context &c, const node &n) {
        if (fused(n)) return kernel_fits(way, gated_params_of(n, nullptr), c.facts);
        const part gate{n.src[2], nullptr, 0}, up{n.src[3], nullptr, 0};
        const products first = products_of(n, gate), second = products_of(n, up);
        if (way == product_way::mixed)
            return kind_of(gate.w->type) != kind_of(up.w->type) && each_fits(c, first) &&
                   each_fits(c, second);
        return products_fit(c, first, way) && products_fit(c, second, way);
    }
    static size_t bytes(const context &c, const node &n) {
        return (fused(n) ? 0 : up_bytes(n)) + bytes_for(c, n, {n.src[2], n.src[3]}, way);
    }
    static void run(const context &c, const node &n, char *work) {
        const tensor &x = *n.src[0];
        const gated_params &params = n.as<gated_params>();
        if (fused(n)) {
            const gated_launch_params p = gated_params_of(n, work);
            check_launch(c,
                         launch_quantize({f32_at(x, 0), x.stride[0], floats_of(n.src[1]), params.eps, nullptr,
                                          0, quantized_rows(work), p.q_stride,
                                          quantized_scales(work, p.n, p.k), 0, p.n, p.k},
                                         c.queue),
                         n);
            check_launch(c, launch_gated(way, p, c.facts, c.queue), n);
            return;
        }
        float *const up = reinterpret_cast<float *>(work);
        const int32_t m = dim(n.out, 1);
        const part first{n.src[2], nullptr, 0}, second{n.src[3], nullptr, 0};
        run_products(c, products_of(n, first), way, n, work + up_bytes(n));
        products p = products_of(n, second);
        p.y = up, p.y_stride = m;
        run_products(c, p, way, n, work + up_bytes(n));
        check_launch(
            c, launch_gate({f32_at(n.out, 0), n.out.stride[0], up, m, dim(x, 0), m, params.f}, c.queue), n);
    }
};

// ---- head_matmul: the heads of all rows are quantized as [n * heads, k], so a row's heads are contiguous

products_params heads_params(const node &n, char *quantized) {
    const tensor &x = *n.src[0], &w = *n.src[1];
    const int32_t rows = dim(x, 0), heads = dim(x, 1), k = dim(x, 2);
    const int64_t q_stride = i8_stride(k), scales = w.type == format::i8 ? 1 : k / block_of(w.type);
    products_params p{};
    p.type = w.type;
    p.q = quantized_rows(quantized), p.q_stride = heads * q_stride, p.q_step = q_stride;
    p.q_scale = quantized_scales(quantized, static_cast<int64_t>(rows) * heads, k),
    p.scale_stride = heads * scales, p.scale_step = scales;
    p.w[0] = {w.data, floats_of(w.scale), nullptr, dim(w, 1), 0};
    p.count = 1, p.n = rows, p.k = k, p.batch = heads;
    p.w_step = w.stride[0], p.w_scale_step = w.scale ? w.scale->stride[0] : 0;
    p.y = f32_at(n.out, 0), p.y_stride = n.out.stride[0], p.y_step = n.out.stride[1];
    return p;
}
// Heads that are slices of wider rows are first copied to scratch, as floats.
bool heads_contiguous(const tensor &x) { return x.stride[0] == x.ne[1] * x.stride[1]; }
size_t heads_copy_bytes(const tensor &x) {
    return align256(static_cast<size_t>(elements(x)) * sizeof(float));
}
void run_float_heads(const context &c, const node &n) {
    const tensor &x = *n.src[0], &w = *n.src[1], &y = n.out;
    check_launch(c,
                 launch_lanes({.type = w.type,
                               .x = f32_at(x, 0),
                               .x_stride = x.stride[0],
                               .x_step = x.stride[1],
                               .w = w.data,
                               .w_stride = w.stride[1],
                               .w_step = w.stride[0],
                               .bias = nullptr,
                               .residual = nullptr,
                               .residual_stride = 0,
                               .y = f32_at(y, 0),
                               .y_stride = y.stride[0],
                               .y_step = y.stride[1],
                               .n = dim(x, 0),
                               .m = dim(w, 1),
                               .k = dim(x, 2),
                               .batch = dim(x, 1)},
                              c.queue),
                 n);
}

template <product_way way> struct heads_by {
    static bool fits(const context &c, const node &n) {
        if (is_float(n.src[1]->type)) return way == product_way::lanes;
        return kernel_fits(way, heads_params(n, nullptr), c.facts);
    }
    static size_t bytes(const context &, const node &n) {
        const tensor &x = *n.src[0];
        if (is_float(n.src[1]->type)) return 0;
        return heads_copy_bytes(x) +
               align256(quantized_bytes(x.ne[0] * x.ne[1], x.ne[2], block_of(n.src[1]->type)));
    }
    static void run(const context &c, const node &n, char *work) {
        if (way == product_way::lanes) return run_float_heads(c, n);
        const tensor &x = *n.src[0];
        const float *from = f32_at(x, 0);
        int64_t stride = x.stride[1];
        char *const quantized = work + heads_copy_bytes(x);
        if (!heads_contiguous(x)) {
            float *const copy = reinterpret_cast<float *>(work);
            check_launch(
                c,
                launch_copy_heads({from, x.stride[0], x.stride[1], copy, dim(x, 0), dim(x, 1), dim(x, 2)},
                                  c.queue),
                n);
            from = copy;
            stride = x.ne[2];
        }
        const products_params p = heads_params(n, quantized);
        const int32_t all = dim(x, 0) * dim(x, 1);
        check_launch(c,
                     launch_quantize({from, stride, nullptr, 0.0f, nullptr, 0, quantized_rows(quantized),
                                      i8_stride(p.k), quantized_scales(quantized, all, p.k), block_of(p.type),
                                      all, p.k},
                                     c.queue),
                     n);
        check_launch(c, launch_products(way, p, c.facts, c.queue), n);
    }
};

}  // namespace

// ---- The lists

using way = product_way;

extern const variants matmul_variants, projections_variants, gated_projection_variants, head_matmul_variants;
constexpr variants matmul_variants =
    list_of<matmul_by, way::wgmma, way::rows, way::tiles, way::plain, way::packed, way::library, way::lanes>;
constexpr variants projections_variants =
    list_of<projections_by, way::wgmma, way::rows, way::tiles, way::plain, way::packed, way::mixed,
            way::library, way::lanes>;
constexpr variants gated_projection_variants =
    list_of<gated_by, way::wgmma, way::rows, way::tiles, way::plain, way::packed, way::mixed, way::library,
            way::lanes>;
constexpr variants head_matmul_variants =
    list_of<heads_by, way::wgmma, way::rows, way::tiles, way::plain, way::packed, way::lanes>;

}  // namespace ds::cuda
