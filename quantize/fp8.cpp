// FP8 weights to f32: a table of the 256 codes, and one product each. The exact product of a 4-bit and a
// 24-bit significand has 28 bits, so there is one rounding, to nearest even.

#include "fp8.h"

#include <algorithm>
#include <array>
#include <limits>

namespace ds {

namespace {

constexpr std::array<float, 256> make_codes() {
    std::array<float, 256> out{};
    for (unsigned code = 0; code < 256; ++code) {
        const unsigned exponent = code >> 3 & 15, mantissa = code & 7;
        // 2^-9 is the least subnormal
        float x = static_cast<float>(exponent ? 8 + mantissa : mantissa) / 512.0f;
        for (unsigned e = 1; e < exponent; ++e) x *= 2;
        if ((code & 0x7f) == 0x7f) x = std::numeric_limits<float>::quiet_NaN();
        out[code] = code & 0x80 ? -x : x;
    }
    return out;
}
constexpr std::array<float, 256> codes_as_f32 = make_codes();

}  // namespace

float e4m3_to_f32(uint8_t code) { return codes_as_f32[code]; }

float e4m3_scales::at(int64_t row, int64_t column) const {
    float out;
    const int64_t i = row / block_rows * columns + column / block_columns;
    ds::decode_row(type, data + static_cast<uint64_t>(i) * row_bytes(type, 1), &out, 1);
    return out;
}

std::string e4m3_scales::location(int64_t row, int64_t column) const {
    return where + "[" + std::to_string(row / block_rows) + ", " + std::to_string(column / block_columns) +
           "]";
}

void e4m3_scales::decode_row(const uint8_t *codes, int64_t row, size_t column, float *out, size_t n) const {
    const auto step = static_cast<size_t>(block_columns);
    for (size_t c = column; c < column + n;) {
        const float scale = at(row, static_cast<int64_t>(c));
        for (const size_t last = std::min(column + n, (c / step + 1) * step); c < last; ++c)
            *out++ = codes_as_f32[codes[c]] * scale;
    }
}

}  // namespace ds
