// The definitions of the number formats: the table made of formats.def, and one row of values to and from
// f32. Fast kernels are tested against these, so they are plain and slow. All work is on bits or by single
// IEEE operations: the same result on every machine. blocks.h decodes the packed formats, encode.cpp encodes
// them except Q8_0.
#include "formats.h"

#include "blocks.h"
#include "lanes.h"

#include <algorithm>
#include <bit>
#include <cassert>
#include <cmath>
#include <cstring>
#include <limits>

namespace ds {

static_assert(std::endian::native == std::endian::little, "files and kernels are little endian");

static constexpr bool yes = true, no = false;
static constexpr format_info table[] = {
#define DS_RUNS_yes true
#define DS_RUNS_packed true
#define DS_RUNS_no false
#define DS_FORMAT(name, text, id, block, bytes, runs, writes)                                                \
    {text, id, block, bytes, DS_RUNS_##runs, writes},
#include "formats.def"
#undef DS_FORMAT
};
static constexpr size_t format_count = std::size(table);
static_assert(format_count == static_cast<size_t>(format::count));

const format_info &info(format f) {
    assert(f < format::count);
    return table[static_cast<size_t>(f)];
}

template <class predicate> static bool find_format(format *out, predicate matches) {
    const format_info *found = std::find_if(std::begin(table), std::end(table), matches);
    if (found == std::end(table)) return false;
    *out = static_cast<format>(found - table);
    return true;
}
bool format_from_gguf(uint32_t id, format *out) {
    return find_format(out, [&](const format_info &f) { return f.gguf_id == id; });
}
bool format_from_text(const std::string &text, format *out) {
    return find_format(out, [&](const format_info &f) { return text == f.text; });
}

std::string formats_that_run() {
    std::string list;
    for (const format_info &f : table)
        if (f.runs) list += (list.empty() ? "" : ", ") + std::string(f.text);
    return list;
}

// f16: sign, 5 bits of exponent (bias 15), 10 bits of fraction. f32: sign, 8 (bias 127), 23.
float f16_to_f32(uint16_t h) {
    const uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16;
    const uint32_t exponent = (h >> 10) & 31u, fraction = h & 0x3ffu;
    if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000u | fraction << 13);
    if (exponent == 0) {
        // exact: a subnormal f16 is a normal f32
        const float magnitude = static_cast<float>(fraction) * 0x1p-24f;
        return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(magnitude));
    }
    return std::bit_cast<float>(sign | (exponent + 112) << 23 | fraction << 13);
}

// Drops the low `bits` bits, 1 to 31, rounding to nearest, ties to even. A carry into the exponent gives the
// next value, infinity included.
static uint32_t drop_bits(uint32_t u, uint32_t bits) {
    const uint32_t half = (1u << (bits - 1)) - 1 + ((u >> bits) & 1u);
    return (u + half) >> bits;
}

uint16_t f32_to_f16(float f) {
    const uint32_t u = std::bit_cast<uint32_t>(f), magnitude = u & 0x7fffffffu;
    const uint32_t sign = (u >> 16) & 0x8000u;
    uint32_t h;
    if (magnitude > 0x7f800000u) h = 0x7e00u | ((magnitude >> 13) & 0x3ffu);  // NaN, made quiet
    else if (magnitude >= 0x47800000u) h = 0x7c00u;                           // 65536 and more
    // from 65520 on, the carry gives infinity
    else if (magnitude >= 0x38800000u) h = drop_bits(magnitude - (112u << 23), 13);
    // 2^-25 up to 2^-14: a subnormal, a multiple of 2^-24
    else if (magnitude >= 0x33000000u) {
        const uint32_t exponent = magnitude >> 23;  // 102 to 112
        h = drop_bits((magnitude & 0x7fffffu) | 0x800000u, 126 - exponent);
    } else h = 0;
    return static_cast<uint16_t>(sign | h);
}

uint16_t f32_to_bf16(float f) {
    const uint32_t u = std::bit_cast<uint32_t>(f);
    if ((u & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>(u >> 16 | 0x40u);  // NaN, made quiet
    return static_cast<uint16_t>(drop_bits(u, 16));
}

static constexpr size_t q8_0_block = 32, q8_0_bytes = 34;

template <format f> static void decode_packed(const uint8_t *src, float *dst, size_t n) {
    constexpr size_t block = packed<f>::block;
    for (size_t i = 0; i < n; i += block, src += info(f).bytes) decode_block<f>(src, dst + i);
}

// The largest magnitude, compared by bits, so that a NaN is largest and makes the scale NaN.
static float largest_magnitude(const float *x, size_t n) {
    i4 most = {0, 0, 0, 0};
    size_t i = 0;
    for (; i + 4 <= n; i += 4) {
        const i4 m = (i4)magnitude(load4(x + i));
        most = m > most ? m : most;
    }
    int32_t largest = std::max(std::max(most[0], most[1]), std::max(most[2], most[3]));
    for (; i < n; ++i) largest = std::max(largest, std::bit_cast<int32_t>(std::fabs(x[i])));
    return std::bit_cast<float>(largest);
}

// Four bytes in -127 to 127. NaN becomes 0: a scale may be NaN, or so small that its reciprocal is infinite.
static void put_bytes(v4 q, uint8_t *to) {
    // NOLINTNEXTLINE(misc-redundant-expression): NaN is not equal to itself
    q = q == q ? larger(smaller(q, lanes(127.0f)), lanes(-127.0f)) : lanes(0.0f);
    const i4 k = __builtin_convertvector(q, i4);
    for (int l = 0; l < 4; ++l) to[l] = static_cast<uint8_t>(k[l]);
}

// To the nearest integer, halves away from zero. Magnitudes from 2^22 on stay; they are beyond any level.
static v4 rounded_away(v4 x) {
    const v4 q = nearest(x), rest = x - q;
    const v4 away = q + (rest == 0.5f && x > 0.0f    ? lanes(1.0f)
                         : rest == -0.5f && x < 0.0f ? lanes(-1.0f)
                                                     : lanes(0.0f));
    return magnitude(x) < 0x1p22f ? away : x;
}

// Multiplies by the reciprocal of the scale before that is rounded to f16, as the published encoder does, so
// that files agree byte for byte.
static void encode_q8_0(const float *src, uint8_t *dst, size_t n) {
    for (size_t b = 0; b < n / q8_0_block; ++b, src += q8_0_block, dst += q8_0_bytes) {
        const float d = largest_magnitude(src, q8_0_block) / 127.0f;
        const float inverse = d != 0.0f ? 1.0f / d : 0.0f;
        const uint16_t h = f32_to_f16(d);
        std::memcpy(dst, &h, 2);
        for (size_t i = 0; i < q8_0_block; i += 4)
            put_bytes(rounded_away(load4(src + i) * inverse), dst + 2 + i);
    }
}

template <class convert> static void decode_halves(const uint8_t *src, float *dst, size_t n, convert to_f32) {
    for (size_t i = 0; i < n; ++i) {
        uint16_t h;
        std::memcpy(&h, src + 2 * i, 2);
        dst[i] = to_f32(h);
    }
}
template <class convert>
static void encode_halves(const float *src, uint8_t *dst, size_t n, convert from_f32) {
    for (size_t i = 0; i < n; ++i) {
        const uint16_t h = from_f32(src[i]);
        std::memcpy(dst + 2 * i, &h, 2);
    }
}

void decode_row(format f, const void *src, float *dst, size_t n) {
    assert(n % info(f).block == 0);
    const auto *bytes = static_cast<const uint8_t *>(src);
    switch (f) {
    case format::f32:
        if (n) std::memcpy(dst, bytes, 4 * n);
        break;
    case format::f16: decode_halves(bytes, dst, n, f16_to_f32); break;
    case format::bf16: decode_halves(bytes, dst, n, bf16_to_f32); break;
    case format::i8:
        std::transform(bytes, bytes + n, dst,
                       [](uint8_t b) { return static_cast<float>(static_cast<int8_t>(b)); });
        break;
    default: {
        const bool known = with_packed(f, [&](auto tag) { decode_packed<tag.value>(bytes, dst, n); });
        assert(known && "a format that does not run, or holds integers");
        (void)known;
    }
    }
}

float encode_row_i8(const float *src, int8_t *dst, size_t n) {
    float largest = largest_magnitude(src, n);
    // as for activations in numerics.h; below it 127 / largest may be infinite
    if (largest < 1e-30f) largest = 0.0f;
    const float inverse = largest > 0.0f ? 127.0f / largest : 0.0f;
    auto *const to = reinterpret_cast<uint8_t *>(dst);
    size_t i = 0;
    for (; i + 4 <= n; i += 4) put_bytes(nearest(load4(src + i) * inverse), to + i);
    for (uint8_t last[4]; i < n; ++i) {
        put_bytes(nearest(lanes(src[i] * inverse)), last);
        to[i] = last[0];
    }
    return largest / 127.0f;
}

float magnitude_limit(format f) {
    switch (f) {
    case format::f32:
    case format::i8: return std::numeric_limits<float>::infinity();
    case format::bf16: return 0x1.ffp127f;
    case format::q8_0: return 127.0f * 65520.0f;  // max / 127 is stored as f16
    default: return 65520.0f;                     // from here on f16 rounds to infinity
    }
}

void encode_row(format f, const float *src, void *dst, size_t n, const float *importance) {
    assert(n % info(f).block == 0 && info(f).writes);
    auto *bytes = static_cast<uint8_t *>(dst);
    switch (f) {
    case format::f32:
        if (n) std::memcpy(bytes, src, 4 * n);
        break;
    case format::f16: encode_halves(src, bytes, n, f32_to_f16); break;
    case format::bf16: encode_halves(src, bytes, n, f32_to_bf16); break;
    case format::q8_0: encode_q8_0(src, bytes, n); break;
    default: encode_packed(f, src, bytes, n, importance);
    }
}

}  // namespace ds
