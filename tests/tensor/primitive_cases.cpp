// Cases of the operations that fused ones expand into.
#include "case_parts.h"

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

// [n, 2, used]: indices of experts, then weights.
static array make_route(numbers &r, int64_t n, int64_t experts, int64_t used) {
    array route = make_array(r, format::f32, {n, 2, used}, fill::plain, true);
    for (int64_t i = 0; i < n; ++i)
        for (int64_t k = 0; k < used; ++k) {
            const auto e = static_cast<float>(r.below(static_cast<int>(experts)));
            std::memcpy(&route.bytes[static_cast<size_t>(2 * i * used + k) * 4], &e, 4);
        }
    return route;
}

op_case routed_matmul_case(format w, int64_t n, int64_t experts, int64_t used, int32_t rank, int64_t m,
                           int64_t k, fill f) {
    numbers r(24);
    op_case c = start(op::routed_matmul,
                      {make_array(r, format::f32, {n, k}, f, true), make_array(r, w, {experts, m, k}, f),
                       make_route(r, n, experts, used)},
                      f);
    c.params = raw(routed_params{rank});
    c.exact = [=, s = c.src](auto &wanted, auto &tolerance) {
        for (int64_t i = 0; i < n; ++i) {
            const auto e = static_cast<int64_t>(value(s[2], 2 * i * used + rank));
            for (int64_t j = 0; j < m; ++j) {
                const bounded y = product(row_of(s[0], i, k), s[1], e * m + j, is_quantized(w));
                wanted.push_back(y.y);
                tolerance.push_back(y.off);
            }
        }
    };
    return c;
}

op_case routed_add_case(int64_t n, int64_t used, int32_t rank, int64_t d, bool acc, fill f) {
    numbers r(25);
    op_case c = start(op::routed_add,
                      {make_array(r, format::f32, {n, d}, f, true), make_route(r, n, 5, used), {}}, f);
    if (acc) c.src[2] = make_array(r, format::f32, {n, d}, f, true);
    c.params = raw(routed_params{rank});
    c.exact = [=, s = c.src](auto &wanted, auto &tolerance) {
        for (int64_t i = 0; i < n; ++i)
            for (int64_t j = 0; j < d; ++j) {
                const double weight = value(s[1], (2 * i + 1) * used + rank);
                wanted.push_back(weight * value(s[0], i * d + j) + (acc ? value(s[2], i * d + j) : 0.0));
                tolerance.push_back(std::fabs(wanted.back()) * 0x1p-24 + 0x1p-149);
            }
    };
    return c;
}

}  // namespace ds::test
