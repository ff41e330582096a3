// A piece of 32 elements of a packed block as a lane holds it: eight words of four int8 each, in the order of
// the elements, and two scales and minima, one per 16 elements. The layouts are explained in tensor/blocks.h;
// here they are read a word at a time.
#pragma once

#include "../../tensor/formats.h"
#include "../../tensor/numerics.h"

namespace ds::cuda {

struct packed_piece {
    uint32_t q[8];
    int32_t scale[2], min[2];
};
// Byte offsets of a block's floats d and m; -1: it has none. The formats with blocks of 256 subtract the
// minimum, so m is negated.
struct packed_header {
    int d, m;
};

// Blocks are aligned to 2 bytes only.
DS_HD uint32_t two_bytes(const uint8_t *p) {
    uint16_t h;
    memcpy(&h, __builtin_assume_aligned(p, 2), 2);
    return h;
}
DS_HD uint32_t four_bytes(const uint8_t *p) { return two_bytes(p) | two_bytes(p + 2) << 16; }
// Subtracts n from each of four bytes of 0 to 127.
DS_HD uint32_t each_less(uint32_t w, uint32_t n) {
    return ((w | 0x80808080u) - n * 0x01010101u) ^ 0x80808080u;
}
// Moves the four lowest bits of `bits` to bit 4 of one byte each.
DS_HD uint32_t bits_to_bytes(uint32_t bits) {
    return (bits & 1u) << 4 | (bits & 2u) << 11 | (bits & 4u) << 18 | (bits & 8u) << 25;
}
// Four entries of iq4_levels; the constants are that table's bytes.
DS_HD uint32_t levels_of(uint32_t indices) {
    constexpr uint64_t low = 0xf6eaddcfbfad9881u, high = 0x7159453526190d01u;
    uint32_t w = 0;
    for (int i = 0; i < 4; ++i) {
        const uint32_t at = indices >> 8 * i & 15;
        w |= static_cast<uint32_t>((at < 8 ? low >> 8 * at : high >> 8 * (at - 8)) & 255) << 8 * i;
    }
    return w;
}

template <format f> struct packed_reader;

struct packed_32 {
    static constexpr int block = 32;
    DS_HD static void set(packed_piece &p, int32_t min) {
        p.scale[0] = p.scale[1] = 1, p.min[0] = p.min[1] = min;
    }
    DS_HD static void nibbles(const uint8_t *b, packed_piece &p) {
        for (int i = 0; i < 4; ++i) {
            const uint32_t w = four_bytes(b + 4 * i);
            p.q[i] = w & 0x0f0f0f0fu;
            p.q[i + 4] = w >> 4 & 0x0f0f0f0fu;
        }
    }
    DS_HD static void fifth_bits(const uint8_t *b, packed_piece &p) {
        const uint32_t bits = four_bytes(b);
        for (int i = 0; i < 8; ++i) p.q[i] |= bits_to_bytes(bits >> 4 * i & 15u);
    }
    DS_HD static void less(packed_piece &p, uint32_t n) {
        for (uint32_t &w : p.q) w = each_less(w, n);
    }
};
struct packed_256 {
    static constexpr int block = 256;
};

template <> struct packed_reader<format::q8_0> : packed_32 {
    static constexpr packed_header header = {0, -1};
    DS_HD static packed_piece read(const uint8_t *b, int) {
        packed_piece p;
        set(p, 0);
        for (int i = 0; i < 8; ++i) p.q[i] = four_bytes(b + 2 + 4 * i);
        return p;
    }
};
template <> struct packed_reader<format::q4_0> : packed_32 {
    static constexpr packed_header header = {0, -1};
    DS_HD static packed_piece read(const uint8_t *b, int) {
        packed_piece p;
        set(p, 0);
        nibbles(b + 2, p);
        less(p, 8);
        return p;
    }
};
template <> struct packed_reader<format::q4_1> : packed_32 {
    static constexpr packed_header header = {0, 2};
    DS_HD static packed_piece read(const uint8_t *b, int) {
        packed_piece p;
        set(p, 1);
        nibbles(b + 4, p);
        return p;
    }
};
template <> struct packed_reader<format::q5_0> : packed_32 {
    static constexpr packed_header header = {0, -1};
    DS_HD static packed_piece read(const uint8_t *b, int) {
        packed_piece p;
        set(p, 0);
        nibbles(b + 6, p);
        fifth_bits(b + 2, p);
        less(p, 16);
        return p;
    }
};
template <> struct packed_reader<format::q5_1> : packed_32 {
    static constexpr packed_header header = {0, 2};
    DS_HD static packed_piece read(const uint8_t *b, int) {
        packed_piece p;
        set(p, 1);
        nibbles(b + 8, p);
        fifth_bits(b + 4, p);
        return p;
    }
};
template <> struct packed_reader<format::iq4_nl> : packed_32 {
    static constexpr packed_header header = {0, -1};
    DS_HD static packed_piece read(const uint8_t *b, int) {
        packed_piece p;
        set(p, 0);
        nibbles(b + 2, p);
        for (uint32_t &w : p.q) w = levels_of(w);
        return p;
    }
};

template <> struct packed_reader<format::q2_k> : packed_256 {
    static constexpr packed_header header = {80, 82};
    DS_HD static packed_piece read(const uint8_t *b, int j) {
        packed_piece p;
        for (int i = 0; i < 2; ++i) p.scale[i] = b[2 * j + i] & 15, p.min[i] = b[2 * j + i] >> 4;
        for (int i = 0; i < 8; ++i)
            p.q[i] = four_bytes(b + 16 + j / 4 * 32 + 4 * i) >> j % 4 * 2 & 0x03030303u;
        return p;
    }
};
template <> struct packed_reader<format::q3_k> : packed_256 {
    static constexpr packed_header header = {108, -1};
    DS_HD static packed_piece read(const uint8_t *b, int j) {
        packed_piece p;
        const uint8_t *const c = b + 96;
        for (int i = 0; i < 2; ++i) {
            const int s = 2 * j + i;
            p.scale[i] = ((c[s % 8] >> s / 8 * 4 & 15) | (c[8 + s % 4] >> s / 4 * 2 & 3) << 4) - 32,
            p.min[i] = 0;
        }
        for (int i = 0; i < 8; ++i) {
            const uint32_t low = four_bytes(b + 32 + j / 4 * 32 + 4 * i) >> j % 4 * 2 & 0x03030303u,
                           high = four_bytes(b + 4 * i) >> j & 0x01010101u;
            p.q[i] = each_less(low | high << 2, 4);
        }
        return p;
    }
};
// The 6-bit scale and minimum of piece j out of 12 bytes (q4_k and q5_k).
DS_HD void read_6bit(const uint8_t *s, int j, packed_piece &p) {
    const int scale = j < 4 ? s[j] & 63 : (s[j + 4] & 15) | s[j - 4] >> 6 << 4,
              min = j < 4 ? s[j + 4] & 63 : s[j + 4] >> 4 | s[j] >> 6 << 4;
    p.scale[0] = p.scale[1] = scale, p.min[0] = p.min[1] = min;
}
template <> struct packed_reader<format::q4_k> : packed_256 {
    static constexpr packed_header header = {0, 2};
    DS_HD static packed_piece read(const uint8_t *b, int j) {
        packed_piece p;
        read_6bit(b + 4, j, p);
        for (int i = 0; i < 8; ++i)
            p.q[i] = four_bytes(b + 16 + j / 2 * 32 + 4 * i) >> j % 2 * 4 & 0x0f0f0f0fu;
        return p;
    }
};
template <> struct packed_reader<format::q5_k> : packed_256 {
    static constexpr packed_header header = {0, 2};
    DS_HD static packed_piece read(const uint8_t *b, int j) {
        packed_piece p;
        read_6bit(b + 4, j, p);
        for (int i = 0; i < 8; ++i)
            p.q[i] = (four_bytes(b + 48 + j / 2 * 32 + 4 * i) >> j % 2 * 4 & 0x0f0f0f0fu) |
                     (four_bytes(b + 16 + 4 * i) >> j & 0x01010101u) << 4;
        return p;
    }
};
template <> struct packed_reader<format::q6_k> : packed_256 {
    static constexpr packed_header header = {208, -1};
    DS_HD static packed_piece read(const uint8_t *b, int j) {
        packed_piece p;
        for (int i = 0; i < 2; ++i) p.scale[i] = static_cast<int8_t>(b[192 + 2 * j + i]), p.min[i] = 0;
        for (int i = 0; i < 8; ++i) {
            const uint32_t low =
                four_bytes(b + j / 4 * 64 + j % 2 * 32 + 4 * i) >> j % 4 / 2 * 4 & 0x0f0f0f0fu;
            const uint32_t high = four_bytes(b + 128 + j / 4 * 32 + 4 * i) >> j % 4 * 2 & 0x03030303u;
            p.q[i] = each_less(low | high << 4, 32);
        }
        return p;
    }
};
template <> struct packed_reader<format::iq4_xs> : packed_256 {
    static constexpr packed_header header = {0, -1};
    DS_HD static packed_piece read(const uint8_t *b, int j) {
        packed_piece p;
        p.scale[0] = p.scale[1] =
            ((b[4 + j / 2] >> j % 2 * 4 & 15) | (b[2 + j / 4] >> j % 4 * 2 & 3) << 4) - 32;
        p.min[0] = p.min[1] = 0;
        packed_32::nibbles(b + 8 + 16 * j, p);
        for (uint32_t &w : p.q) w = levels_of(w);
        return p;
    }
};

// Returns fn(tag), tag.value being `f`, for a packed format (formats.def), else -1.
template <format f> struct packed_format { static constexpr format value = f; };
template <class F> int with_packed_format(format f, const F &fn) {
    switch (f) {
#define DS_CASE_no(name)
#define DS_CASE_yes(name)
#define DS_CASE_packed(name)                                                                                 \
    case format::name:                                                                                       \
        return fn(packed_format<format::name>{});
#define DS_FORMAT(name, text, id, block, bytes, runs, writes) DS_CASE_##runs(name)
#include "../../tensor/formats.def"
#undef DS_FORMAT
#undef DS_CASE_no
#undef DS_CASE_yes
#undef DS_CASE_packed
    default: return -1;
    }
}
// Bytes per block, for device code, which cannot read the table of formats.cpp.
template <format f> struct bytes_of;
#define DS_FORMAT(name, text, id, block, bytes, runs, writes)                                                \
    template <> struct bytes_of<format::name> { static constexpr int a_block = bytes; };
#include "../../tensor/formats.def"
#undef DS_FORMAT

}  // namespace ds::cuda
