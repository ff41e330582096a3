// The functions of op_cases.h that make cases. The float64 computations follow the operations' definitions,
// with the C library's functions, and use none of the library's arithmetic. The tolerance of packed formats
// follows from rounding activations to 127 steps of a block's largest.
#include "case_parts.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace ds::test {

float numbers::operator()(fill f) {
    const float x = plain();
    if (f == fill::tiny) return below(2) ? x * 0x1p-126f : x * 0x1p-70f;
    if (f == fill::vanishing) return -std::fabs(x) * 0x1p-80f - 0x1p-100f;
    if (f == fill::wild) {
        constexpr float inf = std::numeric_limits<float>::infinity(),
                        nan = std::numeric_limits<float>::quiet_NaN();
        constexpr float some[] = {inf,  -inf,   nan,     3e38f, -3e38f, -0.0f,
                                  0.0f, 100.0f, -100.0f, 88.7f, -88.0f, -103.9f};
        if (below(10) == 0) return some[below(std::size(some))];
    }
    return x;
}

static int64_t count(const std::vector<int64_t> &ne) {
    int64_t n = 1;
    for (int64_t d : ne) n *= d;
    return n;
}

// Byte offsets of a block's f16 fields: first the formats with blocks of 32, then those with blocks of 256.
static std::vector<size_t> halves_of(format type) {
    switch (type) {
    case format::q4_1:
    case format::q5_1:
    case format::q4_k:
    case format::q5_k: return {0, 2};
    case format::q2_k: return {80, 82};
    case format::q3_k: return {108};
    case format::q6_k: return {208};
    default: return {0};
    }
}

// Random bytes, often 128 or 255. In q8_0 128 is the integer -128, which our encoder never writes but a file
// may hold.
static void fill_packed(numbers &r, format type, std::vector<char> &bytes, fill f) {
    for (char &c : bytes) c = static_cast<char>(r.below(8) ? r.bits() >> 24 : r.below(2) ? 128 : 255);
    for (size_t b = 0; b < bytes.size(); b += info(type).bytes)
        for (const size_t at : halves_of(type)) {
            const uint16_t scale = f32_to_f16(f == fill::tiny ? r.plain() * 0x1p-20f : r(f) * 0.01f);
            std::memcpy(&bytes[b + at], &scale, 2);
        }
}

// Any bytes, often -128. Scales are finite, as in every file that loads.
static void fill_i8(numbers &r, array &a, fill f) {
    for (char &c : a.bytes) c = static_cast<char>(r.below(8) ? r.bits() >> 24 : 128);
    a.scale.resize(static_cast<size_t>(count(a.ne) / a.ne.back()));
    for (float &s : a.scale) s = r.plain() * (f == fill::tiny ? 0x1p-120f : 0.01f);
}

array make_array(numbers &r, format type, std::vector<int64_t> ne, fill f, bool by_row) {
    array a = {type, ne, {}, by_row, {}};
    const int64_t n = count(ne);
    a.bytes.resize(row_bytes(type, static_cast<uint64_t>(n)));
    if (is_packed(type)) fill_packed(r, type, a.bytes, f);
    else if (type == format::i8) fill_i8(r, a, f);
    else {
        std::vector<float> row(static_cast<size_t>(n));
        for (float &x : row) x = r(f);
        encode_row(type, row.data(), a.bytes.data(), row.size());
    }
    return a;
}

array make_ints(std::vector<int32_t> v, bool by_row) {
    array a = {format::i32, {static_cast<int64_t>(v.size())}, {}, by_row, {}};
    a.bytes.resize(v.size() * 4);
    std::memcpy(a.bytes.data(), v.data(), a.bytes.size());
    return a;
}

static double f16_value(uint16_t h) {
    const int exponent = h >> 10 & 31, fraction = h & 1023;
    constexpr double inf = std::numeric_limits<double>::infinity();
    const double x = exponent == 31  ? (fraction ? std::nan("") : inf)
                     : exponent == 0 ? std::ldexp(fraction, -24)
                                     : std::ldexp(1024 + fraction, exponent - 25);
    return h >> 15 ? -x : x;
}

template <class T> static T read(const char *p) {
    T v;
    std::memcpy(&v, p, sizeof v);
    return v;
}

// Element i of a block, written from the layouts as ggml's documentation describes them.
static double packed_value(format type, const unsigned char *p, int i) {
    const auto half = [&](int at) {
        return f16_value(read<uint16_t>(reinterpret_cast<const char *>(p) + at));
    };
    const auto nibble = [](int byte, bool high) { return high ? byte >> 4 : byte & 15; };
    constexpr int iq4[] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
    // blocks of 32: byte j, and its low (0) or high (1) nibble
    const int j = i % 16, h = i / 16;
    const int part = i / 128, quarter = i % 128 / 32, l = i % 32, sub = i / 32;
    const auto fifth = [&](int at) {
        return (read<uint32_t>(reinterpret_cast<const char *>(p) + at) >> i & 1u) ? 16 : 0;
    };
    const auto six = [&](int s, bool min) {  // scales and minima of q4_k and q5_k, six bits each
        const unsigned char *c = p + 4 + (min ? 4 : 0);
        if (s < 4) return c[s] % 64;
        return nibble(p[4 + 4 + s], min) + c[s - 4] / 64 * 16;
    };
    switch (type) {
    case format::q8_0: return half(0) * static_cast<signed char>(p[2 + i]);
    case format::q4_0: return half(0) * (nibble(p[2 + j], h) - 8);
    case format::q4_1: return half(0) * nibble(p[4 + j], h) + half(2);
    case format::q5_0: return half(0) * (nibble(p[6 + j], h) + fifth(2) - 16);
    case format::q5_1: return half(0) * (nibble(p[8 + j], h) + fifth(4)) + half(2);
    case format::iq4_nl: return half(0) * iq4[nibble(p[2 + j], h)];
    case format::q2_k:
        return half(80) * (p[i / 16] % 16) * (p[16 + 32 * part + l] >> 2 * quarter & 3) -
               half(82) * (p[i / 16] / 16);
    case format::q3_k: {
        const int s = i / 16, low = nibble(p[96 + s % 8], s >= 8), high = p[104 + s % 4] >> 2 * (s / 4) & 3;
        const int q = (p[32 + 32 * part + l] >> 2 * quarter & 3) - ((p[l] >> sub & 1) ? 0 : 4);
        return half(108) * (low + 16 * high - 32) * q;
    }
    case format::q4_k:
        return half(0) * six(sub, false) * nibble(p[16 + 32 * (i / 64) + l], sub % 2) -
               half(2) * six(sub, true);
    case format::q5_k:
        return half(0) * six(sub, false) *
                   (nibble(p[48 + 32 * (i / 64) + l], sub % 2) + ((p[16 + l] >> sub & 1) ? 16 : 0)) -
               half(2) * six(sub, true);
    case format::q6_k: {
        const int low = nibble(p[64 * part + i % 64], quarter >= 2),
                  high = p[128 + 32 * part + l] >> 2 * quarter & 3;
        return half(208) * static_cast<signed char>(p[192 + i / 16]) * (low + 16 * high - 32);
    }
    case format::iq4_xs: {
        const int scale = nibble(p[4 + sub / 2], sub % 2) +
                          (read<uint16_t>(reinterpret_cast<const char *>(p) + 2) >> 2 * sub & 3) * 16 - 32;
        return half(0) * scale * iq4[nibble(p[8 + 16 * sub + i % 16], i % 32 >= 16)];
    }
    default: return std::nan("");
    }
}
double value(format type, const char *p, int64_t i) {
    switch (type) {
    case format::f32: return read<float>(p + 4 * i);
    case format::i32: return read<int32_t>(p + 4 * i);
    case format::f16: return f16_value(read<uint16_t>(p + 2 * i));
    case format::bf16: return read<float>((std::string(2, '\0') + std::string(p + 2 * i, 2)).data());
    case format::i8: return static_cast<signed char>(p[i]);
    default:
        return packed_value(
            type, reinterpret_cast<const unsigned char *>(p) + i / info(type).block * info(type).bytes,
            static_cast<int>(i % info(type).block));
    }
}
double value(const array &a, int64_t i) {
    return value(a.type, a.bytes.data(), i) *
           (a.scale.empty() ? 1.0 : static_cast<double>(a.scale[static_cast<size_t>(i / a.ne.back())]));
}

op_case start(op kind, std::vector<array> src, fill f) {
    op_case c;
    c.kind = kind;
    c.src = std::move(src);
    c.finite = f != fill::wild;
    return c;
}

// ---- The operations

op_case get_rows_case(format type, int64_t d, int64_t rows) {
    numbers r(1);
    std::vector<int32_t> ids;
    for (int64_t i = 0; i < rows; ++i) ids.push_back(r.below(11));
    ids[0] = 10;
    op_case c = start(op::get_rows, {make_array(r, type, {11, d}), make_ints(ids, true)});
    c.exact = [=, table = c.src[0]](auto &wanted, auto &tolerance) {
        for (int32_t id : ids)
            for (int64_t i = 0; i < d; ++i) {
                wanted.push_back(value(table, id * d + i));
                // rounding of a product of floats, or of a sum with a minimum
                double large = std::fabs(wanted.back());
                for (int64_t e = 0; e < info(type).block; ++e)
                    large = std::max(
                        large,
                        std::fabs(value(table, (id * d + i) / info(type).block * info(type).block + e)));
                tolerance.push_back(type == format::i8 || is_packed(type) ? large * 0x1p-21 : 0.0);
            }
    };
    return c;
}

op_case matmul_case(format type, int64_t n, int64_t m, int64_t k, bool bias, fill f, bool residual) {
    numbers r(2);
    const int64_t block = is_packed(type) ? info(type).block : k;  // activations that share a scale
    const bool quantized = is_packed(type) || type == format::i8;
    op_case c = start(
        op::matmul, {make_array(r, format::f32, {n, k}, f, true), make_array(r, type, {m, k}, f), {}, {}}, f);
    if (bias) c.src[2] = make_array(r, format::f32, {m});
    if (residual) c.src[3] = make_array(r, format::f32, {n, m}, f, true);
    if (f == fill::vanishing)
        // x is positive, so that products are negative
        for (size_t i = 3; i < c.src[0].bytes.size(); i += 4) c.src[0].bytes[i] &= 0x7f;
    c.exact = [=, x = c.src[0], w = c.src[1], b = c.src[2], before = c.src[3]](auto &wanted,
                                                                               auto &tolerance) {
        for (int64_t i = 0; i < n; ++i) {
            // half a quantization step of each activation's block
            std::vector<double> step(static_cast<size_t>(k), 0.0);
            for (int64_t at = 0; quantized && at < k; at += block) {
                double most = 0.0;
                for (int64_t l = at; l < at + block; ++l)
                    most = std::max(most, std::fabs(value(x, i * k + l)));
                std::fill_n(step.begin() + at, block, most / 253.9);
            }
            for (int64_t j = 0; j < m; ++j) {
                double sum = 0.0, size = 0.0, rounding = 0.0;
                for (int64_t l = 0; l < k; ++l) {
                    const double a = value(x, i * k + l), v = value(w, j * k + l);
                    sum += a * v;
                    size += std::fabs(a * v);
                    rounding += std::fabs(v) * step[l];
                }
                const double offset =
                    (bias ? value(b, j) : 0.0) + (residual ? value(before, i * m + j) : 0.0);
                wanted.push_back(sum + offset);
                // Denormal products lose absolute accuracy, not relative accuracy.
                tolerance.push_back(
                    rounding +
                    (size + rounding + std::fabs(offset)) * (static_cast<double>(k) / 16 + 8) * 0x1p-24 +
                    static_cast<double>(k) * 0x1p-149 + (quantized ? 1e-30 * size + 1e-30 : 0.0));
            }
        }
    };
    return c;
}

// A row of a product in float64, with the tolerance for rounding x to 127 steps of its largest and for f32
// arithmetic.
bounded product(const std::vector<bounded> &x, const array &w, int64_t row, bool quantized) {
    const int64_t k = w.ne.back();
    double most = 0.0, sum = 0.0, size = 0.0, off = 0.0;
    for (const bounded &v : x) most = std::max(most, std::fabs(v.y) + v.off);
    for (int64_t l = 0; l < k; ++l) {
        const double v = value(w, row * k + l), a = x[static_cast<size_t>(l)].y;
        sum += a * v;
        size += std::fabs(a * v);
        off += std::fabs(v) * (x[static_cast<size_t>(l)].off + (quantized ? most / 253.9 : 0.0));
    }
    return {sum, off + (size + off) * (static_cast<double>(k) / 16 + 8) * 0x1p-24 +
                     static_cast<double>(k) * 0x1p-149 + (quantized ? 1e-30 * size + 1e-30 : 0.0)};
}
std::vector<bounded> row_of(const array &x, int64_t row, int64_t k) {
    std::vector<bounded> out;
    for (int64_t l = 0; l < k; ++l) out.push_back({value(x, row * k + l), 0.0});
    return out;
}
bool is_quantized(format type) { return is_packed(type) || type == format::i8; }

// A row of x, normalized when the operation has a norm.
static std::vector<bounded> normed_row(const array &x, int64_t row, const array &norm, float eps) {
    const int64_t k = x.ne.back();
    std::vector<bounded> out = row_of(x, row, k);
    if (norm.bytes.empty()) return out;
    double sum = 0.0;
    for (const bounded &v : out) sum += v.y * v.y;
    for (int64_t l = 0; l < k; ++l) {
        bounded &v = out[static_cast<size_t>(l)];
        v.y = v.y / std::sqrt(sum / static_cast<double>(k) + eps) * value(norm, l);
        v.off = std::fabs(v.y) * 2e-6;
    }
    return out;
}
// 1.1 bounds the slope of every function of unary.def.
static bounded gated(unary f, const bounded &g, const bounded &u) {
    const double y = exact(f, g.y);
    return {y * u.y, 1.1 * g.off * (std::fabs(u.y) + u.off) + std::fabs(y) * u.off +
                         std::fabs(y * u.y) * 8e-7 + 1e-36};
}

op_case projections_case(int64_t n, int64_t k, bool norm, std::vector<matrix_case> list, fill f) {
    numbers r(14);
    const float eps = 1e-5f;
    std::vector<array> src(2 + 2 * most_projections);
    src[0] = make_array(r, format::f32, {n, k}, f, true);
    if (norm) src[1] = make_array(r, format::f32, {k});
    for (size_t i = 0; i < list.size(); ++i) {
        src[2 + i] = make_array(r, list[i].type, {list[i].m, k}, f);
        if (list[i].bias) src[2 + most_projections + i] = make_array(r, format::f32, {list[i].m});
    }
    op_case c = start(op::projections, src, f);
    c.params = raw(rms_norm_params{eps});
    c.exact = [=, s = c.src](auto &wanted, auto &tolerance) {
        for (int64_t i = 0; i < n; ++i) {
            const std::vector<bounded> x = normed_row(s[0], i, s[1], eps);
            for (size_t p = 0; p < list.size(); ++p)
                for (int64_t j = 0; j < list[p].m; ++j) {
                    const bounded y = product(x, s[2 + p], j, is_quantized(list[p].type));
                    const double bias = list[p].bias ? value(s[2 + most_projections + p], j) : 0.0;
                    wanted.push_back(y.y + bias);
                    tolerance.push_back(y.off + (std::fabs(y.y) + std::fabs(bias)) * 0x1p-23);
                }
        }
    };
    return c;
}

// Gates are ten times larger, to reach both sides of silu.
op_case gated_projection_case(format gate, format up, int64_t n, int64_t m, int64_t k, bool norm, fill f,
                              unary function) {
    numbers r(15);
    const float eps = 1e-5f;
    op_case c = start(op::gated_projection,
                      {make_array(r, format::f32, {n, k}, f, true),
                       {},
                       make_array(r, gate, {m, k}, f),
                       make_array(r, up, {m, k}, f)},
                      f);
    if (norm) c.src[1] = make_array(r, format::f32, {k});
    for (size_t i = 0; i + 4 <= c.src[1].bytes.size(); i += 4) {
        const float large = read<float>(&c.src[1].bytes[i]) * 10.0f;
        std::memcpy(&c.src[1].bytes[i], &large, 4);
    }
    c.params = raw(gated_params{function, eps});
    c.exact = [=, s = c.src](auto &wanted, auto &tolerance) {
        for (int64_t i = 0; i < n; ++i) {
            const std::vector<bounded> x = normed_row(s[0], i, s[1], eps);
            for (int64_t j = 0; j < m; ++j) {
                const bounded y = gated(function, product(x, s[2], j, is_quantized(gate)),
                                        product(x, s[3], j, is_quantized(up)));
                wanted.push_back(y.y);
                tolerance.push_back(y.off);
            }
        }
    };
    return c;
}

op_case head_matmul_case(format type, int64_t n, int64_t heads, int64_t m, int64_t k, fill f) {
    numbers r(11);
    op_case c =
        start(op::head_matmul,
              {make_array(r, format::f32, {n, heads, k}, f, true), make_array(r, type, {heads, m, k}, f)}, f);
    c.exact = [=, x = c.src[0], w = c.src[1]](auto &wanted, auto &tolerance) {
        for (int64_t i = 0; i < n * heads; ++i)
            for (int64_t j = 0; j < m; ++j) {
                const bounded y = product(row_of(x, i, k), w, i % heads * m + j, is_quantized(type));
                wanted.push_back(y.y);
                tolerance.push_back(y.off);
            }
    };
    return c;
}

// Ranks by sorting, and groups by their sorted scores, unlike the operation.
op_case router_case(int64_t n, int64_t experts, router_params p, bool bias, fill f) {
    numbers r(12);
    op_case c = start(op::router, {make_array(r, format::f32, {n, experts}, f, true), {}}, f);
    if (bias) c.src[1] = make_array(r, format::f32, {experts});
    c.params = raw(p);
    c.exact = [=, l = c.src[0], b = c.src[1]](auto &wanted, auto &tolerance) {
        for (int64_t i = 0; i < n; ++i) {
            std::vector<double> score(static_cast<size_t>(experts));
            double sum = 0.0, chosen = 0.0;
            for (int64_t e = 0; e < experts; ++e) {
                const double x = value(l, i * experts + e);
                sum += score[static_cast<size_t>(e)] = p.sigmoid ? 1.0 / (1.0 + std::exp(-x)) : std::exp(x);
            }
            std::vector<std::pair<double, int>> groups, order;
            const int64_t size = experts / p.groups;
            for (int g = 0; g < p.groups; ++g) {
                std::vector<double> best;
                for (int64_t e = g * size; e < (g + 1) * size; ++e) {
                    if (!p.sigmoid) score[static_cast<size_t>(e)] /= sum;
                    best.push_back(-(score[static_cast<size_t>(e)] + (bias ? value(b, e) : 0.0)));
                }
                std::sort(best.begin(), best.end());
                groups.emplace_back(best[0] + (p.sigmoid && size > 1 ? best[1] : 0.0), g);
            }
            std::sort(groups.begin(), groups.end());
            for (int g = 0; g < p.groups_used; ++g)
                for (int64_t e = groups[static_cast<size_t>(g)].second * size;
                     e < (groups[static_cast<size_t>(g)].second + 1) * size; ++e)
                    order.emplace_back(-(score[static_cast<size_t>(e)] + (bias ? value(b, e) : 0.0)),
                                       static_cast<int>(e));
            std::sort(order.begin(), order.end());
            for (int k = 0; k < p.used; ++k) {
                wanted.push_back(order[static_cast<size_t>(k)].second);
                tolerance.push_back(0.0);
                chosen += score[static_cast<size_t>(order[static_cast<size_t>(k)].second)];
            }
            for (int k = 0; k < p.used; ++k) {
                wanted.push_back(score[static_cast<size_t>(order[static_cast<size_t>(k)].second)] /
                                 (p.normalise ? chosen : 1.0) * static_cast<double>(p.scale));
                tolerance.push_back(wanted.back() * 2e-6);
            }
        }
    };
    return c;
}

// Ranks by sorting, weights by the C library. Every fourth row has no factor; with `tiny` values many are
// equal.
op_case candidates_case(int64_t n, int64_t width, int32_t count, fill f) {
    numbers r(15);
    array logits = make_array(r, format::f32, {n, width}, f, true),
          factors = make_array(r, format::f32, {n}, fill::plain, true);
    const auto set = [](array &a, int64_t i, double x) {
        const auto y = static_cast<float>(x);
        std::memcpy(&a.bytes[static_cast<size_t>(i) * 4], &y, 4);
    };
    for (int64_t i = 0; i < n; ++i) set(factors, i, i % 4 == 3 ? 0.0 : 0.3 + std::fabs(value(factors, i)));
    if (f != fill::wild)
        for (int64_t i = 0; i < n * width; ++i)
            set(logits, i, f == fill::tiny ? r.below(7) - 3 : 20.0 * value(logits, i));
    op_case c = start(op::candidates, {logits, factors}, f);
    c.params = raw(candidates_params{count});
    c.exact = [=](auto &wanted, auto &tolerance) {
        const auto give = [&](double x, double off) { wanted.push_back(x), tolerance.push_back(off); };
        for (int64_t i = 0; i < n; ++i) {
            std::vector<std::pair<double, int32_t>> order;
            for (int64_t j = 0; j < width; ++j)
                order.emplace_back(-value(logits, i * width + j), static_cast<int32_t>(j));
            std::sort(order.begin(), order.end());
            const double factor = value(factors, i);
            double total = 0;
            for (const auto &[x, index] : order)
                total += factor == 0 ? 0.0 : std::exp((order[0].first - x) * factor);
            give(1, 0), give(0, 0);
            give(0, 0x1p31);  // the low half of the sum, in units of 2^-40, is not compared
            give(total * 0x1p8, total * 0x1p8 * 1e-5 + 1);
            for (int32_t k = 0; k < count; ++k)
                give(k < width ? order[static_cast<size_t>(k)].second : -1, 0);
            for (int32_t k = 0; k < count; ++k)
                give(static_cast<int32_t>(
                         bits_of(k < width ? static_cast<float>(0.0 - order[static_cast<size_t>(k)].first)
                                           : -std::numeric_limits<float>::infinity())),
                     0);
        }
    };
    return c;
}

op_case experts_case(format type, format up, int64_t n, int64_t experts, int64_t used, int64_t d, int64_t ffn,
                     bool shared, fill f) {
    numbers r(13);
    array route = make_array(r, format::f32, {n, 2, used}, fill::plain, true);
    std::vector<int64_t> chosen;
    for (int64_t i = 0; i < n; ++i)
        // distinct, and some experts get no row
        for (int64_t k = 0, e = r.below(static_cast<int>(experts)); k < used; ++k, e = (e + 1) % experts) {
            const float number = static_cast<float>(e);
            std::memcpy(&route.bytes[static_cast<size_t>((2 * i * used) + k) * 4], &number, 4);
            chosen.push_back(e);
        }
    op_case c = start(op::experts,
                      {make_array(r, format::f32, {n, d}, f, true),
                       route,
                       make_array(r, type, {experts, ffn, d}, f),
                       make_array(r, up, {experts, ffn, d}, f),
                       make_array(r, type, {experts, d, ffn}, f),
                       {}},
                      f);
    if (shared) c.src[5] = make_array(r, format::f32, {n, d}, f, true);
    c.exact = [=, s = c.src](auto &wanted, auto &tolerance) {
        const bool quantized = is_quantized(type);
        for (int64_t i = 0; i < n; ++i) {
            std::vector<double> y(static_cast<size_t>(d)), off(static_cast<size_t>(d));
            for (int64_t j = 0; j < d; ++j) y[static_cast<size_t>(j)] = shared ? value(s[5], i * d + j) : 0.0;
            for (int64_t k = 0; k < used; ++k) {
                const int64_t e = chosen[static_cast<size_t>(i * used + k)];
                const double weight = value(s[1], (2 * i + 1) * used + k);
                std::vector<bounded> hidden;
                for (int64_t j = 0; j < ffn; ++j) {
                    const std::vector<bounded> x = row_of(s[0], i, d);
                    hidden.push_back(gated(unary::silu, product(x, s[2], e * ffn + j, quantized),
                                           product(x, s[3], e * ffn + j, is_quantized(up))));
                }
                for (int64_t j = 0; j < d; ++j) {
                    const bounded out = product(hidden, s[4], e * d + j, quantized);
                    y[static_cast<size_t>(j)] += weight * out.y;
                    off[static_cast<size_t>(j)] +=
                        std::fabs(weight) * (out.off + std::fabs(out.y) * 0x1p-22) +
                        std::fabs(y[static_cast<size_t>(j)]) * 0x1p-22;
                }
            }
            wanted.insert(wanted.end(), y.begin(), y.end());
            tolerance.insert(tolerance.end(), off.begin(), off.end());
        }
    };
    return c;
}

op_case experts_case(format type, int64_t n, int64_t experts, int64_t used, int64_t d, int64_t ffn,
                     bool shared, fill f) {
    return experts_case(type, type, n, experts, used, d, ffn, shared, f);
}

op_case add_case(std::vector<int64_t> ne, fill f) {
    numbers r(3);
    op_case c =
        start(op::add, {make_array(r, format::f32, ne, f, true), make_array(r, format::f32, ne, f, true)}, f);
    c.params = {};
    c.exact = [=, a = c.src[0], b = c.src[1]](auto &wanted, auto &tolerance) {
        for (int64_t i = 0; i < count(ne); ++i) {
            wanted.push_back(value(a, i) + value(b, i));
            tolerance.push_back(std::fabs(wanted.back()) * 0x1p-24);
        }
    };
    return c;
}

op_case rms_norm_case(std::vector<int64_t> ne, fill f) {
    numbers r(5);
    const int64_t d = ne.back();
    const float eps = 1e-6f;
    op_case c =
        start(op::rms_norm, {make_array(r, format::f32, ne, f, true), make_array(r, format::f32, {d})}, f);
    c.params = raw(rms_norm_params{eps});
    c.exact = [=, x = c.src[0], w = c.src[1]](auto &wanted, auto &tolerance) {
        for (int64_t i = 0; i < count(ne); i += d) {
            double sum = 0.0;
            for (int64_t j = 0; j < d; ++j) sum += value(x, i + j) * value(x, i + j);
            for (int64_t j = 0; j < d; ++j) {
                wanted.push_back(value(x, i + j) / std::sqrt(sum / static_cast<double>(d) + eps) *
                                 value(w, j));
                tolerance.push_back(std::fabs(wanted.back()) * 2e-6 + 0x1p-149);
            }
        }
    };
    return c;
}

op_case rope_table_case(int64_t n, int32_t rotated, bool yarn, bool factors) {
    numbers r(6);
    const rope_table_params p = {10000.0, yarn ? 4.0 : 2.0, 3.0f, 40.0f, yarn ? 1.2f : 1.0f, rotated, yarn};
    std::vector<int32_t> positions;
    for (int64_t i = 0; i < n; ++i) positions.push_back(i == 0 ? 0 : r.below(131072));
    op_case c = start(op::rope_table, {make_ints(positions, true), {}});
    if (factors) {
        c.src[1] = make_array(r, format::f32, {rotated / 2});
        for (int i = 0; i < rotated / 2; ++i) {
            const float factor = 1.0f + static_cast<float>(i);
            std::memcpy(&c.src[1].bytes[4 * static_cast<size_t>(i)], &factor, 4);
        }
    }
    c.params = raw(p);
    c.exact = [=](auto &wanted, auto &tolerance) {
        for (int32_t t : positions)
            for (int part = 0; part < 2; ++part)
                for (int32_t i = 0; i < rotated / 2; ++i) {
                    const double f = std::pow(10000.0, -2.0 * i / rotated),
                                 ramp = yarn ? std::min(1.0, std::max(0.0, (i - 3.0) / 37.0)) : 1.0;
                    const double angle =
                        t * (f * (1.0 - ramp) + f / p.factor * ramp) / (factors ? 1.0 + i : 1.0);
                    wanted.push_back((part ? std::sin(angle) : std::cos(angle)) *
                                     static_cast<double>(p.magnitude));
                    tolerance.push_back(1e-7);
                }
    };
    return c;
}

op_case rope_case(int64_t n, int64_t heads, int64_t d, int64_t rotated, rope_pairs pairs, bool inverse) {
    numbers r(7);
    const int64_t half = rotated / 2;
    op_case c = start(op::rope, {make_array(r, format::f32, {n, heads, d}, fill::plain, true),
                                 make_array(r, format::f32, {n, 2, half}, fill::plain, true)});
    c.params = raw(rope_params{pairs, inverse});
    c.exact = [=, x = c.src[0], t = c.src[1]](auto &wanted, auto &tolerance) {
        for (int64_t i = 0; i < n * heads; ++i)
            for (int64_t e = 0; e < d; ++e) {
                const bool adjacent = pairs == rope_pairs::adjacent,
                           second = adjacent ? e % 2 == 1 : e >= half;
                const int64_t p = adjacent ? e / 2 : e % half, other = adjacent ? e ^ 1
                                                                       : second ? e - half
                                                                                : e + half;
                if (e >= rotated) {
                    wanted.push_back(value(x, i * d + e));
                    tolerance.push_back(0.0);
                    continue;
                }
                const double cosine = value(t, (i / heads * 2) * half + p),
                             sine = (inverse ? -1.0 : 1.0) * value(t, (i / heads * 2 + 1) * half + p);
                wanted.push_back(value(x, i * d + e) * cosine +
                                 (second ? 1.0 : -1.0) * value(x, i * d + other) * sine);
                tolerance.push_back(2e-7);
            }
    };
    return c;
}

std::vector<op_case> all_cases() {
    std::vector<op_case> all;
#define DS_CASE(name, ...)                                                                                   \
    all.push_back(name##_case(__VA_ARGS__));                                                                 \
    all.back().text = #name "(" #__VA_ARGS__ ")";
#include "cases.def"
#undef DS_CASE
    return all;
}

}  // namespace ds::test
