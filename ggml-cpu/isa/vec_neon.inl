// Sixteen floats in four registers of NEON. vec_scalar.inl defines what each function does.

struct v16 {
    float32x4_t a, b, c, d;
    v16() = default;
    DS_INLINE v16(float32x4_t x, float32x4_t y, float32x4_t z, float32x4_t w) : a(x), b(y), c(z), d(w) {}
    DS_INLINE v16(float x) : a(vdupq_n_f32(x)), b(a), c(a), d(a) {}
};

constexpr int attend_rows = 6, dot_rows = 2;
// the sums then fill the registers
constexpr int attend_vectors(int rows) { return rows == 1 ? 4 : rows == 2 ? 2 : 1; }
constexpr size_t dot_weights = 2;
constexpr int outer_rows = 6, outer_vectors = 1;

DS_INLINE float32x4_t widen_f16(const half *p) {
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(&p->bits)));
}
DS_INLINE float32x4_t widen_bf16(const brain *p) {
    return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(&p->bits), 16));
}

DS_INLINE v16 load(const float *p) {
    return {vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12)};
}
DS_INLINE v16 load(const half *p) {
    return {widen_f16(p), widen_f16(p + 4), widen_f16(p + 8), widen_f16(p + 12)};
}
DS_INLINE v16 load(const brain *p) {
    return {widen_bf16(p), widen_bf16(p + 4), widen_bf16(p + 8), widen_bf16(p + 12)};
}
template <class E> DS_INLINE v16 load_n(const E *p, size_t n) {
    E copy[16] = {};
    memcpy(copy, p, n * sizeof(E));
    return load(copy);
}
DS_INLINE void store(float *p, v16 x) {
    vst1q_f32(p, x.a);
    vst1q_f32(p + 4, x.b);
    vst1q_f32(p + 8, x.c);
    vst1q_f32(p + 12, x.d);
}
DS_INLINE void store_n(float *p, v16 x, size_t n) {
    float copy[16];
    store(copy, x);
    memcpy(p, copy, n * sizeof(float));
}
DS_INLINE void narrow_f16(uint16_t *p, float32x4_t x) { vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(x))); }
DS_INLINE void store_f16(uint16_t *p, v16 x) {
    narrow_f16(p, x.a);
    narrow_f16(p + 4, x.b);
    narrow_f16(p + 8, x.c);
    narrow_f16(p + 12, x.d);
}
DS_INLINE void store_f16_n(uint16_t *p, v16 x, size_t n) {
    uint16_t copy[16];
    store_f16(copy, x);
    memcpy(p, copy, n * sizeof(uint16_t));
}

DS_INLINE v16 operator+(v16 x, v16 y) {
    return {vaddq_f32(x.a, y.a), vaddq_f32(x.b, y.b), vaddq_f32(x.c, y.c), vaddq_f32(x.d, y.d)};
}
DS_INLINE v16 operator-(v16 x, v16 y) {
    return {vsubq_f32(x.a, y.a), vsubq_f32(x.b, y.b), vsubq_f32(x.c, y.c), vsubq_f32(x.d, y.d)};
}
DS_INLINE v16 operator*(v16 x, v16 y) {
    return {vmulq_f32(x.a, y.a), vmulq_f32(x.b, y.b), vmulq_f32(x.c, y.c), vmulq_f32(x.d, y.d)};
}
DS_INLINE v16 operator/(v16 x, v16 y) {
    return {vdivq_f32(x.a, y.a), vdivq_f32(x.b, y.b), vdivq_f32(x.c, y.c), vdivq_f32(x.d, y.d)};
}
DS_INLINE v16 operator-(v16 x) { return {vnegq_f32(x.a), vnegq_f32(x.b), vnegq_f32(x.c), vnegq_f32(x.d)}; }
DS_INLINE v16 root(v16 x) { return {vsqrtq_f32(x.a), vsqrtq_f32(x.b), vsqrtq_f32(x.c), vsqrtq_f32(x.d)}; }
DS_INLINE v16 fma_f32(v16 x, v16 y, v16 z) {
    return {vfmaq_f32(z.a, x.a, y.a), vfmaq_f32(z.b, x.b, y.b), vfmaq_f32(z.c, x.c, y.c),
            vfmaq_f32(z.d, x.d, y.d)};
}
// Lanes of x whose index, counted from `first`, is below n; else y's.
DS_INLINE float32x4_t keep_below(float32x4_t x, float32x4_t y, uint32_t first, size_t n) {
    static const uint32_t index[4] = {0, 1, 2, 3};
    return vbslq_f32(
        vcltq_u32(vaddq_u32(vld1q_u32(index), vdupq_n_u32(first)), vdupq_n_u32(static_cast<uint32_t>(n))), x,
        y);
}
DS_INLINE v16 keep_n(v16 x, v16 y, size_t n) {
    return {keep_below(x.a, y.a, 0, n), keep_below(x.b, y.b, 4, n), keep_below(x.c, y.c, 8, n),
            keep_below(x.d, y.d, 12, n)};
}

DS_INLINE v16 larger(v16 x, v16 y) {
    return {vmaxq_f32(x.a, y.a), vmaxq_f32(x.b, y.b), vmaxq_f32(x.c, y.c), vmaxq_f32(x.d, y.d)};
}
DS_INLINE v16 smaller(v16 x, v16 y) {
    return {vminq_f32(x.a, y.a), vminq_f32(x.b, y.b), vminq_f32(x.c, y.c), vminq_f32(x.d, y.d)};
}
DS_INLINE v16 clamped(v16 x, float low, float high) { return smaller(larger(x, v16(low)), v16(high)); }
DS_INLINE v16 rounded(v16 x) { return {vrndnq_f32(x.a), vrndnq_f32(x.b), vrndnq_f32(x.c), vrndnq_f32(x.d)}; }
DS_INLINE float32x4_t power_of_two(int32x4_t n) {
    return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(n, vdupq_n_s32(127)), 23));
}
DS_INLINE float32x4_t scaled_exp2(float32x4_t p, float32x4_t n) {
    const int32x4_t whole = vcvtnq_s32_f32(n), part = vshrq_n_s32(whole, 1);
    return vmulq_f32(vmulq_f32(p, power_of_two(part)), power_of_two(vsubq_s32(whole, part)));
}
DS_INLINE v16 scaled_exp2(v16 p, v16 n) {
    return {scaled_exp2(p.a, n.a), scaled_exp2(p.b, n.b), scaled_exp2(p.c, n.c), scaled_exp2(p.d, n.d)};
}
DS_INLINE uint32x4_t ordered_mask(float32x4_t x) { return vceqq_f32(x, x); }
DS_INLINE v16 keep_nan(v16 y, v16 x) {
    return {vbslq_f32(ordered_mask(x.a), y.a, x.a), vbslq_f32(ordered_mask(x.b), y.b, x.b),
            vbslq_f32(ordered_mask(x.c), y.c, x.c), vbslq_f32(ordered_mask(x.d), y.d, x.d)};
}
DS_INLINE bool any_nan(v16 x) {
    return vminvq_u32(vandq_u32(vandq_u32(ordered_mask(x.a), ordered_mask(x.b)),
                                vandq_u32(ordered_mask(x.c), ordered_mask(x.d)))) == 0;
}
DS_INLINE float largest(v16 x) { return vmaxvq_f32(vmaxq_f32(vmaxq_f32(x.a, x.b), vmaxq_f32(x.c, x.d))); }

// Lanes j and j + s are added for s = 8, 4, 2, 1; four vectors in one call.
DS_INLINE float32x4_t fold_to_4(v16 x) { return vaddq_f32(vaddq_f32(x.a, x.c), vaddq_f32(x.b, x.d)); }
DS_INLINE float32x4_t fold_to_2(float32x4_t x, float32x4_t y) {
    const float64x2_t u = vreinterpretq_f64_f32(x), v = vreinterpretq_f64_f32(y);
    return vaddq_f32(vreinterpretq_f32_f64(vzip1q_f64(u, v)), vreinterpretq_f32_f64(vzip2q_f64(u, v)));
}
DS_INLINE void fold4(const v16 *x, float *y) {
    vst1q_f32(y, vpaddq_f32(fold_to_2(fold_to_4(x[0]), fold_to_4(x[1])),
                            fold_to_2(fold_to_4(x[2]), fold_to_4(x[3]))));
}
DS_INLINE float fold(v16 x) {
    const float32x4_t y = fold_to_4(x);
    return vpadds_f32(vadd_f32(vget_low_f32(y), vget_high_f32(y)));
}

DS_INLINE void split_pairs(v16 lo, v16 hi, v16 &even, v16 &odd) {
    even = {vuzp1q_f32(lo.a, lo.b), vuzp1q_f32(lo.c, lo.d), vuzp1q_f32(hi.a, hi.b), vuzp1q_f32(hi.c, hi.d)};
    odd = {vuzp2q_f32(lo.a, lo.b), vuzp2q_f32(lo.c, lo.d), vuzp2q_f32(hi.a, hi.b), vuzp2q_f32(hi.c, hi.d)};
}
DS_INLINE void join_pairs(v16 even, v16 odd, v16 &lo, v16 &hi) {
    lo = {vzip1q_f32(even.a, odd.a), vzip2q_f32(even.a, odd.a), vzip1q_f32(even.b, odd.b),
          vzip2q_f32(even.b, odd.b)};
    hi = {vzip1q_f32(even.c, odd.c), vzip2q_f32(even.c, odd.c), vzip1q_f32(even.d, odd.d),
          vzip2q_f32(even.d, odd.d)};
}

DS_INLINE v16 to_float(int32x4_t a, int32x4_t b, int32x4_t c, int32x4_t d) {
    return {vcvtq_f32_s32(a), vcvtq_f32_s32(b), vcvtq_f32_s32(c), vcvtq_f32_s32(d)};
}
DS_INLINE v16 load_i32(const int32_t *p) {
    return to_float(vld1q_s32(p), vld1q_s32(p + 4), vld1q_s32(p + 8), vld1q_s32(p + 12));
}
DS_INLINE void store_rounded(int32_t *p, v16 x) {
    vst1q_s32(p, vcvtnq_s32_f32(x.a));
    vst1q_s32(p + 4, vcvtnq_s32_f32(x.b));
    vst1q_s32(p + 8, vcvtnq_s32_f32(x.c));
    vst1q_s32(p + 12, vcvtnq_s32_f32(x.d));
}
DS_INLINE int8x16_t narrowed(int32x4_t a, int32x4_t b, int32x4_t c, int32x4_t d) {
    return vcombine_s8(vmovn_s16(vcombine_s16(vmovn_s32(a), vmovn_s32(b))),
                       vmovn_s16(vcombine_s16(vmovn_s32(c), vmovn_s32(d))));
}
DS_INLINE void store_rounded(int8_t *p, v16 x) {
    vst1q_s8(p, narrowed(vcvtnq_s32_f32(x.a), vcvtnq_s32_f32(x.b), vcvtnq_s32_f32(x.c), vcvtnq_s32_f32(x.d)));
}
DS_INLINE void store_planes(int8_t *high, int8_t *low, v16 x) {
    const int32x4_t a = vcvtnq_s32_f32(x.a), b = vcvtnq_s32_f32(x.b), c = vcvtnq_s32_f32(x.c),
                    d = vcvtnq_s32_f32(x.d);
    vst1q_s8(high, narrowed(vshrq_n_s32(a, 7), vshrq_n_s32(b, 7), vshrq_n_s32(c, 7), vshrq_n_s32(d, 7)));
    vst1q_s8(low, vandq_s8(narrowed(a, b, c, d), vdupq_n_s8(127)));
}
DS_INLINE float32x4_t larger_magnitude(float32x4_t x, float32x4_t y) {
    const uint32x4_t unsign = vdupq_n_u32(0x7fffffff), u = vreinterpretq_u32_f32(x),
                     v = vreinterpretq_u32_f32(y);
    return vreinterpretq_f32_u32(vmaxq_u32(vandq_u32(u, unsign), vandq_u32(v, unsign)));
}
DS_INLINE v16 larger_magnitude(v16 x, v16 y) {
    return {larger_magnitude(x.a, y.a), larger_magnitude(x.b, y.b), larger_magnitude(x.c, y.c),
            larger_magnitude(x.d, y.d)};
}
DS_INLINE void add_totals(int64_t *total, const int32_t *acc, int32_t shift) {
    // a left shift by a negative count
    const int64x2_t right = vdupq_n_s64(-(shift < 63 ? shift : 63));
    for (int i = 0; i < 16; i += 2) {
        const int64x2_t x = vshlq_n_s64(vmovl_s32(vld1_s32(acc + i)), 20);
        vst1q_s64(total + i, vaddq_s64(vld1q_s64(total + i), vshlq_s64(x, right)));
    }
}
