// The arithmetic that must agree to the bit between instruction sets, threads, batch sizes and devices, as C
// expressions for both the CPU's and the CUDA compiler. Vector code elsewhere is tested against these byte
// for byte.
//
// Invariant: floats are combined element by element, or summed in one fixed order that does not depend on how
// the work is divided. Only + - * / sqrt, fma and rint occur, each rounded once as IEEE 754 says. Nothing
// here may be contracted or reassociated.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#ifdef __FAST_MATH__
#error "deepseek's results are defined to the bit: compile without -ffast-math"
#endif
#ifdef __CUDACC__
#define DS_HD __host__ __device__ inline
#else
#define DS_HD inline
#endif

namespace ds {

DS_HD uint32_t bits_of(float f) {
    uint32_t u;
    memcpy(&u, &f, 4);
    return u;
}
DS_HD float float_of(uint32_t u) {
    float f;
    memcpy(&f, &u, 4);
    return f;
}
DS_HD uint64_t bits_of(double f) {
    uint64_t u;
    memcpy(&u, &f, 8);
    return u;
}
DS_HD double double_of(uint64_t u) {
    double f;
    memcpy(&f, &u, 8);
    return f;
}
DS_HD bool finite_f32(float f) { return (bits_of(f) & 0x7f800000u) != 0x7f800000u; }
DS_HD float fma_f32(float a, float b, float c) { return __builtin_fmaf(a, b, c); }

// ---- Sums of floats

// Norms: lane j of 128 takes x[j], x[j + 128], … in order, by fma; then lanes are folded: lane j adds lane j
// + s, for s = 64, 32, …, 1.
constexpr int sum_lanes = 128;

// Products of float matrices: lane j of 16 takes elements j, j + 16, … in order, by fma; then lanes are
// folded, s = 8, 4, 2, 1. (Sixteen, not 128, so that a register tile of several outputs fits.)
constexpr int dot_lanes = 16;

template <int lanes> DS_HD float fold_lanes(float *lane) {
    for (int s = lanes / 2; s > 0; s /= 2)
        for (int j = 0; j < s; ++j) lane[j] = lane[j] + lane[j + s];
    return lane[0];
}
template <int lanes> DS_HD float dot_in_lanes(const float *a, const float *b, size_t n) {
    float lane[lanes] = {};
    for (size_t i = 0; i < n; ++i) lane[i % lanes] = fma_f32(a[i], b[i], lane[i % lanes]);
    return fold_lanes<lanes>(lane);
}

// rms_norm's factor for a row: 1 / sqrt(mean(x^2) + eps); then y = (x * factor) * w.
DS_HD float rms_factor(float sum_of_squares, int64_t n, float eps) {
    return 1.0f / __builtin_sqrtf(sum_of_squares / static_cast<float>(n) + eps);
}

// ---- Packed weights against activations quantized in blocks of the same size (blocks.h)

// Quantizes a block of n activations. a is the largest |x|, compared by bits with the sign cleared, so that
// NaN counts as largest everywhere. a < 1e-30: all zero, scale 0. a not finite: all zero, scale a, so that
// the products become NaN and the request ends with status numeric. Else q = rint(x * (127 / a)), scale = a /
// 127.
DS_HD float quantize_block(const float *x, int8_t *q, int n) {
    uint32_t a = 0;
    for (int i = 0; i < n; ++i) {
        const uint32_t u = bits_of(x[i]) & 0x7fffffffu;
        a = u > a ? u : a;
    }
    const float largest = float_of(a);
    const bool usable = finite_f32(largest) && !(largest < 1e-30f);
    const float inverse = usable ? 127.0f / largest : 0.0f;
    for (int i = 0; i < n; ++i)
        q[i] = usable ? static_cast<int8_t>(__builtin_rintf(x[i] * inverse)) : static_cast<int8_t>(0);
    return !finite_f32(largest) ? largest : usable ? largest / 127.0f : 0.0f;
}
// One output: over the row's blocks in order, from 0, sum = fma(float(int32 product of the block), w_scale *
// x_scale, sum); then + bias. The fixed order makes the bits independent of tiling, of the number of rows and
// of the instruction set.
DS_HD float q8_block_step(int32_t product, float w_scale, float x_scale, float sum) {
    return fma_f32(static_cast<float>(product), w_scale * x_scale, sum);
}

// ---- INT8 weights and activations (W8A8)

// One row of activations (or of keys and values): a is the largest |x|, compared by bits with the sign
// cleared. a < 1e-30: all zero, scale 0. a not finite: all zero, scale a, so that all results become NaN and
// the request ends with status numeric. Else q = rint(x * (levels / a)), scale = a / levels.
struct row_scale {
    float inverse, scale;  // factors to quantize and of the result; inverse 0: all zero
};
DS_HD row_scale row_scale_of(uint32_t largest_bits, float levels) {
    const float a = float_of(largest_bits);
    if (!finite_f32(a)) return {0.0f, a};
    if (a < 1e-30f) return {0.0f, 0.0f};
    return {levels / a, a / levels};
}
DS_HD uint32_t largest_bits(const float *x, size_t n) {
    uint32_t a = 0;
    for (size_t i = 0; i < n; ++i) {
        const uint32_t u = bits_of(x[i]) & 0x7fffffffu;
        a = u > a ? u : a;
    }
    return a;
}
DS_HD int32_t quantize_i8(float x, row_scale s) {
    return s.inverse == 0.0f ? 0 : static_cast<int32_t>(__builtin_rintf(x * s.inverse));
}
constexpr float i8_levels = 127.0f;
// The range of scales of a finite row. A page's exponents and shifts are derived from its scales (below):
// scales from a file that are outside the range are refused on loading. Rows that were not finite have
// infinite or NaN scales, which attention checks for.
constexpr float i8_smallest_scale = 1e-30f / i8_levels, i8_largest_scale = 3.402823466e+38f / i8_levels;
DS_HD bool is_row_scale(float s) {
    return bits_of(s) == 0 || (s >= i8_smallest_scale && s <= i8_largest_scale);
}

// One output: the int32 product over the whole row, then the two scales; then + bias.
DS_HD float i8_output(int32_t product, float w_scale, float x_scale) {
    return (static_cast<float>(product) * w_scale) * x_scale;
}

// Limits of the integer sums, whatever bytes a file has (including -128, which our encoders never write).
// They are checked when a model's tensors are bound, before the tools write, for the engine's context, and in
// every operation's shape rule.
constexpr int64_t i8_most_columns = INT32_MAX / (128 * 127);  // 132,104: of a row of weights
// 1,024: of a head, or a latent, in pages of i8, whose queries have 15 bits
constexpr int64_t i8_most_head = INT32_MAX / (128 * 16383);
// of a sequence in pages of i8: page_total of 64 positions is below 2^47, and a total has 63 bits
constexpr int64_t i8_most_positions = int64_t{1} << 22;

// ---- Mixture of experts: y = shared, then y = fma(weight, expert's output, y) in the order in which the
// router ranks them

// The routers' softmax sums attention_share (below) too. Weights normalised to a sum of 1 are added in the
// order of ranks.

// ---- Exponentials

// 2^f for f in [-0.5, 0.5]: the series of exp(f ln 2) to degree 7, relative error below 6e-9 before rounding.
DS_HD float exp2_poly(float f) {
    float p = 1.5252734e-05f;           // ln2^7 / 7!
    p = fma_f32(p, f, 1.5403530e-04f);  // ln2^6 / 6!
    p = fma_f32(p, f, 1.3333558e-03f);  // ln2^5 / 5!
    p = fma_f32(p, f, 9.6181291e-03f);  // ln2^4 / 4!
    p = fma_f32(p, f, 5.5504109e-02f);  // ln2^3 / 3!
    p = fma_f32(p, f, 2.4022651e-01f);  // ln2^2 / 2!
    p = fma_f32(p, f, 6.9314718e-01f);  // ln2
    return fma_f32(p, f, 1.0f);
}
// p * 2^n by two exact powers of two, so that results below the normal range round once and overflow becomes
// infinity. n in [-252, 252].
DS_HD float scale_exp2(float p, int32_t n) {
    const int32_t half = n >> 1;
    return (p * float_of(static_cast<uint32_t>(half + 127) << 23)) *
           float_of(static_cast<uint32_t>(n - half + 127) << 23);
}
DS_HD float exp2_f32(float x) {
    if (x != x) return x;
    x = x < -152.0f ? -152.0f : x > 130.0f ? 130.0f : x;
    const float n = __builtin_rintf(x);
    return scale_exp2(exp2_poly(x - n), static_cast<int32_t>(n));
}
// exp(x) = 2^(x / ln 2); the quotient's fraction is taken with a two-part 1/ln 2, so that large |x| loses no
// accuracy.
constexpr float log2e_high = 1.44269502f, log2e_low = 1.92596299e-08f;
DS_HD float exp_f32(float x) {
    if (x != x) return x;
    x = x < -105.0f ? -105.0f : x > 90.0f ? 90.0f : x;
    const float n = __builtin_rintf(x * log2e_high);
    const float f = fma_f32(x, log2e_low, fma_f32(x, log2e_high, -n));
    return scale_exp2(exp2_poly(f), static_cast<int32_t>(n));
}
DS_HD float sigmoid_f32(float x) { return 1.0f / (1.0f + exp_f32(-x)); }

// Sampling: a logit's weight relative to the largest one, times 2^40, so that 2^22 of them can be summed in
// int64. factor = 1 / temperature. If a logit's weight is 0, so is that of every smaller one.
constexpr float sampling_one = 1099511627776.0f;
DS_HD int64_t sampling_weight(float logit, float largest, float factor) {
    return static_cast<int64_t>(__builtin_rintf(exp_f32((logit - largest) * factor) * sampling_one));
}

// ---- Gradients

// Products with a matrix in a 16-bit format have both operands in that format, rounded to nearest even, and
// sums in f32, in the same order as others. Of bf16, what is below 2^-56 counts as 0: products are then
// multiples of 2^-126, so that no sum of them is subnormal, which processors' own products of bf16 take for
// 0.
DS_HD float bf16_operand(float x) {
    const uint32_t u = bits_of(x), magnitude = u & 0x7fffffffu;
    const uint32_t nearest = magnitude > 0x7f800000u ? u | 0x400000u : u + 0x7fffu + ((u >> 16) & 1u);
    return float_of(magnitude < (71u << 23) ? 0u : nearest & 0xffff0000u);
}

// rms_norm: t = dy * w, s = the sum of t * x in 128 lanes; dx = t * factor - x * (factor^3 * s / n).
DS_HD float rms_norm_back_scale(float s, int64_t n, float factor) {
    return (s / static_cast<float>(n)) * ((factor * factor) * factor);
}
DS_HD float rms_norm_back_step(float t, float x, float factor, float scale) {
    return fma_f32(-scale, x, t * factor);
}
// Of logits, by the gradients of the log-probability of one of them, and of the entropy: that one gets
// by_log_probability more. log_sum and entropy are the row's, as cross_entropy returns them.
DS_HD float cross_entropy_slope(float logit, float log_sum, float entropy, float by_log_probability,
                                float by_entropy) {
    const float d = logit - log_sum;
    return -(exp_f32(d) * fma_f32(by_entropy, d + entropy, by_log_probability));
}
// An entropy is the sum over the logits, in 16 lanes, of this.
DS_HD float entropy_part(float logit, float log_sum) {
    const float d = logit - log_sum;
    return exp_f32(d) * -d;
}

// ---- The optimizer

// AdamW, element by element: the gradient is multiplied by clip; m and v follow it and its square; the weight
// decays, and moves by m over the root of v.
struct adamw_state {
    float w, m, v;
};
template <class P> DS_HD adamw_state adamw_step(adamw_state s, float gradient, const P &p) {
    const float g = gradient * p.clip;
    s.m = fma_f32(p.beta1, s.m, p.rest1 * g);
    s.v = fma_f32(p.beta2, s.v, (p.rest2 * g) * g);
    const float w = fma_f32(-p.decay, s.w, s.w);
    s.w = w - p.rate * ((s.m * p.bias1) / (__builtin_sqrtf(s.v * p.bias2) + p.epsilon));
    return s;
}

// States as bytes: floats of 4 bits of exponent and, with a sign, 3 of mantissa (m), or without one 4 (the
// root of v), relative to the largest of their block. x is at most 1 in magnitude: it becomes sign, then x *
// 1.875 or x * 1.9375 = 2^(exponent - 15) * 1.mantissa, rounded to nearest, half up; below half of the least
// code, 0. The root of a v above 0 is never 0, for the step divides by it.
template <int mantissa> DS_HD uint32_t state_code(float x) {
    constexpr uint32_t least = (127u - 15u) << mantissa;
    constexpr float whole = 2.0f - 1.0f / static_cast<float>(1 << mantissa);
    const uint32_t u = bits_of(x * whole) + (1u << (22 - mantissa));
    const uint32_t code = u >> (23 - mantissa);
    return code <= least ? 0 : code - least;
}
template <int mantissa> DS_HD float state_value(uint32_t code) {
    constexpr uint32_t least = (127u - 15u) << mantissa;
    constexpr float whole = 2.0f - 1.0f / static_cast<float>(1 << mantissa);
    return code == 0 ? 0.0f : float_of((code + least) << (23 - mantissa)) / whole;
}
DS_HD uint8_t m_code(float x) {
    const uint32_t u = bits_of(x);
    return static_cast<uint8_t>((u >> 31) << 7 | state_code<3>(float_of(u & 0x7fffffffu)));
}
DS_HD float m_value(uint8_t code) {
    const float x = state_value<3>(code & 127u);
    return code & 128 ? -x : x;
}
DS_HD uint8_t v_code(float root) {
    const uint32_t code = state_code<4>(root);
    return static_cast<uint8_t>(code == 0 && root > 0.0f ? 1 : code);
}
DS_HD float v_value(uint8_t code) { return state_value<4>(code); }

// A float as bf16, rounded half up in magnitude, and 16 more bits, which give it back exactly.
struct split_float {
    uint16_t high, low;
};
DS_HD split_float split(float x) {
    const uint32_t u = bits_of(x);
    return {static_cast<uint16_t>((u + 0x8000u) >> 16), static_cast<uint16_t>(u)};
}
DS_HD float joined(split_float s) {
    return float_of((static_cast<uint32_t>(s.high) << 16) +
                    static_cast<uint32_t>(static_cast<int32_t>(static_cast<int16_t>(s.low))));
}

// ---- Attention over float pages

// For one query row and head, over the pages of 64 positions in order, with `seen` positions of the page
// visible (the rest of the last page is not):
//   s_t = (sum over d ascending of fma(q_d, k_td, .)) * (scale * log2 e), M' = max(M, s_t)
//   w_t = exp2(s_t - M'), r = exp2(M - M') (r = 0 for the first page)
//   l = fma(l, r, W), W = fold of 16 lanes, lane j adding w_j, w_(j+16), … (unseen positions count 0)
//   o_d = fma(o_d, r, P_d), P_d = sum over t ascending of fma(w_t, v_td, .) from 0
// and at the end o_d / l. A NaN score makes the row NaN: max is taken as (s > M || s != s) ? s : M.
// Latent pages: the sum of s_t is dot_in_lanes of 16, over the latent and then the rotated part. Keys and
// values made of latents (mla_attention): k_td and v_td are dot_in_lanes of 16 of the latent and a row of
// weights as f32; the rotated part is taken as it is.
// Pages start at fixed positions whatever the chunking, so every split of the work gives these bits.
DS_HD float attention_scale(float scale) { return scale * 1.44269504f; }
DS_HD float attention_max(float m, float s) { return s > m || s != s ? s : m; }

// ---- Attention over INT8 pages

// Keys and queries are Walsh-Hadamard-transformed, head by head, in blocks of the largest power of two that
// divides the head size. q.k changes by a factor of the block size only, and an outlier channel is spread
// over the block. Values are stored as they are.
DS_HD int32_t hadamard_block(int32_t head_size) { return head_size & -head_size; }
DS_HD void hadamard(float *x, int32_t head_size) {
    const int32_t block = hadamard_block(head_size);
    for (int32_t stride = 1; stride < block; stride *= 2)
        for (int32_t i = 0; i < head_size; ++i)
            if (!(i & stride)) {
                const float a = x[i], b = x[i + stride];
                x[i] = a + b;
                x[i + stride] = a - b;
            }
}
// The inverse: the same transform, then an exact division by the block size.
DS_HD void inverse_hadamard(float *x, int32_t head_size) {
    hadamard(x, head_size);
    const float part = 1.0f / static_cast<float>(hadamard_block(head_size));
    for (int32_t i = 0; i < head_size; ++i) x[i] = x[i] * part;
}
// Queries have 15 bits, q = 128 * high + low, two int8 planes: high from -128 to 127, low from 0 to 127.
constexpr float q15_levels = 16383.0f;
DS_HD int32_t plane_high(int32_t q) { return q >> 7; }
DS_HD int32_t plane_low(int32_t q) { return q & 127; }

// score = (float(128 * high.k + low.k) * k_scale) * q_factor, in units of log2; q_factor = (q_scale *
// attention_scale(scale)) / block.
DS_HD float i8_query_factor(float q_scale, float scale, int32_t head_size) {
    return (q_scale * attention_scale(scale)) / static_cast<float>(hadamard_block(head_size));
}
DS_HD float i8_score(int32_t product, float k_scale, float q_factor) {
    return (static_cast<float>(product) * k_scale) * q_factor;
}

// For one query row and head, over the positions that it sees:
//   M = ceil(largest score); E0 = exponent_above(largest v scale)
//   p = exp2(score - M); denominator = sum of rint(p * 2^30)
//   a page of 64 positions: w = p * v_scale, e = page_exponent(largest w), wq = page_weight(w, e)
//   acc_d = sum of wq * v_d (int32), total_d += (int64(acc_d) << 20) >> min(E0 - e, 63)
//   a page whose w are all zero adds nothing
//   out_d = i8_attention_output(total_d, E0, denominator)
// Latent pages: a score is the sum of the latents' and the rotated part's scores, each by its own scales;
// values are the latents as stored (Hadamard-transformed), and out gets inverse_hadamard at the end.
// All sums are of integers, so positions, pages and chunks may be taken in any order.
DS_HD int64_t attention_share(float p) { return static_cast<int64_t>(__builtin_rintf(p * 1073741824.0f)); }
// x >= 0: x < 2^result
DS_HD int32_t exponent_above(float x) { return static_cast<int32_t>(bits_of(x) >> 23) - 126; }
// at least -112, so that page_weight's factor has an exponent of at most 126
DS_HD int32_t page_exponent(float largest) {
    const int32_t e = exponent_above(largest);
    return e < -112 ? -112 : e;
}
// n in [-126, 127]
DS_HD float power_of_two(int32_t n) { return float_of(static_cast<uint32_t>(n + 127) << 23); }
DS_HD int32_t page_weight(float w, int32_t e) {
    const int32_t q = static_cast<int32_t>(__builtin_rintf(w * power_of_two(14 - e)));
    return q < 16383 ? q : 16383;
}
DS_HD int64_t page_total(int32_t acc, int32_t shift) {
    return static_cast<int64_t>(static_cast<uint64_t>(static_cast<int64_t>(acc)) << 20) >>
           (shift < 63 ? shift : 63);
}
DS_HD float i8_attention_output(int64_t total, int32_t e0, int64_t denominator) {
    return scale_exp2(static_cast<float>(total), e0 - 34) /
           (static_cast<float>(denominator) * 9.31322574615478515625e-10f);
}

// ---- Double routines for tables and log-probabilities (libm's last bit differs by version)

DS_HD double exp2_f64(double x) {
    if (x != x) return x;
    if (x < -1074.0) return 0.0;
    if (x > 1023.999) x = 1023.999;
    const double n = __builtin_rint(x), f = (x - n) * 0.69314718055994530942;
    double p = 1.0;
    // the exponential series; |f| <= 0.35, so the rest is below 1e-18
    for (int k = 14; k > 0; --k) p = 1.0 + p * f / k;
    const int32_t i = static_cast<int32_t>(n), half = i >> 1;
    return p * double_of(static_cast<uint64_t>(half + 1023) << 52) *
           double_of(static_cast<uint64_t>(i - half + 1023) << 52);
}
// x > 0 and normal. log2 of the mantissa by the series of 2 atanh((m - 1) / (m + 1)), m in [sqrt(1/2),
// sqrt(2)).
DS_HD double log2_f64(double x) {
    uint64_t u = bits_of(x);
    int32_t e = static_cast<int32_t>(u >> 52) - 1023;
    double m = double_of((u & 0x000fffffffffffffull) | 0x3ff0000000000000ull);
    if (m > 1.41421356237309504880) {
        m = m * 0.5;
        e = e + 1;
    }
    const double t = (m - 1.0) / (m + 1.0), t2 = t * t;
    double s = 0.0;
    for (int k = 23; k > 0; k -= 2) s = 1.0 / k + s * t2;  // |t| <= 0.172, so the rest is below 1e-19
    return e + 2.0 * t * s * 1.44269504088896340736;
}
DS_HD double log_f64(double x) { return log2_f64(x) * 0.69314718055994530942; }
// The logarithm of the sum of exp(logit), from the sum of sampling_weight.
DS_HD double log_sum_of(float largest, int64_t sum) {
    return largest + log_f64(static_cast<double>(sum) / static_cast<double>(sampling_one));
}
DS_HD double pow_f64(double base, double e) { return exp2_f64(e * log2_f64(base)); }

// sine and cosine, |x| < 2^31. The multiple of pi/2 is subtracted in three parts, of 33, 33 and 53 bits, by
// fma: the first difference is exact. Then the two series on [-pi/4, pi/4].
DS_HD void sin_cos_f64(double x, double *sine, double *cosine) {
    const double n = __builtin_rint(x * 0.63661977236758134308);
    double r = __builtin_fma(-n, 1.57079632673412561417, x);
    r = __builtin_fma(-n, 6.07710050630396597660e-11, r);
    r = __builtin_fma(-n, 2.02226624879595063154e-21, r);
    const double r2 = r * r;
    double s = 1.0, c = 1.0;
    for (int k = 16; k > 0; k -= 2) {
        s = 1.0 - s * r2 / (k * (k + 1.0));
        c = 1.0 - c * r2 / (k * (k - 1.0));
    }
    s = s * r;
    const int64_t quarter = static_cast<int64_t>(n) & 3;
    *sine = quarter == 0 ? s : quarter == 1 ? c : quarter == 2 ? -s : -c;
    *cosine = quarter == 0 ? c : quarter == 1 ? -s : quarter == 2 ? -c : s;
}

// ---- Rope

DS_HD float rope_first(float a, float b, float cosine, float sine) { return fma_f32(a, cosine, -(b * sine)); }
DS_HD float rope_second(float a, float b, float cosine, float sine) { return fma_f32(a, sine, b * cosine); }

// The frequency of pair i, scaled; see rope_table_params.
DS_HD double rope_frequency(double base, double factor, int32_t yarn, float low, float high, int32_t rotated,
                            int32_t i) {
    const double f = pow_f64(base, -2.0 * i / rotated);
    if (!yarn) return f / factor;
    const double width = static_cast<double>(high) - low,
                 ramp = (i - static_cast<double>(low)) / (width > 0.001 ? width : 0.001);
    // the share of the division by `factor` that this pair takes
    const double divided = ramp < 0.0 ? 0.0 : ramp > 1.0 ? 1.0 : ramp;
    return f * (1.0 - divided) + f / factor * divided;
}

}  // namespace ds
