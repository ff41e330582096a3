// Operations that are products, from a node to launches. `chosen` takes the best way for each format; the
// others are for tests and measurements, and only fit where some weights can be multiplied that way.
#include "products.h"

namespace ds::cuda {

template <int way> static size_t bytes_for(const context &c, std::initializer_list<const tensor *> weights,
                                           int64_t n, int64_t k) {
    return products_bytes(c, {weights.begin(), weights.size()}, n, k, way);
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
template <int way> static bool matmul_fits(const context &c, const node &n) {
    return way_fits(c, matmul_parts(n).p, way);
}
template <int way> static void run_matmul(const context &c, const node &n, char *work) {
    run_products(c, matmul_parts(n).p, way, n, work);
}
template <int way> static size_t matmul_bytes(const context &c, const node &n) {
    return bytes_for<way>(c, {n.src[1]}, n.src[0]->ne[0], n.src[0]->ne[1]);
}

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
template <int way> static bool projections_fits(const context &c, const node &n) {
    return way_fits(c, projection_parts(n).p, way);
}
template <int way> static void run_projections(const context &c, const node &n, char *work) {
    run_products(c, projection_parts(n).p, way, n, work);
}
template <int way> static size_t projections_bytes(const context &c, const node &n) {
    return bytes_for<way>(c, {n.src[2], n.src[3], n.src[4]}, n.src[0]->ne[0], n.src[0]->ne[1]);
}

// ---- gated_projection: both at once where they are I8; else gate's products go to y and up's to scratch

static bool fused(const node &n) { return n.src[2]->type == format::i8 && n.src[3]->type == format::i8; }
static size_t up_bytes(const node &n) {
    return align256(static_cast<size_t>(n.out.ne[0] * n.out.ne[1]) * sizeof(float));
}
template <int way> static size_t gated_bytes(const context &c, const node &n) {
    return (fused(n) && way != library_way ? 0 : up_bytes(n)) +
           bytes_for<way>(c, {n.src[2], n.src[3]}, n.src[0]->ne[0], n.src[0]->ne[1]);
}

static gated_launch_params gated_params_of(const node &n, char *ready) {
    const tensor &x = *n.src[0], &gate = *n.src[2], &up = *n.src[3];
    const int32_t rows = dim(x, 0), k = dim(x, 1);
    return {.type = gate.type,
            .q = quantized_rows(ready),
            .q_stride = i8_stride(k),
            .q_scale = quantized_scales(ready, rows, k),
            .scale_stride = 1,
            .gate = {gate.data, floats_of(gate.scale), nullptr, dim(gate, 0), 0},
            .up = {up.data, floats_of(up.scale), nullptr, dim(up, 0), 0},
            .n = rows,
            .k = k,
            .f = n.as<gated_params>().f,
            .y = f32_at(n.out, 0),
            .y_stride = n.out.stride[0]};
}
static products one_part(const node &n, const part &one) {
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
template <int way> static bool gated_fits(const context &c, const node &n) {
    if (!fused(n) || way == library_way) {
        const part gate{n.src[2], nullptr, 0}, up{n.src[3], nullptr, 0};
        return way_fits(c, one_part(n, gate), way) && way_fits(c, one_part(n, up), way);
    }
    const gated_launch_params p = gated_params_of(n, nullptr);
    return fits(way == chosen_way ? choose(p, c.facts) : static_cast<product_way>(way), p, c.facts);
}
template <int way> static void run_gated(const context &c, const node &n, char *work) {
    const tensor &x = *n.src[0];
    const float eps = n.as<gated_params>().eps;
    if (fused(n) && way != library_way) {
        const gated_launch_params p = gated_params_of(n, work);
        check_launch(
            c,
            launch_quantize({f32_at(x, 0), x.stride[0], floats_of(n.src[1]), eps, nullptr, 0,
                             quantized_rows(work), p.q_stride, quantized_scales(work, p.n, p.k), 0, p.n, p.k},
                            c.queue),
            n);
        check_launch(c,
                     launch_gated(way == chosen_way ? choose(p, c.facts) : static_cast<product_way>(way), p,
                                  c.facts, c.queue),
                     n);
        return;
    }
    float *const up = reinterpret_cast<float *>(work);
    const int32_t m = dim(n.out, 1);
    const part first{n.src[2], nullptr, 0}, second{n.src[3], nullptr, 0};
    run_products(c, one_part(n, first), way, n, work + up_bytes(n));
    products p = one_part(n, second);
    p.y = up, p.y_stride = m;
    run_products(c, p, way, n, work + up_bytes(n));
    check_launch(c,
                 launch_gate({f32_at(n.out, 0), n.out.stride[0], up, m, dim(x, 0), m, n.as<gated_params>().f},
                             c.queue),
                 n);
}

// ---- head_matmul: quantized, rows and heads are made ready as one; a head's rows lie side by side then

static products_params heads_params(const node &n, char *ready) {
    const tensor &x = *n.src[0], &w = *n.src[1];
    const int32_t rows = dim(x, 0), heads = dim(x, 1), k = dim(x, 2);
    const int64_t q_stride = i8_stride(k),
                  scales = w.type == format::i8 ? 1 : k / static_cast<int32_t>(info(w.type).block);
    products_params p{};
    p.type = w.type;
    p.q = quantized_rows(ready), p.q_stride = heads * q_stride, p.q_step = q_stride;
    p.q_scale = quantized_scales(ready, static_cast<int64_t>(rows) * heads, k),
    p.scale_stride = heads * scales, p.scale_step = scales;
    p.w[0] = {w.data, floats_of(w.scale), nullptr, dim(w, 1), 0};
    p.count = 1, p.n = rows, p.k = k, p.batch = heads;
    p.w_step = w.stride[0], p.w_scale_step = w.scale ? w.scale->stride[0] : 0;
    p.y = f32_at(n.out, 0), p.y_stride = n.out.stride[0], p.y_step = n.out.stride[1];
    return p;
}
// Heads that were cut out of wider rows are first copied together, as floats.
static bool together(const tensor &x) { return x.stride[0] == x.ne[1] * x.stride[1]; }
static size_t heads_copy_bytes(const tensor &x) {
    return align256(static_cast<size_t>(elements(x)) * sizeof(float));
}
template <int way> static size_t heads_bytes(const context &, const node &n) {
    const tensor &x = *n.src[0];
    return is_float(n.src[1]->type)
               ? 0
               : heads_copy_bytes(x) +
                     align256(quantized_bytes(x.ne[0] * x.ne[1], x.ne[2],
                                              n.src[1]->type == format::i8
                                                  ? 0
                                                  : static_cast<int32_t>(info(n.src[1]->type).block)));
}
template <int way> static bool heads_fits(const context &c, const node &n) {
    if (is_float(n.src[1]->type)) return way == chosen_way || way == static_cast<int>(product_way::plain);
    if (way == library_way) return false;
    const products_params p = heads_params(n, nullptr);
    return fits(way == chosen_way ? choose(p, c.facts) : static_cast<product_way>(way), p, c.facts);
}
template <int way> static void run_heads(const context &c, const node &n, char *work) {
    const tensor &x = *n.src[0], &w = *n.src[1], &y = n.out;
    if (is_float(w.type)) {
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
        return;
    }
    const float *from = f32_at(x, 0);
    int64_t stride = x.stride[1];
    char *const ready = work + heads_copy_bytes(x);
    if (!together(x)) {
        from = reinterpret_cast<const float *>(work);
        stride = x.ne[2];
        check_launch(c,
                     launch_copy_heads({f32_at(x, 0), x.stride[0], x.stride[1],
                                        reinterpret_cast<float *>(work), dim(x, 0), dim(x, 1), dim(x, 2)},
                                       c.queue),
                     n);
    }
    const products_params p = heads_params(n, ready);
    const int32_t block = w.type == format::i8 ? 0 : static_cast<int32_t>(info(w.type).block),
                  all = dim(x, 0) * dim(x, 1);
    check_launch(c,
                 launch_quantize({from, stride, nullptr, 0.0f, nullptr, 0, quantized_rows(ready),
                                  i8_stride(p.k), quantized_scales(ready, all, p.k), block, all, p.k},
                                 c.queue),
                 n);
    check_launch(c,
                 launch_products(way == chosen_way ? choose(p, c.facts) : static_cast<product_way>(way), p,
                                 c.facts, c.queue),
                 n);
}

// ---- The lists

#define DS_WAY(name, way, fits, bytes, run)                                                                  \
    { name, fits<way>, bytes<way>, run<way> }
#define DS_WAYS(op, fits, bytes, run)                                                                        \
    static constexpr variant op##_list[] = {DS_WAY("chosen", chosen_way, fits, bytes, run),                  \
                                            DS_WAY("wgmma", int(product_way::wgmma), fits, bytes, run),      \
                                            DS_WAY("tiles", int(product_way::tiles), fits, bytes, run),      \
                                            DS_WAY("rows", int(product_way::rows), fits, bytes, run),        \
                                            DS_WAY("plain", int(product_way::plain), fits, bytes, run),      \
                                            DS_WAY("library", library_way, fits, bytes, run)};               \
    extern const variants op##_variants;                                                                     \
    constexpr variants op##_variants = op##_list;
DS_WAYS(matmul, matmul_fits, matmul_bytes, run_matmul)
DS_WAYS(projections, projections_fits, projections_bytes, run_projections)
DS_WAYS(gated_projection, gated_fits, gated_bytes, run_gated)
DS_WAYS(head_matmul, heads_fits, heads_bytes, run_heads)
#undef DS_WAYS
#undef DS_WAY

}  // namespace ds::cuda
