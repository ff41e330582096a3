// Number formats against independent definitions: f16 against the compiler's _Float16, where available, and
// against the value of its three fields; rounding against exact comparison in double; Q8_0 against arithmetic
// in double.
#include "../../tensor/formats.h"

#include <doctest/doctest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <set>
#include <vector>

using namespace ds;

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

uint32_t bits(float f) { return std::bit_cast<uint32_t>(f); }
float from_bits(uint32_t u) { return std::bit_cast<float>(u); }

// The value of the 16 bits by IEEE 754. An infinity is 65536, as rounding to nearest treats it.
double f16_value(uint16_t h) {
    const int exponent = (h >> 10) & 31;
    const double fraction = h & 1023;
    const double v = exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25);
    return h & 0x8000 ? -v : v;
}
double bf16_value(uint16_t h) {
    const int exponent = (h >> 7) & 255;
    const double fraction = h & 127;
    const double v = exponent == 0 ? std::ldexp(fraction, -133) : std::ldexp(128 + fraction, exponent - 134);
    return h & 0x8000 ? -v : v;
}

// Whether h is the value nearest to f, the even one of two: compared with its neighbours, exactly, in double.
template <class value> bool nearest_even(uint16_t h, float f, uint16_t infinite, value value_of) {
    const uint16_t magnitude = h & 0x7fff;
    const double x = std::fabs(static_cast<double>(f)), at = value_of(magnitude);
    if (magnitude > infinite || std::signbit(f) != (h >> 15 != 0)) return false;
    if (magnitude > 0) {
        const double middle = (value_of(static_cast<uint16_t>(magnitude - 1)) + at) / 2;
        if (x < middle || (x == middle && (magnitude & 1))) return false;
    }
    if (magnitude < infinite) {
        const double middle = (at + value_of(static_cast<uint16_t>(magnitude + 1))) / 2;
        if (x > middle || (x == middle && (magnitude & 1))) return false;
    }
    return true;
}

struct generator {  // xorshift64*, so that the numbers are the same everywhere
    uint64_t state = 0x9E3779B97F4A7C15u;
    uint64_t next() {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        return state * 0x2545F4914F6CDD1Du;
    }
};

// Floats around every f16: its value, the midpoint to the next, and the f32 neighbours of both.
std::vector<float> around_f16() {
    std::vector<float> out;
    for (uint32_t h = 0; h <= 0x7c00; ++h) {
        const auto at = static_cast<float>(f16_value(static_cast<uint16_t>(h)));
        const auto middle = static_cast<float>(
            (f16_value(static_cast<uint16_t>(h)) + f16_value(static_cast<uint16_t>(h + 1))) / 2);
        for (const float f : {at, middle})
            for (const float near : {f, std::nextafterf(f, infinity), std::nextafterf(f, 0.0f)}) {
                out.push_back(near);
                out.push_back(-near);
            }
    }
    return out;
}

std::vector<uint8_t> encode(format f, const std::vector<float> &x) {
    std::vector<uint8_t> out(row_bytes(f, x.size()));
    encode_row(f, x.data(), out.data(), x.size());
    return out;
}
std::vector<float> decode(format f, const std::vector<uint8_t> &bytes, size_t n) {
    std::vector<float> out(n);
    decode_row(f, bytes.data(), out.data(), n);
    return out;
}

}  // namespace

TEST_CASE("formats: the table") {
    std::set<uint32_t> ids;
    std::set<std::string> texts;
    for (int i = 0; i < static_cast<int>(format::count); ++i) {
        const auto f = static_cast<format>(i);
        const format_info &row = info(f);
        ids.insert(row.gguf_id);
        texts.insert(row.text);
        format found = format::count;
        CHECK(format_from_gguf(row.gguf_id, &found));
        CHECK(found == f);
        CHECK(format_from_text(row.text, &found));
        CHECK(found == f);
        CHECK(row.block > 0);
        CHECK(row.bytes > 0);
    }
    CHECK(ids.size() == static_cast<size_t>(format::count));
    CHECK(texts.size() == static_cast<size_t>(format::count));
    format untouched = format::f16;
    for (const uint32_t id : {4u, 5u, 31u, 36u, 40u, 0xffffffffu}) CHECK(!format_from_gguf(id, &untouched));
    for (const char *text : {"", "q8", "Q8_0", "f32 ", "float"}) CHECK(!format_from_text(text, &untouched));
    CHECK(untouched == format::f16);
    std::string running;
    for (int i = 0; i < static_cast<int>(format::count); ++i) {
        const format_info &row = info(static_cast<format>(i));
        if (row.runs) running += (running.empty() ? "" : ", ") + std::string(row.text);
    }
    CHECK(formats_that_run() == running);
    CHECK(row_bytes(format::f32, 7) == 28);
    CHECK(row_bytes(format::bf16, 7) == 14);
    CHECK(row_bytes(format::q8_0, 96) == 102);
    CHECK(row_bytes(format::q4_k, 512) == 288);
}

TEST_CASE("formats: every f16 decodes to its value and encodes back to itself") {
    int wrong = 0;
    for (uint32_t h = 0; h < 65536; ++h) {
        const auto half = static_cast<uint16_t>(h);
        const float f = f16_to_f32(half);
        if ((h & 0x7c00) != 0x7c00) {
            wrong += static_cast<double>(f) != f16_value(half) || std::signbit(f) != (h >> 15 != 0) ||
                     f32_to_f16(f) != half;
        } else if ((h & 0x3ff) == 0) {
            wrong += f != (h & 0x8000 ? -infinity : infinity) || f32_to_f16(f) != half;
        } else {
            wrong += !std::isnan(f) || (f32_to_f16(f) & 0x7fff) != ((h & 0x7fff) | 0x200);
        }
    }
    CHECK(wrong == 0);
    CHECK(f16_to_f32(0x3c00) == 1.0f);
    CHECK(f16_to_f32(0x7bff) == 65504.0f);
    CHECK(f16_to_f32(0x0001) == 0x1p-24f);
}

TEST_CASE("formats: f32 to f16 rounds to the nearest, ties to even") {
    int wrong = 0;
    for (const float f : around_f16()) wrong += !nearest_even(f32_to_f16(f), f, 0x7c00, f16_value);
    generator g;
    for (int i = 0; i < 500000; ++i) {
        const auto f = from_bits(static_cast<uint32_t>(g.next() >> 32));
        if (!std::isnan(f)) wrong += !nearest_even(f32_to_f16(f), f, 0x7c00, f16_value);
        else wrong += (f32_to_f16(f) & 0x7fff) <= 0x7c00;
    }
    CHECK(wrong == 0);
    CHECK(f32_to_f16(65519.996f) == 0x7bff);
    CHECK(f32_to_f16(65520.0f) == 0x7c00);
    CHECK(f32_to_f16(-1e30f) == 0xfc00);
    CHECK(f32_to_f16(infinity) == 0x7c00);
    // half of the smallest denormal: a tie, to even, which is zero
    CHECK(f32_to_f16(0x1p-25f) == 0x0000);
    CHECK(f32_to_f16(std::nextafterf(0x1p-25f, 1.0f)) == 0x0001);
    CHECK(f32_to_f16(-0.0f) == 0x8000);
    // a NaN whose payload f16 cannot hold stays a NaN
    CHECK(f32_to_f16(from_bits(0x7f800001u)) == 0x7e00);
}

#if defined(__FLT16_MAX__) || defined(__aarch64__)
TEST_CASE("formats: f16 as the compiler has it") {
#if defined(__aarch64__)  // where GCC 12's C++ does not know the other name
    using compilers = __fp16;
#else
    using compilers = _Float16;
#endif
    int wrong = 0;
    const auto same = [](float f) {
        return std::bit_cast<uint16_t>(static_cast<compilers>(f)) == f32_to_f16(f);
    };
    for (const float f : around_f16()) wrong += !same(f);
    generator g;
    for (int i = 0; i < 500000; ++i) {
        const auto f = from_bits(static_cast<uint32_t>(g.next() >> 32));
        if (!std::isnan(f)) wrong += !same(f);
    }
    CHECK(wrong == 0);
}
#endif

TEST_CASE("formats: bf16") {
    int wrong = 0;
    for (uint32_t h = 0; h < 65536; ++h) {
        const auto half = static_cast<uint16_t>(h);
        const float f = bf16_to_f32(half);
        if (std::isnan(f)) wrong += (f32_to_bf16(f) & 0x7fff) != ((h & 0x7fff) | 0x40);
        else
            wrong +=
                f32_to_bf16(f) != half || (std::isfinite(f) && static_cast<double>(f) != bf16_value(half));
    }
    generator g;
    for (int i = 0; i < 500000; ++i) {
        const auto f = from_bits(static_cast<uint32_t>(g.next() >> 32));
        if (!std::isnan(f)) wrong += !nearest_even(f32_to_bf16(f), f, 0x7f80, bf16_value);
        else wrong += (f32_to_bf16(f) & 0x7fff) <= 0x7f80;
    }
    for (uint32_t h = 0; h < 0x7f80; ++h)  // every tie
        wrong += f32_to_bf16(from_bits(h << 16 | 0x8000u)) != h + (h & 1);
    CHECK(wrong == 0);
    CHECK(f32_to_bf16(std::numeric_limits<float>::max()) == 0x7f80);
    // its payload is in the half that is dropped
    CHECK((f32_to_bf16(from_bits(0x7f800001u)) & 0x7fff) > 0x7f80);
    CHECK((f32_to_bf16(from_bits(0xffffffffu)) & 0x7fff) > 0x7f80);
}

TEST_CASE("formats: rows of f32, f16 and bf16") {
    const std::vector<float> x = {0.0f, -1.5f, 0.1f, 1e-40f, 65504.0f, -infinity, 3.14159274f};
    const std::vector<float> same = decode(format::f32, encode(format::f32, x), x.size());
    CHECK(memcmp(same.data(), x.data(), 4 * x.size()) == 0);
    const std::vector<uint8_t> halves = encode(format::f16, x), brains = encode(format::bf16, x);
    REQUIRE(halves.size() == 14);
    CHECK(halves[2] == 0x00);  // -1.5 is be00, little endian
    CHECK(halves[3] == 0xbe);
    CHECK(brains[2] == 0xc0);  // -1.5 is bfc0
    CHECK(brains[3] == 0xbf);
    const std::vector<float> h = decode(format::f16, halves, x.size()),
                             b = decode(format::bf16, brains, x.size());
    for (size_t i = 0; i < x.size(); ++i) {
        CHECK(bits(h[i]) == bits(f16_to_f32(f32_to_f16(x[i]))));
        CHECK(bits(b[i]) == bits(bf16_to_f32(f32_to_bf16(x[i]))));
    }
    encode_row(format::f16, nullptr, nullptr, 0);
    decode_row(format::q8_0, nullptr, nullptr, 0);
}

TEST_CASE("formats: a block of q8_0, byte for byte") {
    std::vector<float> x(64);
    // largest magnitude 8: d = 8 / 127
    for (int i = 0; i < 32; ++i) x[static_cast<size_t>(i)] = static_cast<float>(i - 16) * 0.5f;
    // largest magnitude 127: d = 1 exactly
    for (int i = 0; i < 32; ++i) x[static_cast<size_t>(32 + i)] = static_cast<float>(127 - 8 * i);
    const std::vector<uint8_t> out = encode(format::q8_0, x);
    REQUIRE(out.size() == 68);
    // 8 / 127 = 0.0629921; 0x2c08 = 0.06298828, and its neighbours are 0.00006 away
    CHECK(out[0] + 256 * out[1] == 0x2c08);
    CHECK(static_cast<int8_t>(out[2]) == -127);
    CHECK(static_cast<int8_t>(out[2 + 16]) == 0);
    CHECK(static_cast<int8_t>(out[2 + 31]) == 119);  // 7.5 / (8 / 127) = 119.06
    CHECK(static_cast<int8_t>(out[2 + 15]) == -8);   // 0.5 / (8 / 127) = 7.94
    CHECK(out[34] + 256 * out[35] == 0x3c00);
    for (size_t i = 0; i < 32; ++i)
        CHECK(static_cast<int8_t>(out[36 + i]) == static_cast<int>(127 - 8 * static_cast<int>(i)));

    // Ties round away from zero: with d = 1, 0.5 becomes 1 and -2.5 becomes -3.
    std::vector<float> ties(32, 0.0f);
    ties[0] = 127.0f, ties[1] = 0.5f, ties[2] = -0.5f, ties[3] = 2.5f, ties[4] = -2.5f, ties[5] = 0.49f;
    const std::vector<uint8_t> t = encode(format::q8_0, ties);
    const int expected[] = {127, 1, -1, 3, -3, 0, 0};
    for (size_t i = 0; i < 7; ++i) CHECK(static_cast<int8_t>(t[2 + i]) == expected[i]);

    const std::vector<uint8_t> nothing = encode(format::q8_0, std::vector<float>(32, -0.0f));
    for (const uint8_t byte : nothing) CHECK(byte == 0);

    std::vector<uint8_t> block(34, 0);
    block[0] = 0x00, block[1] = 0xb8;  // -0.5
    block[2] = 0x80, block[33] = 3;    // -128 and 3
    const std::vector<float> back = decode(format::q8_0, block, 32);
    CHECK(back[0] == 64.0f);
    CHECK(back[31] == -1.5f);
}

TEST_CASE("formats: q8_0 is within half a step of eight bits") {
    generator g;
    for (int round = 0; round < 200; ++round) {
        std::vector<float> x(256);
        const double size = std::ldexp(1.0, static_cast<int>(g.next() % 24) - 16);
        for (float &f : x)
            f = static_cast<float>((static_cast<double>(g.next() >> 11) / 9007199254740992.0 * 2 - 1) * size);
        const std::vector<float> y = decode(format::q8_0, encode(format::q8_0, x), x.size());
        int far = 0;
        for (size_t i = 0; i < x.size(); ++i) {
            double largest = 0;
            for (size_t j = i / 32 * 32; j < i / 32 * 32 + 32; ++j)
                largest = std::max(largest, std::fabs(static_cast<double>(x[j])));
            // Half a step, plus the rounding of the scale to 11 bits (below 2^-14: to 2^-24) times 127 steps,
            // plus a margin for f32 arithmetic.
            const double step = largest / 127,
                         bound = 0.5 * step + 127 * std::max(step / 2048, 0x1p-25) + 1e-6 * largest;
            far += std::fabs(static_cast<double>(y[i]) - static_cast<double>(x[i])) > bound;
        }
        CHECK(far == 0);
    }
}

TEST_CASE("formats: q8_0 of NaN, infinities and extremes") {
    const auto block_of = [](float special) {
        std::vector<float> x(32, 1.0f);
        x[5] = special;
        return decode(format::q8_0, encode(format::q8_0, x), 32);
    };
    // The block decodes to values that are not finite, which the converter detects. No infinity becomes a
    // finite value.
    for (const float special : {infinity, -infinity, from_bits(0x7fc00000u), from_bits(0xff800001u), 1e30f,
                                -std::numeric_limits<float>::max()})
        CHECK(!std::isfinite(block_of(special)[5]));
    // Below the resolution of the scale: zero or a few steps of it, but finite and of the right sign.
    for (const float tiny : {1e-45f, 1e-38f, 1e-30f, 1e-7f, 5e-6f}) {
        std::vector<float> x(32, tiny);
        x[1] = -tiny;
        const std::vector<float> y = decode(format::q8_0, encode(format::q8_0, x), 32);
        CHECK(std::isfinite(y[0]));
        CHECK(y[0] >= 0.0f);
        CHECK(y[1] == -y[0]);
        CHECK(std::fabs(static_cast<double>(y[0]) - static_cast<double>(tiny)) <=
              127 * 0x1p-25 + 0.01 * static_cast<double>(tiny));
    }
}
