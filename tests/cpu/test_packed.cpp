// The packed formats. Decoding is compared with float64 formulas (op_cases.cpp), including scales that files
// may hold and no encoder writes. Encoding is compared with a search over a fine grid of scales, which is too
// slow for an encoder and hard to beat.
#include "../tensor/op_cases.h"

#include <cmath>
#include <doctest/doctest.h>
#include <limits>
#include <set>

using namespace ds;
using namespace ds::test;

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity(),
                not_a_number = std::numeric_limits<float>::quiet_NaN();

std::vector<format> packed_formats(bool written) {
    std::vector<format> out;
    for (int i = 0; i < static_cast<int>(format::count); ++i)
        if (is_packed(static_cast<format>(i)) && (!written || info(static_cast<format>(i)).writes))
            out.push_back(static_cast<format>(i));
    return out;
}

// How many elements share a scale, and their levels, for the grid search and for blocks that are exactly
// representable. With minima an element is scale * level + minimum.
struct kind {
    format f;
    int size, low, high;
    bool minima;
    // limit of the squared error, relative to the grid's (in formats with blocks of 256 the grid's scales are
    // real numbers)
    double allowed;
};
constexpr kind kinds[] = {
    {format::q4_0, 32, -8, 7, false, 1.01},   {format::q5_0, 32, -16, 15, false, 1.02},
    {format::q4_1, 32, 0, 15, true, 1.03},    {format::q5_1, 32, 0, 31, true, 1.06},
    {format::q2_k, 16, 0, 3, true, 1.10},     {format::q3_k, 16, -4, 3, false, 1.10},
    {format::q4_k, 32, 0, 15, true, 1.06},    {format::q5_k, 32, 0, 31, true, 1.12},
    {format::q6_k, 16, -32, 31, false, 1.15},
};

std::vector<float> round_trip(format f, const std::vector<float> &x, const float *importance = nullptr) {
    std::vector<uint8_t> bytes(row_bytes(f, x.size()));
    std::vector<float> y(x.size());
    encode_row(f, x.data(), bytes.data(), x.size(), importance);
    decode_row(f, bytes.data(), y.data(), y.size());
    return y;
}

double squares(const std::vector<float> &x, const std::vector<float> &y, const float *weight = nullptr) {
    double sum = 0;
    for (size_t i = 0; i < x.size(); ++i)
        sum += (weight ? static_cast<double>(weight[i]) : 1.0) * (static_cast<double>(x[i]) - y[i]) *
               (static_cast<double>(x[i]) - y[i]);
    return sum;
}

// Nearly normal: the sum of four uniform values.
std::vector<float> normal_row(numbers &r, size_t n, float size = 0.02f) {
    std::vector<float> x(n);
    for (float &v : x) v = (r.plain() + r.plain() + r.plain() + r.plain()) * size;
    return x;
}

double error_with(const float *x, const kind &k, double d, double m) {
    double sum = 0;
    for (int i = 0; i < k.size; ++i) {
        const double q = std::min<double>(k.high, std::max<double>(k.low, std::nearbyint((x[i] - m) / d)));
        sum += (d * q + m - x[i]) * (d * q + m - x[i]);
    }
    return sum;
}
double best_of_grid(const float *x, const kind &k) {
    double low = 0, top = 0, best = 1e300;
    for (int i = 0; i < k.size; ++i) low = std::min<double>(low, x[i]), top = std::max<double>(top, x[i]);
    const double most = std::max(-low, top);
    if (!k.minima)
        for (int sign = -1; sign <= 1; sign += 2)
            for (int s = 0; s < 1200; ++s)
                best = std::min(
                    best,
                    error_with(x, k, sign * most / (k.high * 0.7 + (1.3 * -k.low - 0.7 * k.high) * s / 1200),
                               0));
    else
        for (int s = 0; s < 80; ++s)
            for (int t = 0; t < 60; ++t)
                best = std::min(best, error_with(x, k, (top - low) / (k.high * (0.85 + 0.5 * s / 80)),
                                                 low * (0.7 + 0.35 * t / 60)));
    return best;
}

}  // namespace

TEST_CASE("packed: decoding follows the formula for any bytes") {
    numbers r(31);
    for (const format f : packed_formats(false)) {
        CAPTURE(info(f).text);
        const auto n = static_cast<int64_t>(info(f).block) * 3;
        for (int round = 0; round < 300; ++round) {
            std::vector<char> bytes(row_bytes(f, static_cast<uint64_t>(n)));
            // scales of every kind among them: 1 in 16 is not finite, many are denormal
            for (char &c : bytes) c = static_cast<char>(r.bits() >> 24);
            if (round % 3 == 0) std::fill(bytes.begin(), bytes.end(), static_cast<char>(r.bits() >> 24));
            std::vector<float> y(static_cast<size_t>(n));
            decode_row(f, bytes.data(), y.data(), y.size());
            int wrong = 0;
            for (int64_t i = 0; i < n; ++i) {  // a double holds each of these products and sums exactly
                const auto wanted = static_cast<float>(value(f, bytes.data(), i)),
                           got = y[static_cast<size_t>(i)];
                wrong += std::isnan(wanted) ? !std::isnan(got) : got != wanted;
            }
            CHECK(wrong == 0);
        }
    }
}

// The encoder searches four parts at a time. None may affect another, and neither may the number of blocks in
// a row.
TEST_CASE("packed: a block's encoding does not depend on its neighbours") {
    numbers r(36);
    for (const format f : packed_formats(true)) {
        CAPTURE(info(f).text);
        const size_t block = info(f).block, bytes = info(f).bytes, blocks = 7;
        std::vector<float> x = normal_row(r, blocks * block), importance(x.size());
        for (size_t i = 0; i < x.size(); ++i)
            x[i] *= static_cast<float>(1 << i / block * 2),
                importance[i] = static_cast<float>(1 + r.below(100));
        x[3 * block + 5] = infinity;
        for (const float *const weight :
             {static_cast<const float *>(nullptr), static_cast<const float *>(importance.data())}) {
            std::vector<uint8_t> whole(blocks * bytes), alone(bytes);
            encode_row(f, x.data(), whole.data(), x.size(), weight);
            for (size_t b = 0; b < blocks; ++b) {
                encode_row(f, &x[b * block], alone.data(), block, weight ? weight + b * block : nullptr);
                CHECK(std::equal(alone.begin(), alone.end(),
                                 whole.begin() + static_cast<std::ptrdiff_t>(b * bytes)));
            }
        }
    }
}

TEST_CASE("packed: encoding is nearly as good as any scales could make it") {
    // The grid searches scales of evenly spaced levels: not iq4_nl's. q8_0 is compared with double in
    // test_formats.cpp.
    std::set<format> searched = {format::iq4_nl, format::q8_0};
    for (const kind &k : kinds) searched.insert(k.f);
    for (const format f : packed_formats(true)) CHECK_MESSAGE(searched.count(f), info(f).text);
    numbers r(32);
    for (const kind &k : kinds) {
        CAPTURE(info(k.f).text);
        const std::vector<float> x = normal_row(r, 4096);
        double best = 0;
        for (size_t i = 0; i < x.size(); i += static_cast<size_t>(k.size)) best += best_of_grid(&x[i], k);
        const double got = squares(x, round_trip(k.f, x));
        CHECK(got <= best * k.allowed);
    }
}

TEST_CASE("packed: more bits, less error") {
    numbers r(33);
    const std::vector<float> x = normal_row(r, 16384);
    double all = 0;
    for (const float v : x) all += static_cast<double>(v) * v;
    double before = 1.0;
    for (const format f : {format::q2_k, format::q3_k, format::q4_0, format::iq4_nl, format::q4_k,
                           format::q5_0, format::q5_k, format::q6_k, format::q8_0}) {
        const double error = std::sqrt(squares(x, round_trip(f, x)) / all);
        CHECK(error < before);
        before = error;
    }
}

// Blocks that a format represents exactly, with both extreme levels and the largest scale: they come back bit
// for bit.
TEST_CASE("packed: blocks that are exactly representable come back unchanged") {
    numbers r(34);
    for (const kind &k : kinds) {
        CAPTURE(info(k.f).text);
        const bool big = info(k.f).block == 256;
        const int last_scale = !big                  ? 1
                               : k.f == format::q2_k ? 15
                               : k.f == format::q6_k ? 127
                               : k.f == format::q3_k ? 31
                                                     : 63,
                  last_min = big && k.minima ? last_scale : 1;
        for (int round = 0; round < 50; ++round) {
            const float d = std::ldexp(static_cast<float>(16 + r.below(16)), r.below(6) - 12),
                        m = k.minima ? -std::ldexp(static_cast<float>(16 + r.below(16)), r.below(4) - 9)
                                     : 0.0f;
            std::vector<float> x(info(k.f).block);
            for (size_t i = 0; i < x.size(); ++i) {
                const auto part = static_cast<int>(i) / k.size, index = static_cast<int>(i) % k.size;
                const int scale = !big        ? 1
                                  : part == 0 ? last_scale
                                              : 1 + (part * 37 + round) % last_scale,
                          min = part == 0 ? last_min : (part * 11 + round) % (last_min + 1);
                const int q = index == 0 ? k.low : index == 1 ? k.high : k.low + r.below(k.high - k.low + 1);
                x[i] = d * static_cast<float>(scale * q) + m * static_cast<float>(min);
            }
            CHECK(squares(x, round_trip(k.f, x)) == 0.0);
        }
    }
    std::vector<float> levels(64);
    for (size_t i = 0; i < 64; ++i)
        levels[i] = static_cast<float>(iq4_levels[i % 16]) * (i < 32 ? 0.25f : -0.125f);
    CHECK(squares(levels, round_trip(format::iq4_nl, levels)) == 0.0);
}

TEST_CASE("packed: zeros, constants, tiny and large numbers") {
    for (const format f : packed_formats(true)) {
        CAPTURE(info(f).text);
        for (const float x : round_trip(f, std::vector<float>(512, 0.0f))) CHECK(x == 0.0f);
        for (const float c : {1.0f, -0.03f, 1e-4f, 40000.0f, -65000.0f}) {
            for (const float x : round_trip(f, std::vector<float>(512, c)))
                CHECK(x == doctest::Approx(c).epsilon(0.01));
        }
        for (const float tiny : {1e-45f, 1e-30f, 1e-9f, 3e-7f}) {
            std::vector<float> x(512, tiny);
            x[3] = -tiny;
            for (const float y : round_trip(f, x)) CHECK(std::fabs(y) <= 127 * 0x1p-24f);
        }
        std::vector<float> wide = {65519.0f, -65519.0f, 1e-20f};
        wide.resize(512, 100.0f);
        for (const float y : round_trip(f, wide)) CHECK(std::isfinite(y));
        CHECK(magnitude_limit(f) >= 65520.0f);
        for (const float special : {infinity, -infinity, not_a_number}) {
            std::vector<float> x(512, 1.0f);
            x[300] = special;
            CHECK(!std::isfinite(round_trip(f, x)[300]));  // the converter detects it
        }
    }
}

TEST_CASE("packed: importance moves the error to where it matters less") {
    numbers r(35);
    for (const format f : packed_formats(true)) {
        if (f == format::q8_0) continue;
        CAPTURE(info(f).text);
        const std::vector<float> x = normal_row(r, 8192);
        std::vector<float> weight(x.size());
        for (float &w : weight) w = r.below(8) ? 0.01f : 1.0f;
        const double without = squares(x, round_trip(f, x), weight.data()),
                     with = squares(x, round_trip(f, x, weight.data()), weight.data());
        CHECK(with < 0.95 * without);
        const std::vector<float> even(x.size(), 3.0f), none(x.size(), 0.0f);
        CHECK(round_trip(f, x, even.data()) == round_trip(f, x));
        CHECK(round_trip(f, x, none.data()) == round_trip(f, x));
    }
}
