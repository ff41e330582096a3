// The arithmetic of numerics.h against the C library's long double functions and the papers' formulas. Bounds
// are in units in the last place of the result's own width.
#include "../../tensor/numerics.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

using namespace ds;

namespace {

constexpr float inf = std::numeric_limits<float>::infinity();
const float nan_f32 = std::numeric_limits<float>::quiet_NaN();

// |got - exact| in units in the last place of f32 at `exact`, denormals included.
double ulps(float got, long double exact) {
    const int e = exact == 0 ? -149 : std::max(-149, std::ilogb(exact) - 23);
    return static_cast<double>(std::fabs(got - exact) / std::ldexp(1.0L, e));
}

// The largest error of `ours` over evenly spread and over random arguments.
template <class Ours, class Exact> double worst(float from, float to, Ours ours, Exact exact) {
    std::mt19937 random(1);
    std::uniform_real_distribution<float> any(from, to);
    double most = 0;
    for (int i = 0; i <= 20000; ++i)
        for (const float x : {from + (to - from) * static_cast<float>(i) / 20000.0f, any(random)})
            most = std::max(most, ulps(ours(x), exact(static_cast<long double>(x))));
    return most;
}

}  // namespace

TEST_CASE("numerics: exp2 within 1.5 units, denormal results included") {
    const auto exact = [](long double x) { return std::exp2(x); };
    CHECK(worst(-1, 1, exp2_f32, exact) < 1.5);
    CHECK(worst(-149, 127.999f, exp2_f32, exact) < 1.5);
    CHECK(worst(-151, -126, exp2_f32, exact) < 1.5);
    for (int n = -149; n < 128; ++n) CHECK(exp2_f32(static_cast<float>(n)) == std::ldexp(1.0f, n));
    CHECK(exp2_f32(128.0f) == inf);
    CHECK(exp2_f32(inf) == inf);
    CHECK(exp2_f32(3e38f) == inf);
    CHECK(exp2_f32(-151.0f) == 0.0f);
    CHECK(exp2_f32(-inf) == 0.0f);
    CHECK(exp2_f32(1e-45f) == 1.0f);
    CHECK(std::isnan(exp2_f32(nan_f32)));
}

TEST_CASE("numerics: exp within 1.5 units, denormal results included") {
    const auto exact = [](long double x) { return std::exp(x); };
    CHECK(worst(-1, 1, exp_f32, exact) < 1.5);
    CHECK(worst(-87, 88.7f, exp_f32, exact) < 1.5);
    CHECK(worst(-104, -87, exp_f32, exact) < 1.5);
    CHECK(exp_f32(0.0f) == 1.0f);
    CHECK(exp_f32(-0.0f) == 1.0f);
    CHECK(exp_f32(1e-45f) == 1.0f);
    CHECK(exp_f32(88.8f) == inf);
    CHECK(exp_f32(inf) == inf);
    CHECK(exp_f32(-104.5f) == 0.0f);
    CHECK(exp_f32(-inf) == 0.0f);
    CHECK(std::isnan(exp_f32(nan_f32)));
}

TEST_CASE("numerics: sigmoid within 3 units where it is normal, its limits, and never outside 0 to 1") {
    const auto exact = [](long double x) { return 1.0L / (1.0L + std::exp(-x)); };
    CHECK(worst(-80, 80, sigmoid_f32, exact) < 3);
    CHECK(sigmoid_f32(0.0f) == 0.5f);
    CHECK(sigmoid_f32(inf) == 1.0f);
    CHECK(sigmoid_f32(-inf) == 0.0f);
    CHECK(std::isnan(sigmoid_f32(nan_f32)));
    for (float x = -110; x < 110; x += 0.37f) {
        CHECK(sigmoid_f32(x) >= 0.0f);
        CHECK(sigmoid_f32(x) <= 1.0f);
    }
}

TEST_CASE("numerics: log2 and pow in double") {
    std::mt19937_64 random(2);
    std::uniform_real_distribution<double> mantissa(1, 2), exponent(-1, 0);
    for (int e = -1021; e < 1024; e += 3)
        for (int i = 0; i < 8; ++i) {
            const double x = std::ldexp(mantissa(random), e);
            const long double exact = std::log2(static_cast<long double>(x));
            CHECK(std::fabs(static_cast<double>(log2_f64(x) - exact)) <=
                  3e-16 * std::max(1.0, std::fabs(static_cast<double>(exact))));
        }
    CHECK(log2_f64(1.0) == 0.0);
    CHECK(log2_f64(1024.0) == 10.0);
    for (const double base : {1.001, 10000.0, 500000.0, 1e6, 1e12})
        for (int i = 0; i < 2000; ++i) {
            const double e = exponent(random);
            const long double exact = std::pow(static_cast<long double>(base), static_cast<long double>(e));
            CHECK(std::fabs(static_cast<double>(pow_f64(base, e) / exact - 1)) < 2e-14);
        }
    CHECK(pow_f64(10000.0, 0.0) == 1.0);
}

TEST_CASE("numerics: exp2 in double, to the ends of its range") {
    std::mt19937_64 random(3);
    std::uniform_real_distribution<double> any(-1020, 1023);
    for (int i = 0; i < 20000; ++i) {
        const double x = any(random);
        CHECK(std::fabs(static_cast<double>(exp2_f64(x) / std::exp2(static_cast<long double>(x)) - 1)) <
              1e-15);
    }
    CHECK(exp2_f64(-1075.0) == 0.0);
    CHECK(exp2_f64(-1074.0) == std::ldexp(1.0, -1074));
    CHECK(std::isnan(exp2_f64(std::nan(""))));
}

TEST_CASE("numerics: sine and cosine of the angles of all positions") {
    std::mt19937_64 random(4);
    for (const double range : {1.0, 100.0, 131072.0, 1048576.0, 1073741824.0, 2147483647.0}) {
        CAPTURE(range);
        std::uniform_real_distribution<double> any(-range, range);
        double most = 0;
        for (int i = 0; i < 20000; ++i) {
            const double x = i % 2 ? any(random) : std::rint(any(random));
            double sine, cosine;
            sin_cos_f64(x, &sine, &cosine);
            most =
                std::max({most, std::fabs(static_cast<double>(sine - std::sin(static_cast<long double>(x)))),
                          std::fabs(static_cast<double>(cosine - std::cos(static_cast<long double>(x))))});
        }
        CHECK(most < 4e-16);
    }
    double sine, cosine;
    sin_cos_f64(0.0, &sine, &cosine);
    CHECK(sine == 0.0);
    CHECK(cosine == 1.0);
}

// RoFormer's frequencies, and YaRN's by section 3.2 of its paper: they depend on how many rotations a pair
// makes within the original context.
TEST_CASE("numerics: rope frequencies, plain, linear and YaRN") {
    const long double pi = 3.14159265358979323846264338327950288L;
    for (const int r : {16, 64, 128})
        for (const double base : {10000.0, 1e6}) {
            const double factor = 4, original = 32768;
            // the pair that makes `times` rotations: base^(-2 i / r) * original / (2 pi) = times
            const auto pair = [&](double times) {
                return static_cast<double>(r * std::log(original / (times * 2 * pi)) /
                                           (2 * std::log(static_cast<long double>(base))));
            };
            const double low = std::max(0.0, std::floor(pair(32))),
                         high = std::min(r - 1.0, std::ceil(pair(1)));
            for (int i = 0; i < r / 2; ++i) {
                const long double plain = std::pow(static_cast<long double>(base), -2.0L * i / r);
                const long double ramp =
                    std::clamp((i - static_cast<long double>(low)) /
                                   std::max(0.001L, static_cast<long double>(high - low)),
                               0.0L, 1.0L);
                const long double yarn = plain / factor * ramp + plain * (1 - ramp);
                CHECK(rope_frequency(base, 1, 0, 0, 0, r, i) ==
                      doctest::Approx(static_cast<double>(plain)).epsilon(1e-13));
                CHECK(rope_frequency(base, factor, 0, 0, 0, r, i) ==
                      doctest::Approx(static_cast<double>(plain / factor)).epsilon(1e-13));
                CHECK(rope_frequency(base, factor, 1, static_cast<float>(low), static_cast<float>(high), r,
                                     i) == doctest::Approx(static_cast<double>(yarn)).epsilon(1e-13));
            }
        }
}

// The fold over all lanes by exclusive or of lane indices, as described in numerics.h.
template <int lanes> static float pattern(const std::vector<float> &a, const std::vector<float> &b) {
    std::vector<float> lane(lanes, 0.0f);
    for (size_t i = 0; i < a.size(); ++i) lane[i % lanes] = std::fmaf(a[i], b[i], lane[i % lanes]);
    for (int s = lanes / 2; s; s /= 2) {
        const std::vector<float> before = lane;
        for (int j = 0; j < lanes; ++j) lane[j] = before[j] + before[j ^ s];
    }
    return lane[0];
}

TEST_CASE("numerics: sums follow their pattern to the bit, and are near the sum in double") {
    std::mt19937 random(5);
    std::normal_distribution<float> any(0, 1);
    for (const size_t n : {0, 1, 15, 16, 17, 127, 128, 129, 1000, 4096}) {
        std::vector<float> a(n), b(n);
        double sum = 0, size = 0;
        for (size_t i = 0; i < n; ++i) {
            a[i] = any(random);
            b[i] = any(random);
            sum += static_cast<double>(a[i]) * b[i];
            size += std::fabs(static_cast<double>(a[i]) * b[i]);
        }
        const float dot = dot_in_lanes<dot_lanes>(a.data(), b.data(), n),
                    norm = dot_in_lanes<sum_lanes>(a.data(), b.data(), n);
        CHECK(bits_of(dot) == bits_of(pattern<16>(a, b)));
        CHECK(bits_of(norm) == bits_of(pattern<128>(a, b)));
        const double epsilon = std::ldexp(1.0, -24);
        CHECK(std::fabs(dot - sum) <= (static_cast<double>(n) / 16 + 5) * epsilon * size);
        CHECK(std::fabs(norm - sum) <= (static_cast<double>(n) / 128 + 8) * epsilon * size);
    }
    CHECK(rms_factor(4096.0f, 1024, 1e-5f) == doctest::Approx(1 / std::sqrt(4 + 1e-5)).epsilon(1e-6));
    CHECK(rms_factor(0.0f, 8, 0.25f) == 2.0f);
}

TEST_CASE("numerics: a block of activations in eight bits") {
    std::mt19937 random(6);
    std::normal_distribution<float> any(0, 3);
    float x[32];
    int8_t q[32];
    for (int round = 0; round < 200; ++round) {
        float most = 0;
        for (float &v : x) most = std::max(most, std::fabs(v = any(random)));
        const float scale = quantize_block(x, q, 32);
        CHECK(scale == most / 127.0f);
        int largest = 0;
        for (int i = 0; i < 32; ++i) {
            largest = std::max(largest, std::abs(static_cast<int>(q[i])));
            CHECK(std::fabs(x[i] - static_cast<double>(q[i]) * scale) <= 0.50001 * scale);
        }
        CHECK(largest == 127);
    }
    std::fill_n(x, 32, 0.0f);
    x[0] = 127, x[1] = 2.5f, x[2] = 3.5f, x[3] = -2.5f, x[4] = -127;  // ties go to the even neighbour
    CHECK(quantize_block(x, q, 32) == 1.0f);
    CHECK((q[0] == 127 && q[1] == 2 && q[2] == 4 && q[3] == -2 && q[4] == -127 && q[5] == 0));
    std::fill_n(x, 32, 9e-31f);
    CHECK(quantize_block(x, q, 32) == 0.0f);
    CHECK(q[7] == 0);
    for (const float bad : {inf, -inf, nan_f32, -nan_f32}) {
        x[9] = bad;
        CHECK(!finite_f32(quantize_block(x, q, 32)));
        CHECK(q[9] == 0);
    }
}

TEST_CASE("numerics: derivatives of unary.def are the slopes of its functions") {
    const struct {
        const char *name;
        float (*f)(float), (*derivative)(float);
    } functions[] = {
#define DS_UNARY(name, formula, derivative)                                                                  \
    {#name, [](float x) -> float { return formula; }, [](float x) -> float { return derivative; }},
#include "../../tensor/unary.def"
#undef DS_UNARY
    };
    for (const auto &u : functions)
        for (float x = -12; x <= 12; x += 0.37f) {
            const float h = 1.0f / 64;
            const double slope = (static_cast<double>(u.f(x + h)) - u.f(x - h)) / (2.0 * h);
            CHECK_MESSAGE(std::fabs(slope - u.derivative(x)) < 2e-4, u.name, " at ", x);
        }
}
