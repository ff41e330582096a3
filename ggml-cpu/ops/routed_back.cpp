// Gradients of routed products on the CPU: the rows of a matrix are gathered, in their order, and are outer
// products; matrices are shared out. Those of a route's weights, and its router's, are row by row.

#include "../outer.h"
#include "../routed.h"

namespace ds {

namespace {

bool always(const cpu &, const node &) { return true; }

const char *row_at(const tensor &x, int64_t i, int64_t r) { return x.rank == 2 ? at(x, i) : at(x, i, r); }

// What both products of a route's rows need: pairs by matrix, and for each worker two gathered arrays of up
// to as many rows as there are, and scratch.
struct gathered {
    work_memory memory;
    routed_rows rows;
    char *workers;
    size_t first_bytes, second_bytes, worker_bytes;

    gathered(const cpu &c, const tensor &route, int64_t matrices, int64_t first, int64_t second,
             size_t decoded, char *work)
        : memory{work}, rows(route, matrices, 1, memory),
          first_bytes(align64(static_cast<size_t>(route.ne[0] * first) * sizeof(float))),
          second_bytes(align64(static_cast<size_t>(route.ne[0] * second) * sizeof(float))),
          worker_bytes(first_bytes + second_bytes + outer_scratch_bytes + decoded) {
        workers = memory.take_bytes(c.pool.size() * worker_bytes);
    }
    float *first(unsigned w) const { return reinterpret_cast<float *>(workers + w * worker_bytes); }
    float *second(unsigned w) const {
        return reinterpret_cast<float *>(workers + w * worker_bytes + first_bytes);
    }
    char *scratch(unsigned w) const { return workers + w * worker_bytes + first_bytes + second_bytes; }
    // Of matrix e's rows, those of x, one after another, in f32.
    void gather(const tensor &x, int32_t e, float *to) const {
        const auto width = static_cast<size_t>(x.ne[x.rank - 1]);
        for (size_t i = 0; i < rows.rows_of(e); ++i) {
            const int64_t pair = rows.pair_at(rows.first_of(e) + i);
            decode_row(x.type, row_at(x, pair / rows.ranks(), pair % rows.ranks()), to + i * width, width);
        }
    }
};

// A matrix for outer products, decoded if it must be.
void set_matrix(outer_args &p, const tensor &w, char *scratch) {
    const auto width = static_cast<size_t>(w.ne[1]);
    const bool in_place = is_float(w.type);
    p.b = in_place ? at(w, 0) : scratch;
    p.b_stride = in_place ? static_cast<size_t>(w.stride[0]) : width;
    p.b_type = in_place ? w.type : format::f32;
    p.operands = operand_format(w.type);
    for (int64_t r = 0; !in_place && r < w.ne[0]; ++r)
        float_row(w, r, reinterpret_cast<float *>(scratch) + static_cast<size_t>(r) * width);
}
size_t decoded_bytes(const tensor &w) {
    return is_float(w.type) ? 0 : align64(static_cast<size_t>(w.ne[1] * w.ne[2]) * sizeof(float));
}

gathered back_of(const cpu &c, const node &n, char *work) {
    const tensor &w = *n.src[1];
    return {c, *n.src[2], w.ne[0], w.ne[1], w.ne[2], decoded_bytes(w), work};
}
// The ranks' rows, where they are to be added.
size_t ranks_bytes(const node &n) {
    return n.out.rank == 3 ? 0
                           : align64(static_cast<size_t>(elements(n.out) * n.src[2]->ne[2]) * sizeof(float));
}
size_t back_work(const cpu &c, const node &n) { return back_of(c, n, nullptr).memory.bytes + ranks_bytes(n); }

void run_back(cpu &c, const node &n, char *work) {
    const tensor &dy = *n.src[0], &w = *n.src[1];
    gathered s = back_of(c, n, work + ranks_bytes(n));
    s.rows.sort();
    const auto m = static_cast<size_t>(w.ne[1]), k = static_cast<size_t>(w.ne[2]);
    const auto ranks = static_cast<size_t>(dy.ne[1]);
    float *const out = n.out.rank == 3 ? f32_at(n.out, 0) : reinterpret_cast<float *>(work);
    s.rows.share_matrices(c, m * k, [&](int32_t e, unsigned worker) {
        tensor scale;
        const tensor matrix = matrix_of(w, e, scale);
        outer_args p{.a = s.first(worker),
                     .a_row = m,
                     .a_step = 1,
                     .y = s.second(worker),
                     .y_stride = k,
                     .rows = s.rows.rows_of(e),
                     .columns = k,
                     .steps = m};
        set_matrix(p, matrix, s.scratch(worker) + outer_scratch_bytes);
        s.gather(dy, e, s.first(worker));
        run_outer(c, p, s.scratch(worker));
        for (size_t i = 0; i < s.rows.rows_of(e); ++i)
            std::memcpy(out + static_cast<size_t>(s.rows.pair_at(s.rows.first_of(e) + i)) * k,
                        s.second(worker) + i * k, k * sizeof(float));
    });
    if (n.out.rank == 3) return;
    share_range(c, static_cast<size_t>(n.out.ne[0]), elements(n.out) * dy.ne[1] / 8,
                [&](size_t begin, size_t end, unsigned) {
                    for (size_t i = begin; i < end; ++i) {
                        float *const y = f32_at(n.out, static_cast<int64_t>(i));
                        std::memcpy(y, out + i * ranks * k, k * sizeof(float));
                        for (size_t r = 1; r < ranks; ++r)
                            c.vec->floats->add(y, out + (i * ranks + r) * k, y, k);
                    }
                });
}

gathered weights_of(const cpu &c, const node &n, char *work) {
    const tensor &sum = *n.src[0];
    return {c, *n.src[3], sum.ne[0], sum.ne[1], sum.ne[2], 0, work};
}
size_t weights_work(const cpu &c, const node &n) { return weights_of(c, n, nullptr).memory.bytes; }

void run_weights(cpu &c, const node &n, char *work) {
    const tensor &sum = n.out;
    gathered s = weights_of(c, n, work);
    s.rows.sort();
    const auto m = static_cast<size_t>(sum.ne[1]), k = static_cast<size_t>(sum.ne[2]);
    s.rows.share_matrices(c, m * k, [&](int32_t e, unsigned worker) {
        s.gather(*n.src[1], e, s.first(worker));
        s.gather(*n.src[2], e, s.second(worker));
        run_outer(c,
                  {.a = s.first(worker),
                   .a_row = 1,
                   .a_step = m,
                   .b = reinterpret_cast<const char *>(s.second(worker)),
                   .b_stride = k,
                   .y = f32_at(sum, e),
                   .y_stride = static_cast<size_t>(sum.stride[1]),
                   .rows = m,
                   .columns = k,
                   .steps = s.rows.rows_of(e),
                   .add = true,
                   .operands = operand_format(n.src[2]->type)},
                  s.scratch(worker));
    });
}

// ---- Row by row

// f(i) for each row.
template <class F> void each_row(cpu &c, const node &n, const F &f) {
    share_range(c, static_cast<size_t>(n.out.ne[0]), elements(n.out) * 4,
                [&](size_t begin, size_t end, unsigned) {
                    for (size_t i = begin; i < end; ++i) f(static_cast<int64_t>(i));
                });
}
void run_scale(cpu &c, const node &n, char *) {
    const tensor &dy = *n.src[0], &route = *n.src[1];
    const int64_t d = n.out.ne[2];
    each_row(c, n, [&](int64_t i) {
        for (int64_t r = 0; r < n.out.ne[1]; ++r)
            c.vec->floats->times(*f32_at(route, i, 1, r), routed_part(dy, route, i, r, d),
                                 f32_at(n.out, i, r), static_cast<size_t>(d));
    });
}

void run_dot(cpu &c, const node &n, char *) {
    const tensor &x = *n.src[1], &route = *n.src[2];
    each_row(c, n, [&](int64_t i) {
        for (int64_t r = 0; r < x.ne[1]; ++r) {
            *f32_at(n.out, i, 0, r) = 0.0f;
            *f32_at(n.out, i, 1, r) = c.vec->floats->product_sum(
                routed_part(*n.src[0], route, i, r, x.ne[2]), f32_at(x, i, r), static_cast<size_t>(x.ne[2]));
        }
    });
}

void run_add(cpu &c, const node &n, char *) {
    const tensor &x = *n.src[0], *const acc = n.src[2];
    const auto d = static_cast<size_t>(n.out.ne[1]);
    each_row(c, n, [&](int64_t i) {
        float *const y = f32_at(n.out, i);
        if (acc) std::memcpy(y, f32_at(*acc, i), d * sizeof(float));
        else std::fill_n(y, d, 0.0f);
        for (int64_t r = 0; r < x.ne[1]; ++r)
            c.vec->floats->add_times(*f32_at(*n.src[1], i, 1, r), f32_at(x, i, r), y, d);
    });
}

// A worker's rows of scratch.
template <class F> void with_scratch(cpu &c, const node &n, int64_t floats, char *work, const F &f) {
    share_range(c, static_cast<size_t>(n.out.ne[0]), elements(n.out) * 40,
                [&](size_t begin, size_t end, unsigned worker) {
                    auto *const scratch = reinterpret_cast<float *>(
                        work + worker * align64(static_cast<size_t>(floats) * sizeof(float)));
                    for (size_t i = begin; i < end; ++i) f(static_cast<int64_t>(i), scratch);
                });
}
size_t rows_work(const cpu &c, const node &n) {
    return c.pool.size() * align64(static_cast<size_t>(2 * n.out.ne[1]) * sizeof(float));
}

void run_router(cpu &c, const node &n, char *work) {
    with_scratch(c, n, 2 * n.out.ne[1], work, [&](int64_t i, float *scratch) {
        route_back_row(f32_at(*n.src[1], i), f32_at(*n.src[2], i), f32_at(*n.src[0], i), n.out.ne[1],
                       n.as<router_params>(), scratch, f32_at(n.out, i));
    });
}

void run_head_router(cpu &c, const node &n, char *work) {
    const tensor &logits = *n.src[2], *const shared = n.src[3];
    with_scratch(c, n, 2 * n.out.ne[1], work, [&](int64_t i, float *scratch) {
        route_heads_back(f32_at(logits, i), logits.ne[1], shared ? f32_at(*shared, i) : nullptr,
                         shared ? shared->ne[1] : 0, f32_at(*n.src[4], i), n.as<head_router_params>().chosen,
                         f32_at(*n.src[1], i), f32_at(*n.src[0], i), scratch, f32_at(n.out, i));
    });
}

constexpr variant back_list[] = {{"grouped", always, back_work, run_back}, reference_variant};
constexpr variant weights_list[] = {{"grouped", always, weights_work, run_weights}, reference_variant};
constexpr variant scale_list[] = {{"rows", always, nullptr, run_scale}, reference_variant};
constexpr variant dot_list[] = {{"rows", always, nullptr, run_dot}, reference_variant};
constexpr variant add_list[] = {{"rows", always, nullptr, run_add}, reference_variant};
constexpr variant router_list[] = {{"rows", always, rows_work, run_router}, reference_variant};
constexpr variant head_router_list[] = {{"rows", always, rows_work, run_head_router}, reference_variant};

}  // namespace

constexpr variants routed_matmul_back_variants = back_list;
constexpr variants routed_matmul_back_w_variants = weights_list;
constexpr variants routed_scale_variants = scale_list;
constexpr variants routed_dot_variants = dot_list;
constexpr variants routed_add_variants = add_list;
constexpr variants router_back_variants = router_list;
constexpr variants head_router_back_variants = head_router_list;

}  // namespace ds
