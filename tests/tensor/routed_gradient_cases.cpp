// Cases of the gradients of routed products and of routers. Those of routers are compared with differences,
// in float64, of the weights that the choice gives.
#include "case_parts.h"

#include <algorithm>
#include <cmath>

namespace ds::test {

op_case routed_matmul_back_case(format w, int64_t n, int64_t matrices, int64_t used, int64_t m, int64_t k,
                                bool add_ranks, fill f) {
    numbers r(51);
    op_case c = start(op::routed_matmul_back,
                      {make_array(r, format::f32, {n, used, m}, f, true),
                       make_array(r, w, {matrices, m, k}, f), make_route(r, n, matrices, used)},
                      f);
    c.params = raw(routed_back_params{add_ranks});
    c.exact = [=, s = c.src](auto &wanted, auto &tolerance) {
        for (int64_t i = 0; i < n; ++i) {
            std::vector<double> sums(static_cast<size_t>(k)), sizes(sums.size());
            for (int64_t rank = 0; rank < used; ++rank) {
                const auto e = static_cast<int64_t>(value(s[2], 2 * i * used + rank));
                if (!add_ranks) std::fill(sums.begin(), sums.end(), 0.0), sizes = sums;
                for (int64_t j = 0; j < k; ++j)
                    for (int64_t t = 0; t < m; ++t) {
                        const double x = rounded_to(w, value(s[0], (i * used + rank) * m + t)) *
                                         rounded_to(w, value(s[1], (e * m + t) * k + j));
                        sums[static_cast<size_t>(j)] += x;
                        sizes[static_cast<size_t>(j)] += std::fabs(x);
                    }
                if (add_ranks && rank + 1 < used) continue;
                for (size_t j = 0; j < sums.size(); ++j) {
                    wanted.push_back(sums[j]);
                    tolerance.push_back(sizes[j] * (static_cast<double>(m + used) + 8) * 0x1p-24);
                }
            }
        }
    };
    return c;
}

op_case routed_matmul_back_w_case(int64_t n, int64_t matrices, int64_t used, int64_t m, int64_t k, bool own,
                                  fill f, format type) {
    numbers r(52);
    const std::vector<int64_t> x = own ? std::vector<int64_t>{n, used, k} : std::vector<int64_t>{n, k};
    op_case c =
        start(op::routed_matmul_back_w,
              {make_array(r, format::f32, {matrices, m, k}, f), make_array(r, format::f32, {n, used, m}, f),
               make_array(r, type, x, f), make_route(r, n, matrices, used)},
              f);
    c.rows = false;
    c.exact = [=, s = c.src](auto &wanted, auto &tolerance) {
        std::vector<double> size;
        for (int64_t i = 0; i < matrices * m * k; ++i) {
            wanted.push_back(value(s[0], i));
            size.push_back(std::fabs(wanted.back()));
        }
        for (int64_t i = 0; i < n; ++i)
            for (int64_t rank = 0; rank < used; ++rank) {
                const auto e = static_cast<int64_t>(value(s[3], 2 * i * used + rank));
                for (int64_t t = 0; t < m; ++t)
                    for (int64_t j = 0; j < k; ++j) {
                        const double y = rounded_to(type, value(s[1], (i * used + rank) * m + t)) *
                                         rounded_to(type, value(s[2], (own ? i * used + rank : i) * k + j));
                        wanted[static_cast<size_t>((e * m + t) * k + j)] += y;
                        size[static_cast<size_t>((e * m + t) * k + j)] += std::fabs(y);
                    }
            }
        for (const double x_size : size) tolerance.push_back(x_size * (static_cast<double>(n) + 8) * 0x1p-24);
    };
    return c;
}

op_case routed_scale_case(int64_t n, int64_t used, int32_t parts, int64_t d, fill f) {
    numbers r(53);
    op_case c = start(
        op::routed_scale,
        {make_array(r, format::f32, {n, parts * d}, f, true), make_route(r, n, parts == 1 ? 9 : parts, used)},
        f);
    c.params = raw(routed_parts_params{parts});
    c.exact = [=, s = c.src](auto &wanted, auto &tolerance) {
        for (int64_t i = 0; i < n; ++i)
            for (int64_t k = 0; k < used; ++k) {
                const auto e = static_cast<int64_t>(value(s[1], 2 * i * used + k));
                for (int64_t j = 0; j < d; ++j) {
                    wanted.push_back(value(s[1], (2 * i + 1) * used + k) *
                                     value(s[0], i * parts * d + (parts == 1 ? 0 : e * d) + j));
                    tolerance.push_back(std::fabs(wanted.back()) * 0x1p-24 + 0x1p-149);
                }
            }
    };
    return c;
}

op_case routed_dot_case(int64_t n, int64_t used, int32_t parts, int64_t d, fill f) {
    numbers r(54);
    op_case c = start(op::routed_dot,
                      {make_array(r, format::f32, {n, parts * d}, f, true),
                       make_array(r, format::f32, {n, used, d}, f, true),
                       make_route(r, n, parts == 1 ? 9 : parts, used)},
                      f);
    c.exact = [=, s = c.src](auto &wanted, auto &tolerance) {
        for (int64_t i = 0; i < n; ++i) {
            wanted.insert(wanted.end(), static_cast<size_t>(used), 0.0);
            tolerance.insert(tolerance.end(), static_cast<size_t>(used), 0.0);
            for (int64_t k = 0; k < used; ++k) {
                const auto e = static_cast<int64_t>(value(s[2], 2 * i * used + k));
                double sum = 0, size = 0;
                for (int64_t j = 0; j < d; ++j) {
                    const double y = value(s[1], (i * used + k) * d + j) *
                                     value(s[0], i * parts * d + (parts == 1 ? 0 : e * d) + j);
                    sum += y, size += std::fabs(y);
                }
                wanted.push_back(sum);
                tolerance.push_back(size * (static_cast<double>(d) / 16 + 9) * 0x1p-24 + 1e-40);
            }
        }
    };
    return c;
}

// The gradient of f at x by differences of the fourth order.
static std::vector<double> differences(std::vector<double> x,
                                       const std::function<double(const std::vector<double> &)> &f) {
    std::vector<double> y;
    for (double &at : x) {
        const double here = at, h = 1e-3;
        const auto moved = [&](double by) {
            at = here + by;
            const double v = f(x);
            at = here;
            return v;
        };
        y.push_back((8 * (moved(h) - moved(-h)) - (moved(2 * h) - moved(-2 * h))) / (12 * h));
    }
    return y;
}
static std::vector<double> softmax(const std::vector<double> &x) {
    std::vector<double> y;
    double sum = 0;
    for (const double v : x) sum += std::exp(v);
    for (const double v : x) y.push_back(std::exp(v) / sum);
    return y;
}
static std::vector<double> row(const array &a, int64_t i, int64_t n) {
    std::vector<double> y;
    for (int64_t j = 0; j < n; ++j) y.push_back(value(a, i * n + j));
    return y;
}

op_case router_back_case(int64_t n, int64_t experts, router_params p) {
    numbers r(55);
    op_case c = start(op::router_back, {make_array(r, format::f32, {n, 2, p.used}, fill::plain, true),
                                        make_array(r, format::f32, {n, experts}, fill::plain, true),
                                        make_route(r, n, experts, p.used),
                                        {}});
    c.params = raw(p);
    c.exact = [=, s = c.src](auto &wanted, auto &tolerance) {
        for (int64_t i = 0; i < n; ++i) {
            const auto loss = [&](const std::vector<double> &logits) {
                std::vector<double> score = softmax(logits);
                for (size_t e = 0; p.sigmoid && e < score.size(); ++e)
                    score[e] = 1 / (1 + std::exp(-logits[e]));
                double sum = 0, y = 0;
                const auto chosen = [&](int64_t k) {
                    return score[static_cast<size_t>(value(s[2], 2 * i * p.used + k))];
                };
                for (int64_t k = 0; k < p.used; ++k) sum += chosen(k);
                for (int64_t k = 0; k < p.used; ++k)
                    y += value(s[0], (2 * i + 1) * p.used + k) * chosen(k) / (p.normalise ? sum : 1.0) *
                         static_cast<double>(p.scale);
                return y;
            };
            for (const double x : differences(row(s[1], i, experts), loss)) {
                wanted.push_back(x);
                tolerance.push_back(3e-6 * static_cast<double>(p.scale));
            }
        }
    };
    return c;
}

op_case head_router_back_case(int64_t n, int64_t shared, int64_t routed, int32_t chosen) {
    numbers r(56);
    array route = make_route(r, n, routed, shared + chosen);
    for (int64_t i = 0; i < n; ++i) {  // shared heads first, then routed ones, none twice
        const int64_t first = r.below(static_cast<int>(routed));
        for (int64_t k = 0; k < shared + chosen; ++k) {
            const auto h = static_cast<float>(k < shared ? k : shared + (first + k) % routed);
            std::memcpy(&route.bytes[static_cast<size_t>(2 * i * (shared + chosen) + k) * 4], &h, 4);
        }
    }
    op_case c =
        start(op::head_router_back, {make_array(r, format::f32, {n, 2, shared + chosen}, fill::plain, true),
                                     route,
                                     make_array(r, format::f32, {n, routed}, fill::plain, true),
                                     {},
                                     make_array(r, format::f32, {n, 2}, fill::plain, true)});
    if (shared) c.src[3] = make_array(r, format::f32, {n, shared}, fill::plain, true);
    c.params = raw(head_router_params{chosen});
    c.exact = [=, s = c.src](auto &wanted, auto &tolerance) {
        const int64_t active = shared + chosen;
        for (int64_t i = 0; i < n; ++i) {
            std::vector<double> x = row(s[2], i, routed);
            for (const double v : shared ? row(s[3], i, shared) : std::vector<double>()) x.push_back(v);
            for (const double v : row(s[4], i, 2)) x.push_back(v);
            const auto loss = [&](const std::vector<double> &all) {
                const auto middle = all.begin() + routed;
                const std::vector<double> p = softmax({all.begin(), middle}),
                                          share = softmax({middle, middle + shared}),
                                          mix = softmax({middle + shared, all.end()});
                const auto head = [&](int64_t k) {
                    return p[static_cast<size_t>(value(s[1], 2 * i * active + k)) -
                             static_cast<size_t>(shared)];
                };
                double sum = 0, y = 0;
                for (int64_t k = shared; k < active; ++k) sum += head(k);
                for (int64_t k = 0; k < active; ++k)
                    y +=
                        value(s[0], (2 * i + 1) * active + k) *
                        (k < shared ? 2 * mix[0] * static_cast<double>(shared) * share[static_cast<size_t>(k)]
                                    : 2 * mix[1] * chosen * head(k) / sum);
                return y;
            };
            for (const double v : differences(x, loss)) {
                wanted.push_back(v);
                tolerance.push_back(2e-5);
            }
        }
    };
    return c;
}

// The loss of `logits` with the choices of `route`.
static double balance_of(const std::vector<double> &logits, const array &route, int64_t n, int64_t heads,
                         int64_t shared, int64_t active) {
    double sum = 0;
    for (int64_t e = 0; e < heads; ++e) {
        double f = 0, mean = 0;
        for (int64_t i = 0; i < n; ++i) {
            for (int64_t k = shared; k < active; ++k)
                f += value(route, 2 * i * active + k) == static_cast<double>(shared + e);
            const auto at = logits.begin() + i * heads;
            mean += softmax({at, at + heads})[static_cast<size_t>(e)] / static_cast<double>(n);
        }
        sum += f / static_cast<double>(n * (active - shared)) * mean;
    }
    return sum * static_cast<double>(heads);
}

static array head_routes(numbers &r, int64_t n, int64_t shared, int64_t routed, int64_t chosen) {
    array route = make_route(r, n, routed, shared + chosen);
    for (int64_t i = 0; i < n; ++i)
        for (int64_t k = 0; k < shared + chosen; ++k) {
            const auto h = static_cast<float>(k < shared ? k : shared + (i * i + k) % routed);
            std::memcpy(&route.bytes[static_cast<size_t>(2 * i * (shared + chosen) + k) * 4], &h, 4);
        }
    return route;
}

op_case balance_case(int64_t n, int32_t shared, int64_t routed, int32_t chosen) {
    numbers r(57);
    op_case c = start(op::balance,
                      {make_array(r, format::f32, {n, routed}), head_routes(r, n, shared, routed, chosen)});
    c.params = raw(balance_params{shared});
    c.rows = false;
    c.exact = [=, s = c.src](auto &wanted, auto &tolerance) {
        wanted.push_back(balance_of(row(s[0], 0, n * routed), s[1], n, routed, shared, shared + chosen));
        tolerance.push_back(2e-6);
    };
    return c;
}

op_case balance_back_case(int64_t n, int32_t shared, int64_t routed, int32_t chosen) {
    numbers r(58);
    op_case c =
        start(op::balance_back, {make_array(r, format::f32, {1}), make_array(r, format::f32, {n, routed}),
                                 head_routes(r, n, shared, routed, chosen)});
    c.params = raw(balance_params{shared});
    c.rows = false;
    c.exact = [=, s = c.src](auto &wanted, auto &tolerance) {
        const auto loss = [&](const std::vector<double> &x) {
            return value(s[0], 0) * balance_of(x, s[2], n, routed, shared, shared + chosen);
        };
        for (const double x : differences(row(s[1], 0, n * routed), loss)) {
            wanted.push_back(x);
            tolerance.push_back(1e-6);
        }
    };
    return c;
}

}  // namespace ds::test
