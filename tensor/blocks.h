// The packed formats: unpacking a block into integers and float factors, and the arithmetic of products with
// them. Layouts are ggml's block structs, which GGUF files hold unchanged (ggml/src/ggml-common.h in
// ggml-org/llama.cpp); offsets in bytes, little endian.
//
// Element i of a block is (d * scale[i / 16]) * q[i], plus m * min[i / 16] in a format with minima. Each
// operation rounds once.
#pragma once

#include "formats.h"
#include "numerics.h"

namespace ds {

template <int n> struct levels {
    float d, m;
    int8_t q[n];
    int8_t scale[n / 16], min[n / 16];
};

namespace packed_detail {

inline float half_at(const uint8_t *p) {
    uint16_t h;
    memcpy(&h, p, sizeof h);
    return f16_to_f32(h);
}
template <int n> void set_scales(levels<n> &b, int8_t scale, int8_t min) {
    for (int i = 0; i < n / 16; ++i) b.scale[i] = scale, b.min[i] = min;
}
// 32 elements in 16 bytes: low nibbles are elements 0 to 15, high nibbles 16 to 31.
inline int nibble32(const uint8_t *p, int i) { return i < 16 ? p[i] & 15 : p[i - 16] >> 4; }
inline int bit32(const uint8_t *p, int i) { return p[i / 8] >> i % 8 & 1; }
// 64 elements in 32 bytes: low nibbles first.
inline int nibble64(const uint8_t *p, int i) { return p[i / 64 * 32 + i % 32] >> i % 64 / 32 * 4 & 15; }

// Eight scales and eight minima of 6 bits in 12 bytes, each for 32 elements. Scales 0 to 3 are the lower 6
// bits of bytes 0 to 3, minima 0 to 3 those of bytes 4 to 7. The upper 2 bits of these bytes belong to scales
// and minima 4 to 7, whose lower 4 bits are the nibbles of bytes 8 to 11.
inline void unpack_6bit(const uint8_t *p, int8_t *scale, int8_t *min) {
    for (int s = 0; s < 8; ++s) {
        const int a = s < 4 ? p[s] & 63 : (p[s + 4] & 15) | p[s - 4] >> 6 << 4;
        const int b = s < 4 ? p[s + 4] & 63 : p[s + 4] >> 4 | p[s] >> 6 << 4;
        scale[2 * s] = scale[2 * s + 1] = static_cast<int8_t>(a);
        min[2 * s] = min[2 * s + 1] = static_cast<int8_t>(b);
    }
}

}  // namespace packed_detail

// The sixteen levels of IQ4: denser where weights are more frequent.
constexpr int8_t iq4_levels[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

// packed<format>: elements per block, whether there are minima, and unpack.
template <format f> struct packed;

template <> struct packed<format::q8_0> {  // d, int8 q[32]
    static constexpr int block = 32;
    static constexpr bool minima = false;
    static void unpack(const uint8_t *p, levels<32> &b) {
        b.d = packed_detail::half_at(p), b.m = 0.0f;
        packed_detail::set_scales(b, 1, 0);
        memcpy(b.q, p + 2, 32);
    }
};

template <> struct packed<format::q4_0> {  // d, 16 bytes of nibbles, biased by 8
    static constexpr int block = 32;
    static constexpr bool minima = false;
    static void unpack(const uint8_t *p, levels<32> &b) {
        b.d = packed_detail::half_at(p), b.m = 0.0f;
        packed_detail::set_scales(b, 1, 0);
        for (int i = 0; i < 32; ++i) b.q[i] = static_cast<int8_t>(packed_detail::nibble32(p + 2, i) - 8);
    }
};

template <> struct packed<format::q4_1> {  // d, m, 16 bytes of nibbles
    static constexpr int block = 32;
    static constexpr bool minima = true;
    static void unpack(const uint8_t *p, levels<32> &b) {
        b.d = packed_detail::half_at(p), b.m = packed_detail::half_at(p + 2);
        packed_detail::set_scales(b, 1, 1);
        for (int i = 0; i < 32; ++i) b.q[i] = static_cast<int8_t>(packed_detail::nibble32(p + 4, i));
    }
};

template <> struct packed<format::q5_0> {  // d, 4 bytes of fifth bits, 16 bytes of nibbles, biased by 16
    static constexpr int block = 32;
    static constexpr bool minima = false;
    static void unpack(const uint8_t *p, levels<32> &b) {
        b.d = packed_detail::half_at(p), b.m = 0.0f;
        packed_detail::set_scales(b, 1, 0);
        for (int i = 0; i < 32; ++i)
            b.q[i] = static_cast<int8_t>(
                (packed_detail::nibble32(p + 6, i) | packed_detail::bit32(p + 2, i) << 4) - 16);
    }
};

template <> struct packed<format::q5_1> {  // d, m, 4 bytes of fifth bits, 16 bytes of nibbles
    static constexpr int block = 32;
    static constexpr bool minima = true;
    static void unpack(const uint8_t *p, levels<32> &b) {
        b.d = packed_detail::half_at(p), b.m = packed_detail::half_at(p + 2);
        packed_detail::set_scales(b, 1, 1);
        for (int i = 0; i < 32; ++i)
            b.q[i] =
                static_cast<int8_t>(packed_detail::nibble32(p + 8, i) | packed_detail::bit32(p + 4, i) << 4);
    }
};

template <> struct packed<format::iq4_nl> {  // d, 16 bytes of nibbles, indices into iq4_levels
    static constexpr int block = 32;
    static constexpr bool minima = false;
    static void unpack(const uint8_t *p, levels<32> &b) {
        b.d = packed_detail::half_at(p), b.m = 0.0f;
        packed_detail::set_scales(b, 1, 0);
        for (int i = 0; i < 32; ++i) b.q[i] = iq4_levels[packed_detail::nibble32(p + 2, i)];
    }
};

// Formats of 256 have an integer scale for each 16 or 32 elements. Where two bits of a level are stored
// apart, 128 elements share 32 bytes.
// 16 bytes: a scale and a minimum of 4 bits each; 64 bytes of two bits; d, dmin
template <> struct packed<format::q2_k> {
    static constexpr int block = 256;
    static constexpr bool minima = true;
    static void unpack(const uint8_t *p, levels<256> &b) {
        b.d = packed_detail::half_at(p + 80), b.m = -packed_detail::half_at(p + 82);
        for (int s = 0; s < 16; ++s) b.scale[s] = p[s] & 15, b.min[s] = static_cast<int8_t>(p[s] >> 4);
        for (int i = 0; i < 256; ++i) b.q[i] = p[16 + i / 128 * 32 + i % 32] >> i % 128 / 32 * 2 & 3;
    }
};

// 32 bytes of third bits, bit j of each for the j-th 32 elements; 64 bytes of two bits; scales; d
template <> struct packed<format::q3_k> {
    static constexpr int block = 256;
    static constexpr bool minima = false;
    // Sixteen scales of 6 bits in 12 bytes, biased by 32: the lower 4 bits of scales s and s + 8 share byte
    // s, the upper 2 of scales s, s + 4, s + 8 and s + 12 share byte 8 + s.
    static void unpack(const uint8_t *p, levels<256> &b) {
        b.d = packed_detail::half_at(p + 108), b.m = 0.0f;
        packed_detail::set_scales(b, 0, 0);
        const uint8_t *const c = p + 96;
        for (int s = 0; s < 16; ++s)
            b.scale[s] = static_cast<int8_t>(
                ((c[s % 8] >> s / 8 * 4 & 15) | (c[8 + s % 4] >> s / 4 * 2 & 3) << 4) - 32);
        for (int i = 0; i < 256; ++i)
            b.q[i] = static_cast<int8_t>(
                ((p[32 + i / 128 * 32 + i % 32] >> i % 128 / 32 * 2 & 3) | (p[i % 32] >> i / 32 & 1) << 2) -
                4);
    }
};

template <> struct packed<format::q4_k> {  // d, dmin, scales and minima, 128 bytes of nibbles
    static constexpr int block = 256;
    static constexpr bool minima = true;
    static void unpack(const uint8_t *p, levels<256> &b) {
        b.d = packed_detail::half_at(p), b.m = -packed_detail::half_at(p + 2);
        packed_detail::unpack_6bit(p + 4, b.scale, b.min);
        for (int i = 0; i < 256; ++i) b.q[i] = static_cast<int8_t>(packed_detail::nibble64(p + 16, i));
    }
};

// d, dmin, scales and minima, 32 bytes of fifth bits (bit j for the j-th 32 elements), 128 bytes of nibbles
template <> struct packed<format::q5_k> {
    static constexpr int block = 256;
    static constexpr bool minima = true;
    static void unpack(const uint8_t *p, levels<256> &b) {
        b.d = packed_detail::half_at(p), b.m = -packed_detail::half_at(p + 2);
        packed_detail::unpack_6bit(p + 4, b.scale, b.min);
        for (int i = 0; i < 256; ++i)
            b.q[i] =
                static_cast<int8_t>(packed_detail::nibble64(p + 48, i) | (p[16 + i % 32] >> i / 32 & 1) << 4);
    }
};

// 128 bytes of nibbles, 64 of the upper two bits, int8 scale[16], d; biased by 32
template <> struct packed<format::q6_k> {
    static constexpr int block = 256;
    static constexpr bool minima = false;
    // 128 elements at a time: the low nibbles of 64 bytes, then the high ones; two bits as in q2_k.
    static void unpack(const uint8_t *p, levels<256> &b) {
        b.d = packed_detail::half_at(p + 208), b.m = 0.0f;
        packed_detail::set_scales(b, 0, 0);
        memcpy(b.scale, p + 192, 16);
        for (int i = 0; i < 256; ++i) {
            const int low = p[i / 128 * 64 + i % 64] >> i % 128 / 64 * 4 & 15,
                      high = p[128 + i / 128 * 32 + i % 32] >> i % 128 / 32 * 2 & 3;
            b.q[i] = static_cast<int8_t>((low | high << 4) - 32);
        }
    }
};

// d; 2 bytes: the scales' upper two bits; 4 bytes: their lower four; 128 bytes of nibbles, 16 for each 32
// elements
template <> struct packed<format::iq4_xs> {
    static constexpr int block = 256;
    static constexpr bool minima = false;
    static void unpack(const uint8_t *p, levels<256> &b) {
        b.d = packed_detail::half_at(p), b.m = 0.0f;
        packed_detail::set_scales(b, 0, 0);
        for (int s = 0; s < 8; ++s) {
            const int scale = (p[4 + s / 2] >> s % 2 * 4 & 15) | (p[2 + s / 4] >> s % 4 * 2 & 3) << 4;
            b.scale[2 * s] = b.scale[2 * s + 1] = static_cast<int8_t>(scale - 32);
        }
        for (int i = 0; i < 256; ++i)
            b.q[i] = iq4_levels[packed_detail::nibble32(p + 8 + i / 32 * 16, i % 32)];
    }
};

// A block's elements as floats.
template <format f> void decode_block(const uint8_t *p, float *out) {
    constexpr int n = packed<f>::block;
    levels<n> b;
    packed<f>::unpack(p, b);
    for (int i = 0; i < n; ++i) {
        const float x = (b.d * b.scale[i / 16]) * b.q[i];
        out[i] = packed<f>::minima ? x + b.m * b.min[i / 16] : x;
    }
}

// encode_row for the packed formats except q8_0
void encode_packed(format f, const float *src, uint8_t *dst, size_t n, const float *importance);

// ---- Products: activations are quantized in blocks of the weights' size, 32 or 256

// Integer sums over one block: of scale * q * x, and of min * x. They cannot overflow: 256 * 128 * 128 * 127
// < 2^31.
struct block_sums {
    int32_t scaled, min;
};
template <int n> block_sums multiply_block(const levels<n> &w, const int8_t *x) {
    block_sums s = {0, 0};
    for (int i = 0; i < n; ++i) {
        s.scaled += w.scale[i / 16] * w.q[i] * x[i];
        s.min += w.min[i / 16] * x[i];
    }
    return s;
}
// One block's step in an output, which starts from 0 and takes the row's blocks in order: q8_block_step of
// the scaled sum, then, in a format with minima, of the minima's sum.
template <format f> float block_step(const uint8_t *w, const int8_t *x, float x_scale, float sum) {
    levels<packed<f>::block> b;
    packed<f>::unpack(w, b);
    const block_sums s = multiply_block(b, x);
    sum = q8_block_step(s.scaled, b.d, x_scale, sum);
    return packed<f>::minima ? q8_block_step(s.min, b.m, x_scale, sum) : sum;
}

// Calls fn(packed_tag<f>{}) if f is packed; otherwise returns false.
template <format f> struct packed_tag { static constexpr format value = f; };
template <class F> bool with_packed(format f, const F &fn) {
    switch (f) {
#define DS_CASE_no(name)
#define DS_CASE_yes(name)
#define DS_CASE_packed(name)                                                                                 \
    case format::name:                                                                                       \
        fn(packed_tag<format::name>{});                                                                      \
        return true;
#define DS_FORMAT(name, text, id, block, bytes, runs, writes) DS_CASE_##runs(name)
#include "formats.def"
#undef DS_FORMAT
#undef DS_CASE_no
#undef DS_CASE_yes
#undef DS_CASE_packed
    default: return false;
    }
}
inline bool is_packed(format f) {
    return with_packed(f, [](auto) {});
}

}  // namespace ds
