// Cases of the operations that gradients are made of. Their float64 computations are the derivatives written
// out; those of elementwise functions are differences.
#include "case_parts.h"

#include "../../tensor/op.h"

#include <algorithm>
#include <cmath>

namespace ds::test {

// Element [i,h,e] of x[n,(h,)d].
static double element(const array &x, int64_t i, int64_t h, int64_t e) {
    const int64_t d = x.ne.back(), heads = x.ne.size() == 3 ? x.ne[1] : 1;
    return value(x, (i * heads + h) * d + e);
}
// Element [h,r,c] of w[(h,)r,c].
static double matrix_element(const array &w, int64_t h, int64_t r, int64_t c) {
    const int64_t cols = w.ne.back(), rows = w.ne[w.ne.size() - 2];
    return value(w, (h * rows + r) * cols + c);
}
static std::vector<int64_t> shape(int64_t n, int64_t heads, int64_t d) {
    return heads ? std::vector<int64_t>{n, heads, d} : std::vector<int64_t>{n, d};
}

op_case gated_case(std::vector<int64_t> ne, unary f, fill how) {
    numbers r(21);
    op_case c =
        start(op::gated,
              {make_array(r, format::f32, ne, how, true), make_array(r, format::f32, ne, how, true)}, how);
    c.params = raw(unary_params{f});
    c.exact = [f, a = c.src[0], b = c.src[1]](auto &wanted, auto &tolerance) {
        for (int64_t i = 0; i < static_cast<int64_t>(a.bytes.size() / 4); ++i) {
            wanted.push_back(exact(f, value(a, i)) * value(b, i));
            tolerance.push_back(std::fabs(wanted.back()) * 5e-7 + 1e-36);
        }
    };
    return c;
}

op_case gated_back_case(std::vector<int64_t> ne, unary f, fill how) {
    numbers r(31);
    std::vector<array> src;
    for (int i = 0; i < 3; ++i) src.push_back(make_array(r, format::f32, ne, how, true));
    op_case c = start(op::gated_back, src, how);
    c.params = raw(unary_params{f});
    c.exact = [=](auto &wanted, auto &tolerance) {
        const int64_t m = ne.back(), rows = static_cast<int64_t>(src[0].bytes.size()) / 4 / m;
        const auto put = [&](double x, double size) {
            wanted.push_back(x);
            tolerance.push_back(size * 2e-6 + 1e-36);
        };
        for (int64_t i = 0; i < rows; ++i) {
            for (int64_t k = 0; k < m; ++k) {
                const double x = value(src[1], i * m + k), step = 1e-5,
                             by = (exact(f, x + step) - exact(f, x - step)) / (2 * step),
                             other = value(src[0], i * m + k) * value(src[2], i * m + k);
                put(other * by, std::fabs(other));
            }
            for (int64_t k = 0; k < m; ++k)
                put(value(src[0], i * m + k) * exact(f, value(src[1], i * m + k)),
                    std::fabs(value(src[0], i * m + k)));
        }
    };
    return c;
}

double rounded_to(format type, double x) {
    if ((type != format::bf16 && type != format::f16) || !std::isfinite(x)) return x;
    if (type == format::bf16 && std::fabs(x) < 0x1p-56) return 0;
    int exponent;
    std::frexp(x, &exponent);
    const int last = type == format::bf16 ? exponent - 8 : std::max(exponent - 11, -24);
    const double y = std::ldexp(std::nearbyint(std::ldexp(x, -last)), last);
    return type == format::f16 && std::fabs(y) > 65504 ? std::copysign(HUGE_VAL, y) : y;
}

op_case narrow_case(format to, int64_t n, int64_t d, fill f) {
    numbers r(43);
    op_case c = start(op::narrow, {make_array(r, format::f32, {n, d}, f, to != format::i8), {}}, f);
    c.params = raw(narrow_params{to});
    if (to == format::i8) {
        c.src[1] = make_array(r, format::f32, {n});
        c.changed = 1;
        c.rows = false;
    }
    c.exact = [=, s = c.src](auto &wanted, auto &tolerance) {
        std::vector<double> scales;
        for (int64_t i = 0; i < n; ++i) {
            double most = 0;
            for (int64_t j = 0; j < d; ++j) most = std::max(most, std::fabs(value(s[0], i * d + j)));
            scales.push_back(most < 1e-30 ? 0 : most / 127);
            for (int64_t j = 0; j < d; ++j) {
                const double x = value(s[0], i * d + j);
                wanted.push_back(to != format::i8 ? x : scales.back() > 0 ? x / scales.back() : 0);
                tolerance.push_back(to == format::i8     ? 0.5001
                                    : to == format::bf16 ? std::fabs(x) * 0x1p-8 + 0x1p-134
                                                         : std::fabs(x) * 0x1p-11 + 0x1p-25);
            }
        }
        for (const double x : scales)
            if (to == format::i8) wanted.push_back(x), tolerance.push_back(x * 1e-6);
    };
    return c;
}

op_case widen_case(format of, int64_t n, int64_t d, fill f) {
    numbers r(44);
    op_case c = start(op::widen, {make_array(r, of, {n, d}, f, true)}, f);
    c.exact = [=, s = c.src](auto &wanted, auto &tolerance) {
        for (int64_t i = 0; i < n * d; ++i) wanted.push_back(value(s[0], i)), tolerance.push_back(0);
    };
    return c;
}

op_case matmul_back_case(format type, int64_t n, int64_t heads, int64_t m, int64_t k, fill f) {
    numbers r(32);
    std::vector<int64_t> w = {m, k};
    if (heads) w.insert(w.begin(), heads);
    op_case c =
        start(op::matmul_back,
              {make_array(r, format::f32, shape(n, heads, m), f, true), make_array(r, type, w, f)}, f);
    c.exact = [=, s = c.src](auto &wanted, auto &tolerance) {
        for (int64_t i = 0; i < n; ++i)
            for (int64_t h = 0; h < std::max<int64_t>(1, heads); ++h)
                for (int64_t j = 0; j < k; ++j) {
                    double sum = 0, size = 0;
                    for (int64_t t = 0; t < m; ++t) {
                        const double x = rounded_to(type, element(s[0], i, h, t)) *
                                         rounded_to(type, matrix_element(s[1], h, t, j));
                        sum += x, size += std::fabs(x);
                    }
                    wanted.push_back(sum);
                    tolerance.push_back(size * (static_cast<double>(m) + 8) * 0x1p-24 +
                                        static_cast<double>(m) * 0x1p-149);
                }
    };
    return c;
}

op_case matmul_back_w_case(int64_t n, int64_t heads, int64_t m, int64_t k, fill f, format type) {
    numbers r(33);
    std::vector<int64_t> w = {m, k};
    if (heads) w.insert(w.begin(), heads);
    op_case c = start(op::matmul_back_w,
                      {make_array(r, format::f32, w, f), make_array(r, format::f32, shape(n, heads, m), f),
                       make_array(r, type, shape(n, heads, k), f)},
                      f);
    c.rows = false;
    c.exact = [=, s = c.src](auto &wanted, auto &tolerance) {
        for (int64_t h = 0; h < std::max<int64_t>(1, heads); ++h)
            for (int64_t i = 0; i < m; ++i)
                for (int64_t j = 0; j < k; ++j) {
                    double sum = matrix_element(s[0], h, i, j), size = std::fabs(sum);
                    for (int64_t t = 0; t < n; ++t) {
                        const double x = rounded_to(type, element(s[1], t, h, i)) *
                                         rounded_to(type, element(s[2], t, h, j));
                        sum += x, size += std::fabs(x);
                    }
                    wanted.push_back(sum);
                    tolerance.push_back(size * (static_cast<double>(n) + 8) * 0x1p-24 +
                                        static_cast<double>(n) * 0x1p-149);
                }
    };
    return c;
}

op_case bias_back_case(int64_t n, int64_t m, fill f) {
    numbers r(34);
    op_case c =
        start(op::bias_back, {make_array(r, format::f32, {m}, f), make_array(r, format::f32, {n, m}, f)}, f);
    c.rows = false;
    c.exact = [=, s = c.src](auto &wanted, auto &tolerance) {
        for (int64_t j = 0; j < m; ++j) {
            double sum = value(s[0], j), size = std::fabs(sum);
            for (int64_t i = 0; i < n; ++i) {
                sum += value(s[1], i * m + j);
                size += std::fabs(value(s[1], i * m + j));
            }
            wanted.push_back(sum);
            tolerance.push_back(size * static_cast<double>(n + 1) * 0x1p-24);
        }
    };
    return c;
}

op_case get_rows_back_case(int64_t n, int64_t rows, int64_t d, bool sum) {
    numbers r(35);
    std::vector<int32_t> ids;
    for (int64_t i = 0; i < n; ++i) ids.push_back(r.below(static_cast<int>(rows)));
    op_case c = start(op::get_rows_back, {make_array(r, format::f32, {n, d}), make_ints(ids), {}});
    if (sum) c.src[2] = make_array(r, format::f32, {rows, d});
    c.params = raw(get_rows_back_params{rows});
    c.rows = false;
    c.exact = [=, s = c.src](auto &wanted, auto &tolerance) {
        for (int64_t v = 0; v < rows; ++v)
            for (int64_t j = 0; j < d; ++j) {
                double y = sum ? value(s[2], v * d + j) : 0.0, size = std::fabs(y);
                for (int64_t i = 0; i < n; ++i)
                    if (ids[static_cast<size_t>(i)] == v)
                        y += value(s[0], i * d + j), size += std::fabs(value(s[0], i * d + j));
                wanted.push_back(y);
                tolerance.push_back(size * static_cast<double>(n) * 0x1p-24);
            }
    };
    return c;
}

static constexpr float norm_eps = 1e-5f;

static double norm_factor(const array &x, int64_t row) {
    const int64_t d = x.ne.back();
    double squares = 0;
    for (int64_t k = 0; k < d; ++k) squares += value(x, row * d + k) * value(x, row * d + k);
    return 1.0 / std::sqrt(squares / static_cast<double>(d) + static_cast<double>(norm_eps));
}

op_case rms_norm_back_case(std::vector<int64_t> ne, fill f) {
    numbers r(36);
    const int64_t d = ne.back();
    op_case c = start(op::rms_norm_back,
                      {make_array(r, format::f32, ne, f, true), make_array(r, format::f32, ne, f, true),
                       make_array(r, format::f32, {d}, f)},
                      f);
    c.params = raw(rms_norm_params{norm_eps});
    c.exact = [=, s = c.src](auto &wanted, auto &tolerance) {
        const int64_t rows = static_cast<int64_t>(s[0].bytes.size()) / 4 / d;
        for (int64_t i = 0; i < rows; ++i) {
            const double factor = norm_factor(s[1], i);
            double sum = 0, size = 0;
            for (int64_t k = 0; k < d; ++k) {
                const double t = value(s[0], i * d + k) * value(s[2], k) * value(s[1], i * d + k);
                sum += t, size += std::fabs(t);
            }
            const double cubed = factor * factor * factor / static_cast<double>(d);
            for (int64_t k = 0; k < d; ++k) {
                const double t = value(s[0], i * d + k) * value(s[2], k) * factor, x = value(s[1], i * d + k);
                wanted.push_back(t - x * sum * cubed);
                tolerance.push_back((std::fabs(t) + std::fabs(x) * size * cubed) * 2e-6 + 1e-37);
            }
        }
    };
    return c;
}

op_case rms_norm_back_w_case(std::vector<int64_t> ne, fill f) {
    numbers r(37);
    const int64_t d = ne.back();
    op_case c = start(op::rms_norm_back_w,
                      {make_array(r, format::f32, {d}, f), make_array(r, format::f32, ne, f),
                       make_array(r, format::f32, ne, f)},
                      f);
    c.params = raw(rms_norm_params{norm_eps});
    c.rows = false;
    c.exact = [=, s = c.src](auto &wanted, auto &tolerance) {
        const int64_t rows = static_cast<int64_t>(s[1].bytes.size()) / 4 / d;
        for (int64_t k = 0; k < d; ++k) {
            double sum = value(s[0], k), size = std::fabs(sum);
            for (int64_t i = 0; i < rows; ++i) {
                const double t = value(s[1], i * d + k) * value(s[2], i * d + k) * norm_factor(s[2], i);
                sum += t, size += std::fabs(t);
            }
            wanted.push_back(sum);
            tolerance.push_back(size * (static_cast<double>(rows) * 0x1p-24 + 2e-6) + 1e-37);
        }
    };
    return c;
}

op_case cross_entropy_case(format w, int64_t n, int64_t v, int64_t d, bool entropy, fill f) {
    numbers r(38);
    std::vector<int32_t> targets;
    for (int64_t i = 0; i < n; ++i) targets.push_back(r.below(static_cast<int>(v)));
    op_case c = start(
        op::cross_entropy,
        {make_array(r, format::f32, {n, d}, f, true), make_array(r, w, {v, d}, f), make_ints(targets, true)},
        f);
    c.params = raw(cross_entropy_params{entropy});
    c.exact = [=, s = c.src](auto &wanted, auto &tolerance) {
        for (int64_t i = 0; i < n; ++i) {
            std::vector<double> l;
            double off = 0;
            for (int64_t j = 0; j < v; ++j) {
                const bounded y = product(row_of(s[0], i, d), s[1], j, is_quantized(w));
                l.push_back(y.y);
                off = std::max(off, y.off);
            }
            const double max = *std::max_element(l.begin(), l.end());
            double sum = 0, h = 0;
            for (const double x : l) sum += std::exp(x - max);
            const double log_sum = max + std::log(sum);
            for (const double x : l) h -= std::exp(x - log_sum) * (x - log_sum);
            const double y[] = {l[static_cast<size_t>(targets[static_cast<size_t>(i)])] - log_sum,
                                entropy ? h : 0.0, log_sum};
            for (const double x : y) {
                wanted.push_back(x);
                tolerance.push_back(4 * off + 1e-6 * (1 + std::fabs(x)));
            }
        }
    };
    return c;
}

op_case cross_entropy_back_case(format w, int64_t n, int64_t v, int64_t d, bool sum, fill f) {
    numbers r(39);
    op_case first = cross_entropy_case(w, n, v, d, true, f);
    std::vector<double> y, off;
    first.exact(y, off);
    array of = make_array(r, format::f32, {n, 3}, fill::plain, true);
    for (size_t i = 0; i < y.size(); ++i) {
        const auto x = static_cast<float>(y[i]);
        std::memcpy(&of.bytes[4 * i], &x, 4);
    }
    op_case c = start(op::cross_entropy_back,
                      {make_array(r, format::f32, {n, 3}, fill::plain, true),
                       of,
                       first.src[0],
                       first.src[1],
                       first.src[2],
                       {}},
                      f);
    if (sum) {
        c.src[5] = make_array(r, format::f32, {v, d});
        c.changed = 5;
        c.rows = false;
    }
    c.exact = [=, s = c.src](auto &wanted, auto &tolerance) {
        std::vector<double> dw, dw_off;
        for (int64_t j = 0; sum && j < v * d; ++j) {
            dw.push_back(value(s[5], j));
            dw_off.push_back(std::fabs(dw.back()) * 1e-6);
        }
        for (int64_t i = 0; i < n; ++i) {
            std::vector<double> dx(static_cast<size_t>(d)), dx_off(static_cast<size_t>(d));
            for (int64_t j = 0; j < v; ++j) {
                const bounded l = product(row_of(s[2], i, d), s[3], j, is_quantized(w));
                const double log_p = l.y - value(s[1], 3 * i + 2), p = std::exp(log_p),
                             by = value(s[0], 3 * i), by_entropy = value(s[0], 3 * i + 1);
                const double g = (value(s[4], i) == static_cast<double>(j) ? by : 0.0) - p * by -
                                 by_entropy * p * (log_p + value(s[1], 3 * i + 1));
                const double g_off = (std::fabs(by) + std::fabs(by_entropy) * (2 + std::fabs(log_p))) *
                                         (p * (l.off * 2 + 2e-6) + 1e-7) +
                                     // a slope near the middle of two values may be rounded to either
                                     std::fabs(g) * (w == format::bf16  ? 0x1p-7
                                                     : w == format::f16 ? 0x1p-10
                                                                        : 0);
                for (int64_t k = 0; k < d; ++k) {
                    const auto at = static_cast<size_t>(j * d + k);
                    const double a = rounded_to(w, value(s[3], j * d + k)),
                                 x = rounded_to(w, value(s[2], i * d + k));
                    dx[static_cast<size_t>(k)] += g * a;
                    dx_off[static_cast<size_t>(k)] += (g_off + std::fabs(g) * 4e-6) * std::fabs(a);
                    if (!sum) continue;
                    dw[at] += g * x;
                    dw_off[at] += (g_off + std::fabs(g) * 4e-6) * std::fabs(x);
                }
            }
            wanted.insert(wanted.end(), dx.begin(), dx.end());
            tolerance.insert(tolerance.end(), dx_off.begin(), dx_off.end());
        }
        wanted.insert(wanted.end(), dw.begin(), dw.end());
        tolerance.insert(tolerance.end(), dw_off.begin(), dw_off.end());
    };
    return c;
}

// ---- attention_back: pages written by kv_write's reference, so that keys and values are known

op_case attention_back_case(format pages, int32_t kv_heads, int32_t group, int32_t d, int32_t rope,
                            std::vector<int32_t> lengths, fill f) {
    numbers r(40);
    const int32_t heads = kv_heads * group, key = d + rope;
    kv_layout l{pages, kv_heads, d, 0, 0, rope};
    l.v_offset = static_cast<int64_t>(l.k_bytes());
    const auto page_bytes = static_cast<int64_t>(l.k_bytes() + l.v_bytes());
    std::vector<int32_t> sequence, position, slots, table;
    int64_t most = 0, used = 0;
    for (const int32_t n : lengths) {
        most = std::max<int64_t>(most, (n + page_positions - 1) / page_positions);
        used += (n + page_positions - 1) / page_positions;
    }
    int32_t page = static_cast<int32_t>(used);  // pages are taken from the last on
    table.assign(lengths.size() * static_cast<size_t>(most), 0);
    for (size_t s = 0; s < lengths.size(); ++s)
        for (int32_t t = 0; t < lengths[s]; ++t) {
            if (t % page_positions == 0)
                table[s * static_cast<size_t>(most) + static_cast<size_t>(t / page_positions)] = --page;
            sequence.push_back(static_cast<int32_t>(s));
            position.push_back(t);
            slots.push_back(static_cast<int32_t>(page * page_positions + t % page_positions));
        }
    const auto n = static_cast<int64_t>(sequence.size());
    const array dy = make_array(r, format::f32, {n, heads, d}, f),
                q = make_array(r, format::f32, {n, heads, d}, f),
                q_rope = rope ? make_array(r, format::f32, {n, heads, rope}, f) : array{};
    array k = make_array(r, format::f32, {n, kv_heads, d}, f),
          v = make_array(r, format::f32, {n, kv_heads, rope ? rope : d}, f);
    if (pages == format::f16)
        for (array *a : {&k, &v})
            for (size_t i = 0; i < a->bytes.size(); i += 4) {
                float x;
                std::memcpy(&x, &a->bytes[i], 4);
                x = f16_to_f32(f32_to_f16(x));
                std::memcpy(&a->bytes[i], &x, 4);
            }
    array memory = {
        format::i8, {used, page_bytes}, std::vector<char>(static_cast<size_t>(used * page_bytes)), false, {}};
    {
        graph g(8);
        array at = make_ints(slots);
        kv_write(g, g.input(format::f32, {n, kv_heads, d}, k.bytes.data(), ""),
                 g.input(format::f32, {n, kv_heads, rope ? rope : d}, v.bytes.data(), ""),
                 g.input(format::i8, {used, page_bytes}, memory.bytes.data(), ""),
                 g.input(format::i32, {n}, at.bytes.data(), ""), l);
        g.nodes()[0].out.data = memory.bytes.data();
        kv_write_forward(g.nodes()[0]);
    }
    array tables = make_ints(table);
    tables.ne = {static_cast<int64_t>(lengths.size()), most};
    op_case c = start(op::attention_back,
                      {dy, q, memory, tables, make_ints(sequence), make_ints(position), q_rope}, f);
    const float scale = 0.7f / std::sqrt(static_cast<float>(key));
    c.params = raw(attention_params{l, scale});
    c.rows = false;
    c.exact = [=](auto &wanted, auto &tolerance) {
        const int64_t kv_width = rope ? key : kv_heads * 2 * d, width = heads * key + kv_width;
        std::vector<double> y(static_cast<size_t>(n * width)), size(y.size());
        const auto add = [&](int64_t row, int64_t at, double x, double s) {
            y[static_cast<size_t>(row * width + at)] += x;
            size[static_cast<size_t>(row * width + at)] += s;
        };
        const auto key_of = [&](int64_t row, int64_t g, int64_t e) {
            return e < d ? element(k, row, g, e) : element(v, row, 0, e - d);
        };
        const auto value_of = [&](int64_t row, int64_t g, int64_t e) {
            return rope ? element(k, row, 0, e) : element(v, row, g, e);
        };
        for (int64_t i = 0; i < n; ++i)
            for (int64_t h = 0; h < heads; ++h) {
                const int64_t g = h / group, begin = i - position[static_cast<size_t>(i)];
                const auto query = [&](int64_t e) {
                    return e < d ? element(q, i, h, e) : element(q_rope, i, h, e - d);
                };
                std::vector<double> w, dp;
                double sum = 0, mean = 0, mean_size = 0;
                for (int64_t t = begin; t <= i; ++t) {
                    double s = 0, p = 0;
                    for (int64_t e = 0; e < key; ++e) s += query(e) * key_of(t, g, e);
                    for (int64_t e = 0; e < d; ++e) p += element(dy, i, h, e) * value_of(t, g, e);
                    w.push_back(std::exp(s * static_cast<double>(scale)));
                    dp.push_back(p);
                    sum += w.back();
                }
                for (size_t t = 0; t < w.size(); ++t) {
                    w[t] /= sum;
                    mean += w[t] * dp[t];
                    mean_size += w[t] * (std::fabs(dp[t]) + 1);
                }
                for (int64_t t = begin; t <= i; ++t) {
                    const double at = w[static_cast<size_t>(t - begin)],
                                 p = dp[static_cast<size_t>(t - begin)],
                                 ds = at * (p - mean) * static_cast<double>(scale),
                                 ds_size = at * (std::fabs(p) + 1 + mean_size) * static_cast<double>(scale);
                    for (int64_t e = 0; e < key; ++e) {
                        const int64_t to = e < d ? h * d + e : heads * d + h * rope + (e - d);
                        add(i, to, ds * key_of(t, g, e), ds_size * std::fabs(key_of(t, g, e)));
                        add(t, heads * key + g * key + e, ds * query(e), ds_size * std::fabs(query(e)));
                    }
                    for (int64_t e = 0; e < d; ++e) {
                        const double x = element(dy, i, h, e);
                        add(t, heads * key + (rope ? 0 : kv_heads * key + g * d) + e, at * x,
                            at * std::fabs(x));
                    }
                }
            }
        // pages of i8: half a step of 254 for each element, of keys that are transformed, and of values
        const double relative = pages == format::i8 ? 0.08 : 4e-6;
        for (size_t i = 0; i < y.size(); ++i) {
            wanted.push_back(y[i]);
            tolerance.push_back(size[i] * relative + 1e-7);
        }
    };
    return c;
}

// ---- The optimizer

op_case square_sum_case(int64_t n, fill f) {
    numbers r(41);
    op_case c = start(op::square_sum, {make_array(r, format::f32, {n}, f)}, f);
    c.rows = false;
    c.exact = [=, x = c.src[0]](auto &wanted, auto &tolerance) {
        for (int64_t first = 0; first < n; first += 4096) {
            double sum = 0;
            for (int64_t i = first; i < std::min(n, first + 4096); ++i) sum += value(x, i) * value(x, i);
            wanted.push_back(sum);
            tolerance.push_back(sum * 5e-6 + 1e-40);
        }
    };
    return c;
}

// A byte of a state as the number that it stands for, from its description: an exponent, and a fraction.
static double state_number(int code, int fraction_bits, bool sign) {
    const bool negative = sign && code >= 128;
    if (negative) code -= 128;
    if (code == 0) return 0;
    const double x = std::ldexp(1.0 + (code % (1 << fraction_bits)) / std::ldexp(1.0, fraction_bits),
                                (code >> fraction_bits) - 15) /
                     (2.0 - std::ldexp(1.0, -fraction_bits));
    return negative ? -x : x;
}

op_case adamw_case(format w, bool bytes, int64_t n, fill f) {
    numbers r(42);
    const int64_t blocks = (n + 255) / 256;
    array low = {format::i8, {2 * n}, std::vector<char>(static_cast<size_t>(2 * n)), false, {}};
    for (char &x : low.bytes) x = static_cast<char>(r.bits() >> 24);
    const format state = bytes ? format::i8 : format::f32;
    array m = make_array(r, state, {n}, f), v = make_array(r, state, {n}, f);
    m.scale.clear(), v.scale.clear();
    const auto positive = [&](array &a) {
        for (size_t i = 3; i < a.bytes.size(); i += 4) a.bytes[i] &= 0x7f;
    };
    if (!bytes) positive(v);
    array m_scale = make_array(r, format::f32, {blocks}), v_scale = make_array(r, format::f32, {blocks});
    positive(m_scale), positive(v_scale);
    op_case c =
        start(op::adamw,
              {make_array(r, w, {n}, f), make_array(r, format::f32, {n}, f), m, v,
               w == format::bf16 ? low : array{}, bytes ? m_scale : array{}, bytes ? v_scale : array{}},
              f);
    const adamw_params p{.clip = 0.5f,
                         .rate = 0.01f,
                         .decay = 0.001f,
                         .beta1 = 0.9f,
                         .beta2 = 0.95f,
                         .rest1 = 0.1f,
                         .rest2 = 0.05f,
                         .bias1 = 2.0f,
                         .bias2 = 3.0f,
                         .epsilon = 1e-8f};
    c.params = raw(p);
    c.rows = false;
    c.changed = bytes ? 3 : 2;
    c.exact = [=, s = c.src](auto &wanted, auto &tolerance) {
        std::vector<double> after(static_cast<size_t>(n)), after_off(after.size());
        for (int64_t i = 0; i < n; ++i) {
            const auto code = [&](const array &a) {
                return static_cast<uint8_t>(a.bytes[static_cast<size_t>(i)]);
            };
            const double g = value(s[1], i) * 0.5,
                         m_is =
                             bytes ? state_number(code(m), 3, true) * value(m_scale, i / 256) : value(m, i),
                         root = bytes ? state_number(code(v), 4, false) * value(v_scale, i / 256) : 0,
                         v_is = bytes ? root * root : value(v, i);
            double weight = value(s[0], i);
            if (w == format::bf16) {
                int16_t extra;
                std::memcpy(&extra, &low.bytes[static_cast<size_t>(2 * i)], 2);
                uint32_t u = 0;
                uint16_t high;
                std::memcpy(&high, &s[0].bytes[static_cast<size_t>(2 * i)], 2);
                u = (uint32_t{high} << 16) + static_cast<uint32_t>(int32_t{extra});
                float x;
                std::memcpy(&x, &u, 4);
                weight = static_cast<double>(x);
            }
            const double m_next = 0.9 * m_is + 0.1 * g, v_next = 0.95 * v_is + 0.05 * g * g,
                         step = 0.01 * m_next * 2 / (std::sqrt(v_next * 3) + 1e-8),
                         y = weight - 0.001 * weight - step;
            wanted.push_back(y);
            // bf16 alone is compared: half a unit of its last place
            tolerance.push_back((std::fabs(weight) + std::fabs(step)) * (w == format::bf16 ? 0x1p-8 : 4e-6) +
                                1e-9);
            after[static_cast<size_t>(i)] = bytes ? std::sqrt(v_next) : m_next;
            after_off[static_cast<size_t>(i)] = std::fabs(m_next) * 2e-6 + std::fabs(g) * 1e-7 + 1e-40;
        }
        for (int64_t i = 0; i < n; ++i) {
            if (!bytes) {
                wanted.push_back(after[static_cast<size_t>(i)]);
                tolerance.push_back(after_off[static_cast<size_t>(i)]);
                continue;
            }
            // the bytes of the roots of v, which are compared as codes: the nearest, or a neighbour
            const int64_t first = i / 256 * 256;
            double most = 0;
            for (int64_t j = first; j < std::min(n, first + 256); ++j)
                most = std::max(most, after[static_cast<size_t>(j)]);
            int best = 0;
            for (int code = 0; code < 256; ++code)
                if (std::fabs(state_number(code, 4, false) * most - after[static_cast<size_t>(i)]) <
                    std::fabs(state_number(best, 4, false) * most - after[static_cast<size_t>(i)]))
                    best = code;
            if (best == 0 && after[static_cast<size_t>(i)] > 0) best = 1;
            wanted.push_back(static_cast<int8_t>(best));
            tolerance.push_back(1.01);
        }
    };
    return c;
}

op_case lora_case(int64_t n, int64_t m, int64_t k, std::vector<int64_t> ranks, int32_t matrix, fill f) {
    // what the slots point to, for as long as the case
    struct adapters {
        std::vector<array> a, b;
        std::vector<std::vector<lora_matrix>> matrices;
        std::vector<lora_slot> slots = {{}};
    };
    numbers r(41);
    const auto of = std::make_shared<adapters>();
    int64_t most = 1;
    for (const int64_t rank : ranks) {
        of->a.push_back(make_array(r, format::f32, {std::max<int64_t>(1, rank), k}, f));
        of->b.push_back(make_array(r, format::f32, {m, std::max<int64_t>(1, rank)}, f));
        most = std::max(most, rank);
    }
    for (size_t i = 0; i < ranks.size(); ++i) {
        of->matrices.emplace_back(static_cast<size_t>(matrix) + 2);
        if (ranks[i])
            of->matrices[i][static_cast<size_t>(matrix)] = {
                reinterpret_cast<const float *>(of->a[i].bytes.data()),
                reinterpret_cast<const float *>(of->b[i].bytes.data()), ranks[i], 0.5f + r.plain() / 4, 0};
    }
    for (size_t i = 0; i < ranks.size(); ++i)
        of->slots.push_back({of->matrices[i].data(), 1 + r.plain() / 2, 0});
    array slots{format::i8, {static_cast<int64_t>(of->slots.size()), sizeof(lora_slot)}, {}, false, {}};
    slots.bytes.resize(of->slots.size() * sizeof(lora_slot));
    std::memcpy(slots.bytes.data(), of->slots.data(), slots.bytes.size());
    // rows of one sequence mostly follow one another
    std::vector<int32_t> sequence;
    for (int64_t i = 0; i < n; ++i)
        sequence.push_back(i && r.below(4) ? sequence.back() : r.below(static_cast<int>(of->slots.size())));
    op_case c = start(op::lora,
                      {make_array(r, format::f32, {n, k}, f, true),
                       make_array(r, format::f32, {n, m}, f, true), slots, make_ints(sequence, true)},
                      f);
    c.params = raw(lora_params{matrix, static_cast<int32_t>(most)});
    c.exact = [=, s = c.src](auto &wanted, auto &tolerance) {
        for (int64_t i = 0; i < n; ++i) {
            const auto slot = static_cast<size_t>(sequence[static_cast<size_t>(i)]);
            const int64_t rank = slot ? ranks[slot - 1] : 0;
            std::vector<double> h, sizes;
            for (int64_t j = 0; j < rank; ++j) {
                double sum = 0, size = 0;
                for (int64_t e = 0; e < k; ++e) {
                    const double product = value(of->a[slot - 1], j * k + e) * value(s[0], i * k + e);
                    sum += product, size += std::fabs(product);
                }
                h.push_back(sum), sizes.push_back(size);
            }
            for (int64_t j = 0; j < m; ++j) {
                double z = 0, size = 0;
                for (int64_t e = 0; e < rank; ++e) {
                    const double b = value(of->b[slot - 1], j * rank + e);
                    z += b * h[static_cast<size_t>(e)];
                    size += std::fabs(b) * sizes[static_cast<size_t>(e)];
                }
                const double scale = rank ? static_cast<double>(of->slots[slot].scale) *
                                                static_cast<double>(of->slots[slot].matrices[matrix].scale)
                                          : 0,
                             before = value(s[1], i * m + j);
                wanted.push_back(before + scale * z);
                tolerance.push_back(rank ? (std::fabs(before) + std::fabs(scale) * size) *
                                                   static_cast<double>(k + rank + 8) * 0x1p-24 +
                                               0x1p-149
                                         : 0);
            }
        }
    };
    return c;
}

op_case add_scaled_case(int64_t n, int64_t m, bool a, fill f) {
    numbers r(42);
    op_case c = start(op::add_scaled, {{}, make_array(r, format::f32, {n, m}, f, true)}, f);
    if (a) c.src[0] = make_array(r, format::f32, {n, m}, f, true);
    constexpr float scale = 0.37f;
    c.params = raw(add_scaled_params{scale});
    c.exact = [=, s = c.src](auto &wanted, auto &tolerance) {
        for (int64_t i = 0; i < n * m; ++i) {
            wanted.push_back((a ? value(s[0], i) : 0) + static_cast<double>(scale) * value(s[1], i));
            tolerance.push_back(std::fabs(wanted.back()) * 0x1p-23 + 0x1p-149);
        }
    };
    return c;
}

}  // namespace ds::test
