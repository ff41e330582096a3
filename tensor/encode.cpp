// Encoding of the packed formats except Q8_0. fit.h searches for scales; here they are rounded to what blocks
// store. In blocks of 256 the scales become integers: each is tried one step up and down, and the float above
// them is refitted.
// Invariant: every search ends with levels chosen against the scales as stored.
#include "fit.h"

namespace ds {

namespace {

void put_half(uint8_t *p, float x) {
    const uint16_t h = f32_to_f16(x);
    memcpy(p, &h, sizeof h);
}
float rounded_to_half(float x) { return f16_to_f32(f32_to_f16(x)); }
v4 rounded_to_half(v4 x) {
    return v4{rounded_to_half(x[0]), rounded_to_half(x[1]), rounded_to_half(x[2]), rounded_to_half(x[3])};
}

// ---- Blocks of 32

void put_nibbles(uint8_t *p, const int8_t *q, int offset) {
    for (int i = 0; i < 16; ++i)
        p[i] = static_cast<uint8_t>(((q[i] + offset) & 15) | (q[i + 16] + offset) << 4);
}
void put_fifth_bits(uint8_t *p, const int8_t *q, int offset) {
    uint32_t bits = 0;
    for (int i = 0; i < 32; ++i) bits |= static_cast<uint32_t>((q[i] + offset) >> 4 & 1) << i;
    memcpy(p, &bits, sizeof bits);
}

// Four blocks before bit packing.
struct four_blocks {
    v4 d, m = lanes(0.0f);
    int8_t q[4][32];
};

template <class G> four_blocks fit_symmetric32(const G &g, range r) {
    four_blocks b;
    b.d = rounded_to_half(fitted_scale(g, r));
    take_levels(g, r, {b.d, b.m}, b.q[0]);
    return b;
}

template <class G> four_blocks fit_line32(const G &g, int high) {
    four_blocks b;
    const lines l = fitted_line(g, high, false);
    b.d = rounded_to_half(l.d), b.m = rounded_to_half(l.m);
    take_levels(g, {0, high}, {b.d, b.m}, b.q[0]);
    return b;
}

// The nearest of iq4_levels; the lower on a tie.
struct iq4_nearest {
    v4 operator()(v4 x) const {
        v4 level = lanes(iq4_levels[0]);
        for (int i = 1; i < 16; ++i) {
            const v4 step = lanes(static_cast<float>(iq4_levels[i] - iq4_levels[i - 1])),
                     middle = lanes(0.5f * static_cast<float>(iq4_levels[i] + iq4_levels[i - 1]));
            level += (v4)((x > middle) & (i4)step);
        }
        return level;
    }
};

template <class G> four_blocks fit_iq4_nl(const G &g) {
    four_blocks b;
    b.d = rounded_to_half(fitted_scale(g, iq4_nearest{}, {-127.0f, 113.0f}, 4.0f, 4));
    const v4 inverse = quotient(lanes(1.0f), b.d);
    for (int i = 0; i < 32; ++i) {
        const v4 level = iq4_nearest{}(g.x[i] * inverse);
        for (int l = 0; l < 4; ++l)
            b.q[l][i] = static_cast<int8_t>(
                std::find(std::begin(iq4_levels), std::end(iq4_levels), static_cast<int8_t>(level[l])) -
                iq4_levels);
    }
    return b;
}

template <class G> four_blocks fit32(format f, const G &g) {
    switch (f) {
    case format::q4_0: return fit_symmetric32(g, {-8, 7});
    case format::q5_0: return fit_symmetric32(g, {-16, 15});
    case format::q4_1: return fit_line32(g, 15);
    case format::q5_1: return fit_line32(g, 31);
    default: return fit_iq4_nl(g);
    }
}

void put_block32(format f, const four_blocks &b, int which, uint8_t *to) {
    const int offset = f == format::q4_0 ? 8 : f == format::q5_0 ? 16 : 0;
    put_half(to, b.d[which]);
    to += 2;
    if (f == format::q4_1 || f == format::q5_1) put_half(to, b.m[which]), to += 2;
    if (f == format::q5_0 || f == format::q5_1) put_fifth_bits(to, b.q[which], offset), to += 4;
    put_nibbles(to, b.q[which], offset);
}

template <bool weighted>
void encode_four(format f, const float *x, const float *weight, int blocks, uint8_t *to) {
    group<32, weighted> g;
    g.load(x, weight, blocks);
    const four_blocks b = fit32(f, g);
    for (int i = 0; i < blocks; ++i) put_block32(f, b, i, to + static_cast<size_t>(i) * info(f).bytes);
}

// ---- Blocks of 256

// A block before bit packing, in parts of `n` elements.
template <int n> struct big_block {
    float d = 0.0f, m = 0.0f;
    int8_t q[256];
    int scale[256 / n], min[256 / n];
};
template <int n, bool weighted> struct big_groups {
    static constexpr int count = 64 / n;
    group<n, weighted> at[count];
    big_groups(const float *x, const float *weight) {
        for (int i = 0; i < count; ++i) at[i].load(x + 4 * n * i, weighted ? weight + 4 * n * i : nullptr);
    }
};

constexpr int tries = 3;  // rounds of fitting the scales and the floats above them

float sum_of(v4 x) { return (x[0] + x[1]) + (x[2] + x[3]); }

// The integer scales near own / d that leave the least error in these parts.
template <class G> v4 best_scales(const G &g, range levels, range scales, float d, v4 own) {
    const v4 near = level(quotient(own, lanes(d)), scales);
    v4 best = near, least = lanes(std::numeric_limits<float>::infinity());
    for (int step = -1; step <= 1; ++step) {
        const v4 s = level(near + static_cast<float>(step), scales),
                 error = take_levels(g, levels, {d * s, lanes(0.0f)}, nullptr);
        best = error < least ? s : best;
        least = smaller(error, least);
    }
    return best;
}

// Takes the scales of all parts; own[i] are those that the parts of group i would have by themselves. Returns
// the error, and the float that fits these scales best.
struct scaled_fit {
    float error, next;
};
template <int n, class G>
scaled_fit fit_scales(const G &groups, range levels, range scales, const v4 *own, big_block<n> &b) {
    v4 error = lanes(0.0f), xq = error, qq = error;
    for (int i = 0; i < G::count; ++i) {
        const v4 s = best_scales(groups.at[i], levels, scales, b.d, own[i]), d = b.d * s;
        error += take_levels(groups.at[i], levels, {d, lanes(0.0f)}, b.q + 4 * n * i);
        const scale_sums sums = sums_of(groups.at[i], even_levels{levels}, quotient(lanes(1.0f), d));
        xq += s * sums.xq;
        qq += s * s * sums.qq;
        for (int l = 0; l < 4; ++l) b.scale[4 * i + l] = static_cast<int>(s[l]);
    }
    const float below = sum_of(qq);
    return {sum_of(error), below > 0 ? sum_of(xq) / below : 0.0f};
}

template <bool weighted>
big_block<16> fit_symmetric256(const float *x, const float *weight, range levels, range scales) {
    const big_groups<16, weighted> groups(x, weight);
    v4 own[4];
    float most = 0.0f;
    for (int i = 0; i < 4; ++i) {
        own[i] = fitted_scale(groups.at[i], levels);
        for (int l = 0; l < 4; ++l)
            if (std::fabs(own[i][l]) > std::fabs(most)) most = own[i][l];
    }
    big_block<16> best{};  // stays if no error is finite
    scaled_fit fit = {std::numeric_limits<float>::infinity(), 0.0f};
    const auto attempt = [&](float d) {
        big_block<16> b;
        b.d = rounded_to_half(d);
        const scaled_fit f = fit_scales(groups, levels, scales, own, b);
        if (!(f.error < fit.error)) return false;
        fit = f, best = b;
        return true;
    };
    for (const int end : {scales.low, scales.high}) attempt(most / static_cast<float>(end));
    for (int t = 1; t < tries && attempt(fit.next); ++t) {}
    return best;
}

// As best_scales, for scales and minima together, near own / floats.
template <class G> lines best_steps(const G &g, int high, range steps, line floats, lines own) {
    const v4 near = level(quotient(own.d, lanes(floats.d)), steps),
             near_min = level(quotient(own.m, lanes(floats.m)), steps);
    lines best = {near, near_min};
    v4 least = lanes(std::numeric_limits<float>::infinity());
    for (int i = -1; i <= 1; ++i)
        for (int k = -1; k <= 1; ++k) {
            const v4 s = level(near + static_cast<float>(i), steps),
                     m = level(near_min + static_cast<float>(k), steps);
            const v4 error = take_levels(g, {0, high}, {floats.d * s, floats.m * m}, nullptr);
            const i4 better = error < least;
            best = {better ? s : best.d, better ? m : best.m};
            least = smaller(error, least);
        }
    return best;
}

// Least-squares sums for the floats above scales and minima: over all elements, products of x, level times
// scale (l) and minimum (m).
struct big_sums {
    v4 ll, lm, mm, xl, xm;
};
line fitted_floats(const big_sums &s) {
    const double ll = sum_of(s.ll), lm = sum_of(s.lm), mm = sum_of(s.mm), xl = sum_of(s.xl),
                 xm = sum_of(s.xm), determinant = ll * mm - lm * lm;
    if (!(determinant > 1e-6 * ll * mm))  // l and m are nearly proportional
        return {ll > 0 ? static_cast<float>(xl / ll) : 0.0f,
                ll > 0 || mm == 0 ? 0.0f : static_cast<float>(xm / mm)};
    return {static_cast<float>((xl * mm - xm * lm) / determinant),
            static_cast<float>((ll * xm - lm * xl) / determinant)};
}

struct line_fit {
    float error;
    line next;
};
template <int n, class G>
line_fit fit_steps(const G &groups, int high, range steps, const lines *own, big_block<n> &b) {
    v4 error = lanes(0.0f);
    big_sums sums = {error, error, error, error, error};
    for (int i = 0; i < G::count; ++i) {
        const lines k = best_steps(groups.at[i], high, steps, {b.d, b.m}, own[i]), l = {b.d * k.d, b.m * k.m};
        error += take_levels(groups.at[i], {0, high}, l, b.q + 4 * n * i);
        const line_sums s = sums_of(groups.at[i], high, quotient(lanes(1.0f), l.d), l.m, lanes(0.0f));
        sums.ll += k.d * k.d * s.ll;
        sums.lm += k.d * k.m * s.l;
        sums.mm += k.m * k.m * s.w;
        sums.xl += k.d * s.xl;
        sums.xm += k.m * s.x;
        for (int lane = 0; lane < 4; ++lane)
            b.scale[4 * i + lane] = static_cast<int>(k.d[lane]),
                            b.min[4 * i + lane] = static_cast<int>(k.m[lane]);
    }
    return {sum_of(error), fitted_floats(sums)};
}

// Scales and minima are 0 to `last`; the float above the minima is at most 0.
template <int n, bool weighted>
big_block<n> fit_lines256(const float *x, const float *weight, int high, int last) {
    const big_groups<n, weighted> groups(x, weight);
    lines own[64 / n];
    line most = {0.0f, 0.0f};
    for (int i = 0; i < 64 / n; ++i) {
        own[i] = fitted_line(groups.at[i], high, true);
        for (int l = 0; l < 4; ++l) most = {std::max(most.d, own[i].d[l]), std::min(most.m, own[i].m[l])};
    }
    line floats = {rounded_to_half(most.d / static_cast<float>(last)),
                   rounded_to_half(most.m / static_cast<float>(last))};
    big_block<n> best{};
    float least = std::numeric_limits<float>::infinity();
    for (int t = 0; t < tries; ++t) {
        big_block<n> b;
        b.d = floats.d, b.m = floats.m;
        const line_fit fit = fit_steps(groups, high, {0, last}, own, b);
        if (!(fit.error < least)) break;
        least = fit.error, best = b;
        floats = {rounded_to_half(std::max(fit.next.d, 0.0f)), rounded_to_half(std::min(fit.next.m, 0.0f))};
    }
    return best;
}

// Bits `from` and `from` + 1 of each level, laid out as in q2_k, q3_k and q6_k.
void put_pairs(uint8_t *p, const int8_t *q, int offset, int from) {
    for (int i = 0; i < 256; ++i)
        p[i / 128 * 32 + i % 32] |= static_cast<uint8_t>(((q[i] + offset) >> from & 3) << i % 128 / 32 * 2);
}
// Bit `which` of each level: bit j of the 32 bytes for the j-th 32 levels.
void put_bits(uint8_t *p, const int8_t *q, int offset, int which) {
    for (int i = 0; i < 256; ++i) p[i % 32] |= static_cast<uint8_t>(((q[i] + offset) >> which & 1) << i / 32);
}

template <bool weighted> void encode_q2_k(const float *x, const float *weight, uint8_t *to) {
    const big_block<16> b = fit_lines256<16, weighted>(x, weight, 3, 15);
    for (int s = 0; s < 16; ++s) to[s] = static_cast<uint8_t>(b.scale[s] | b.min[s] << 4);
    put_pairs(to + 16, b.q, 0, 0);
    put_half(to + 80, b.d);
    put_half(to + 82, -b.m);
}

template <bool weighted> void encode_q3_k(const float *x, const float *weight, uint8_t *to) {
    const big_block<16> b = fit_symmetric256<weighted>(x, weight, {-4, 3}, {-32, 31});
    put_bits(to, b.q, 4, 2);
    put_pairs(to + 32, b.q, 4, 0);
    for (int s = 0; s < 16; ++s) {
        to[96 + s % 8] |= static_cast<uint8_t>(((b.scale[s] + 32) & 15) << s / 8 * 4);
        to[104 + s % 4] |= static_cast<uint8_t>((b.scale[s] + 32) >> 4 << s / 4 * 2);
    }
    put_half(to + 108, b.d);
}

template <bool weighted> void encode_q45_k(format f, const float *x, const float *weight, uint8_t *to) {
    const big_block<32> b = fit_lines256<32, weighted>(x, weight, f == format::q4_k ? 15 : 31, 63);
    put_half(to, b.d);
    put_half(to + 2, -b.m);
    uint8_t *const scales = to + 4, *const nibbles = to + (f == format::q4_k ? 16 : 48);
    for (int s = 0; s < 4; ++s) {
        scales[s] = static_cast<uint8_t>(b.scale[s] | b.scale[s + 4] >> 4 << 6);
        scales[s + 4] = static_cast<uint8_t>(b.min[s] | b.min[s + 4] >> 4 << 6);
        scales[s + 8] = static_cast<uint8_t>((b.scale[s + 4] & 15) | (b.min[s + 4] & 15) << 4);
    }
    if (f == format::q5_k) put_bits(to + 16, b.q, 0, 4);
    for (int i = 0; i < 256; ++i)
        nibbles[i / 64 * 32 + i % 32] |= static_cast<uint8_t>((b.q[i] & 15) << i % 64 / 32 * 4);
}

template <bool weighted> void encode_q6_k(const float *x, const float *weight, uint8_t *to) {
    const big_block<16> b = fit_symmetric256<weighted>(x, weight, {-32, 31}, {-128, 127});
    for (int i = 0; i < 256; ++i)
        to[i / 128 * 64 + i % 64] |= static_cast<uint8_t>(((b.q[i] + 32) & 15) << i % 128 / 64 * 4);
    put_pairs(to + 128, b.q, 32, 4);
    for (int s = 0; s < 16; ++s) to[192 + s] = static_cast<uint8_t>(static_cast<int8_t>(b.scale[s]));
    put_half(to + 208, b.d);
}

// The offset of a block's d, which becomes NaN if a value is not finite.
size_t scale_offset(format f) {
    return f == format::q2_k ? 80 : f == format::q3_k ? 108 : f == format::q6_k ? 208 : 0;
}

template <bool weighted> void encode_256(format f, const float *x, const float *weight, uint8_t *to) {
    switch (f) {
    case format::q2_k: return encode_q2_k<weighted>(x, weight, to);
    case format::q3_k: return encode_q3_k<weighted>(x, weight, to);
    case format::q4_k:
    case format::q5_k: return encode_q45_k<weighted>(f, x, weight, to);
    default: return encode_q6_k<weighted>(x, weight, to);
    }
}

// Encodes the blocks that are searched together: one of 256, or up to four of 32.
template <bool weighted>
void encode_blocks(format f, const float *x, const float *weight, int blocks, uint8_t *to) {
    if (info(f).block == 256) encode_256<weighted>(f, x, weight, to);
    else encode_four<weighted>(f, x, weight, blocks, to);
}

// The weight of each element of a block, 1 at most. Channels that were never used get little weight, not
// none: they are fitted where that costs no other.
void set_weights(const float *importance, size_t n, float *weight) {
    const float most = *std::max_element(importance, importance + n);
    for (size_t i = 0; i < n; ++i) weight[i] = most > 0.0f ? std::max(importance[i] / most, 1e-6f) : 1.0f;
}

}  // namespace

void encode_packed(format f, const float *src, uint8_t *dst, size_t n, const float *importance) {
    const size_t block = info(f).block, bytes = info(f).bytes, together = block == 256 ? 1 : 4;
    float weight[256];
    for (size_t left = n / block, count; left > 0;
         left -= count, src += count * block, dst += count * bytes) {
        count = std::min(left, together);
        std::fill_n(dst, count * bytes, static_cast<uint8_t>(0));
        for (size_t i = 0; importance && i < count; ++i)
            set_weights(importance + i * block, block, weight + i * block);
        if (importance)
            encode_blocks<true>(f, src, weight, static_cast<int>(count), dst), importance += count * block;
        else encode_blocks<false>(f, src, nullptr, static_cast<int>(count), dst);
        for (size_t i = 0; i < count; ++i)
            if (!std::all_of(src + i * block, src + (i + 1) * block, finite_f32)) {
                std::fill_n(dst + i * bytes, bytes, static_cast<uint8_t>(0));
                put_half(dst + i * bytes + scale_offset(f), std::numeric_limits<float>::quiet_NaN());
            }
    }
}

}  // namespace ds
