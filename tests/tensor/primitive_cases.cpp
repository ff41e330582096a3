// Cases of the operations that fused ones expand into.
#include "case_parts.h"

#include <algorithm>
#include <cmath>

namespace ds::test {

double exact(unary f, double x) {
    switch (f) {
    case unary::silu: return x / (1.0 + std::exp(-x));
    }
    return NAN;
}

op_case concat_case(int64_t n, std::vector<int64_t> widths, fill f) {
    numbers r(23);
    std::vector<array> src(most_projections);
    for (size_t i = 0; i < widths.size(); ++i) src[i] = make_array(r, format::f32, {n, widths[i]}, f, true);
    op_case c = start(op::concat, src, f);
    c.exact = [=](auto &wanted, auto &tolerance) {
        for (int64_t i = 0; i < n; ++i)
            for (size_t p = 0; p < widths.size(); ++p)
                for (int64_t j = 0; j < widths[p]; ++j) {
                    wanted.push_back(value(src[p], i * widths[p] + j));
                    tolerance.push_back(0.0);
                }
    };
    return c;
}

// [n, 2, used]: indices, none of them twice in a row, then weights. Some matrices get no row.
array make_route(numbers &r, int64_t n, int64_t matrices, int64_t used) {
    array route = make_array(r, format::f32, {n, 2, used}, fill::plain, true);
    for (int64_t i = 0; i < n; ++i)
        for (int64_t k = 0, e = r.below(static_cast<int>(matrices)); k < used; ++k, e = (e + 1) % matrices) {
            const auto index = static_cast<float>(e);
            std::memcpy(&route.bytes[static_cast<size_t>(2 * i * used + k) * 4], &index, 4);
        }
    return route;
}

op_case routed_matmul_case(format w, int64_t n, int64_t matrices, int64_t used, bool by_rank, int64_t m,
                           int64_t k, fill f) {
    numbers r(24);
    op_case c = start(op::routed_matmul,
                      {by_rank ? make_array(r, format::f32, {n, used, k}, f, true)
                               : make_array(r, format::f32, {n, k}, f, true),
                       make_array(r, w, {matrices, m, k}, f), make_route(r, n, matrices, used)},
                      f);
    c.exact = [=, s = c.src](auto &wanted, auto &tolerance) {
        for (int64_t i = 0; i < n; ++i)
            for (int64_t rank = 0; rank < used; ++rank) {
                const auto e = static_cast<int64_t>(value(s[2], 2 * i * used + rank));
                const std::vector<bounded> x = row_of(s[0], by_rank ? i * used + rank : i, k);
                for (int64_t j = 0; j < m; ++j) {
                    const bounded y = product(x, s[1], e * m + j, is_quantized(w));
                    wanted.push_back(y.y);
                    tolerance.push_back(y.off);
                }
            }
    };
    return c;
}

op_case routed_add_case(int64_t n, int64_t used, int64_t d, bool acc, fill f) {
    numbers r(25);
    op_case c = start(op::routed_add,
                      {make_array(r, format::f32, {n, used, d}, f, true), make_route(r, n, 5, used), {}}, f);
    if (acc) c.src[2] = make_array(r, format::f32, {n, d}, f, true);
    c.exact = [=, s = c.src](auto &wanted, auto &tolerance) {
        for (int64_t i = 0; i < n; ++i)
            for (int64_t j = 0; j < d; ++j) {
                double sum = acc ? value(s[2], i * d + j) : 0.0, size = std::fabs(sum);
                for (int64_t k = 0; k < used; ++k) {
                    const double part =
                        value(s[1], (2 * i + 1) * used + k) * value(s[0], (i * used + k) * d + j);
                    sum += part;
                    size += std::fabs(part);
                }
                wanted.push_back(sum);
                tolerance.push_back(size * static_cast<double>(used) * 0x1p-24 + 0x1p-149);
            }
    };
    return c;
}

static std::vector<double> exact_softmax(const array &a, int64_t row, int64_t n) {
    std::vector<double> y;
    double sum = 0.0;
    for (int64_t i = 0; i < n; ++i) y.push_back(std::exp(value(a, row * n + i))), sum += y.back();
    for (double &x : y) x /= sum;
    return y;
}

// Ranks by sorting.
op_case head_router_case(int64_t n, int64_t shared, int64_t routed, int32_t chosen, fill f) {
    numbers r(26);
    op_case c = start(
        op::head_router,
        {make_array(r, format::f32, {n, routed}, f, true), {}, make_array(r, format::f32, {n, 2}, f, true)},
        f);
    if (shared) c.src[1] = make_array(r, format::f32, {n, shared}, f, true);
    c.params = raw(head_router_params{chosen});
    c.exact = [=, s = c.src](auto &wanted, auto &tolerance) {
        for (int64_t i = 0; i < n; ++i) {
            const std::vector<double> p = exact_softmax(s[0], i, routed), mix = exact_softmax(s[2], i, 2);
            std::vector<double> weights;
            if (shared)
                for (const double x : exact_softmax(s[1], i, shared))
                    weights.push_back(2.0 * mix[0] * static_cast<double>(shared) * x);
            std::vector<std::pair<double, int64_t>> order;
            for (int64_t e = 0; e < routed; ++e) order.emplace_back(-p[static_cast<size_t>(e)], e);
            std::sort(order.begin(), order.end());
            order.resize(static_cast<size_t>(chosen));
            double sum = 0.0;
            for (const auto &[minus_p, e] : order) sum -= minus_p;
            for (const auto &[minus_p, e] : order) weights.push_back(2.0 * mix[1] * chosen * -minus_p / sum);
            for (int64_t h = 0; h < shared + chosen; ++h) {
                const auto at = static_cast<size_t>(h - shared);
                wanted.push_back(static_cast<double>(h < shared ? h : shared + order[at].second));
                tolerance.push_back(0.0);
            }
            for (const double x : weights) wanted.push_back(x), tolerance.push_back(x * 2e-6);
        }
    };
    return c;
}

// What routed_spread makes, in float64, with a bound of a product's rounding: [heads * d] of row i.
static std::vector<bounded> spread_row(const array &x, const array &route, int64_t i, int64_t heads) {
    const int64_t used = x.ne[1], d = x.ne[2];
    std::vector<bounded> y(static_cast<size_t>(heads * d), {0.0, 0.0});
    for (int64_t k = 0; k < used; ++k) {
        const auto h = static_cast<int64_t>(value(route, 2 * i * used + k));
        for (int64_t j = 0; j < d; ++j) {
            const double v = value(route, (2 * i + 1) * used + k) * value(x, (i * used + k) * d + j);
            y[static_cast<size_t>(h * d + j)] = {v, std::fabs(v) * 0x1p-24 + 0x1p-149};
        }
    }
    return y;
}

op_case routed_spread_case(int64_t n, int64_t heads, int64_t used, int64_t d, fill f) {
    numbers r(27);
    op_case c = start(op::routed_spread,
                      {make_array(r, format::f32, {n, used, d}, f, true), make_route(r, n, heads, used)}, f);
    c.params = raw(routed_spread_params{static_cast<int32_t>(heads)});
    c.exact = [=, s = c.src](auto &wanted, auto &tolerance) {
        for (int64_t i = 0; i < n; ++i)
            for (const bounded &y : spread_row(s[0], s[1], i, heads))
                wanted.push_back(y.y), tolerance.push_back(y.off);
    };
    return c;
}

op_case spread_matmul_case(format w, int64_t n, int64_t heads, int64_t used, int64_t d, int64_t m,
                           bool residual, fill f) {
    numbers r(28);
    op_case c = start(op::spread_matmul,
                      {make_array(r, format::f32, {n, used, d}, f, true),
                       make_route(r, n, heads, used),
                       make_array(r, w, {m, heads * d}),
                       {}},
                      f);
    if (residual) c.src[3] = make_array(r, format::f32, {n, m}, f, true);
    c.exact = [=, s = c.src](auto &wanted, auto &tolerance) {
        for (int64_t i = 0; i < n; ++i) {
            const std::vector<bounded> x = spread_row(s[0], s[1], i, heads);
            for (int64_t j = 0; j < m; ++j) {
                const bounded y = product(x, s[2], j, is_quantized(w));
                const double before = residual ? value(s[3], i * m + j) : 0.0;
                wanted.push_back(before + y.y);
                tolerance.push_back(y.off + (std::fabs(y.y) + std::fabs(before)) * 0x1p-23);
            }
        }
    };
    return c;
}

}  // namespace ds::test
