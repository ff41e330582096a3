// Sixteen floats in two registers of AVX2 (with FMA and F16C). vec_scalar.inl defines what each function
// does.

struct v16 {
    __m256 lo, hi;
    v16() = default;
    DS_INLINE v16(__m256 l, __m256 h) : lo(l), hi(h) {}
    DS_INLINE v16(float x) : lo(_mm256_set1_ps(x)), hi(lo) {}
};

constexpr int attend_rows = 6, dot_rows = 3;
// the sums then fill the registers
constexpr int attend_vectors(int rows) { return rows == 1 ? 4 : rows <= 3 ? 2 : 1; }
constexpr size_t dot_weights = 2;
constexpr int outer_rows = 6, outer_vectors = 1;

DS_INLINE __m256i mask_of(size_t n) {  // the first n lanes, n at most 8
    alignas(32) static const int32_t edge[16] = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};
    return _mm256_loadu_si256(reinterpret_cast<const __m256i *>(edge + 8 - n));
}
DS_INLINE __m256i low_mask(size_t n) { return mask_of(n < 8 ? n : 8); }
DS_INLINE __m256i high_mask(size_t n) { return mask_of(n < 8 ? 0 : n - 8); }
DS_INLINE __m128i eight(const void *p) { return _mm_loadu_si128(static_cast<const __m128i *>(p)); }
DS_INLINE __m256 widen_bf16(__m128i x) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16));
}

DS_INLINE v16 load(const float *p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
DS_INLINE v16 load(const half *p) { return {_mm256_cvtph_ps(eight(p)), _mm256_cvtph_ps(eight(p + 8))}; }
DS_INLINE v16 load(const brain *p) { return {widen_bf16(eight(p)), widen_bf16(eight(p + 8))}; }
DS_INLINE v16 load_n(const float *p, size_t n) {
    return {_mm256_maskload_ps(p, low_mask(n)),
            n > 8 ? _mm256_maskload_ps(p + 8, high_mask(n)) : _mm256_setzero_ps()};
}
template <class E> DS_INLINE v16 load_n(const E *p, size_t n) {
    E copy[16] = {};
    memcpy(copy, p, n * sizeof(E));
    return load(copy);
}
DS_INLINE void store(float *p, v16 x) {
    _mm256_storeu_ps(p, x.lo);
    _mm256_storeu_ps(p + 8, x.hi);
}
DS_INLINE void store_n(float *p, v16 x, size_t n) {
    _mm256_maskstore_ps(p, low_mask(n), x.lo);
    if (n > 8) _mm256_maskstore_ps(p + 8, high_mask(n), x.hi);
}
DS_INLINE __m128i narrow_f16(__m256 x) {
    return _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
DS_INLINE void store_f16(uint16_t *p, v16 x) {
    _mm_storeu_si128(reinterpret_cast<__m128i *>(p), narrow_f16(x.lo));
    _mm_storeu_si128(reinterpret_cast<__m128i *>(p + 8), narrow_f16(x.hi));
}
DS_INLINE void store_f16_n(uint16_t *p, v16 x, size_t n) {
    uint16_t copy[16];
    store_f16(copy, x);
    memcpy(p, copy, n * sizeof(uint16_t));
}

DS_INLINE v16 operator+(v16 a, v16 b) { return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
DS_INLINE v16 operator-(v16 a, v16 b) { return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)}; }
DS_INLINE v16 operator*(v16 a, v16 b) { return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
DS_INLINE v16 operator/(v16 a, v16 b) { return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)}; }
DS_INLINE v16 operator-(v16 a) {
    return {_mm256_xor_ps(a.lo, _mm256_set1_ps(-0.0f)), _mm256_xor_ps(a.hi, _mm256_set1_ps(-0.0f))};
}
DS_INLINE v16 root(v16 a) { return {_mm256_sqrt_ps(a.lo), _mm256_sqrt_ps(a.hi)}; }
DS_INLINE v16 fma_f32(v16 a, v16 b, v16 c) {
    return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
DS_INLINE __m256 where(__m256i mask, __m256 a, __m256 b) {
    return _mm256_blendv_ps(b, a, _mm256_castsi256_ps(mask));
}
DS_INLINE v16 keep_n(v16 a, v16 b, size_t n) {
    return {where(low_mask(n), a.lo, b.lo), where(high_mask(n), a.hi, b.hi)};
}

DS_INLINE v16 clamped(v16 x, float low, float high) {
    const v16 l(low), h(high);
    return {_mm256_min_ps(_mm256_max_ps(x.lo, l.lo), h.lo), _mm256_min_ps(_mm256_max_ps(x.hi, l.hi), h.hi)};
}
DS_INLINE v16 rounded(v16 x) {
    constexpr int mode = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    return {_mm256_round_ps(x.lo, mode), _mm256_round_ps(x.hi, mode)};
}
DS_INLINE __m256 power_of_two(__m256i n) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
}
DS_INLINE __m256 scaled_exp2(__m256 p, __m256 n) {
    const __m256i whole = _mm256_cvtps_epi32(n), part = _mm256_srai_epi32(whole, 1);
    return _mm256_mul_ps(_mm256_mul_ps(p, power_of_two(part)), power_of_two(_mm256_sub_epi32(whole, part)));
}
DS_INLINE v16 scaled_exp2(v16 p, v16 n) { return {scaled_exp2(p.lo, n.lo), scaled_exp2(p.hi, n.hi)}; }
DS_INLINE __m256 nan_mask(__m256 x) { return _mm256_cmp_ps(x, x, _CMP_UNORD_Q); }
DS_INLINE v16 keep_nan(v16 y, v16 x) {
    return {_mm256_blendv_ps(y.lo, x.lo, nan_mask(x.lo)), _mm256_blendv_ps(y.hi, x.hi, nan_mask(x.hi))};
}

DS_INLINE v16 larger(v16 a, v16 b) { return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)}; }
DS_INLINE v16 smaller(v16 a, v16 b) { return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)}; }
DS_INLINE bool any_nan(v16 x) {
    return _mm256_movemask_ps(_mm256_or_ps(nan_mask(x.lo), nan_mask(x.hi))) != 0;
}
DS_INLINE float largest(v16 x) {
    const __m256 y = _mm256_max_ps(x.lo, x.hi);
    const __m128 z = _mm_max_ps(_mm256_castps256_ps128(y), _mm256_extractf128_ps(y, 1)),
                 u = _mm_max_ps(z, _mm_movehl_ps(z, z));
    return _mm_cvtss_f32(_mm_max_ss(u, _mm_movehdup_ps(u)));
}

// Lanes j and j + s are added for s = 8, 4, 2, 1; four vectors in one call.
DS_INLINE void fold4(const v16 *x, float *y) {
    const __m256 a = _mm256_add_ps(x[0].lo, x[0].hi), b = _mm256_add_ps(x[1].lo, x[1].hi);
    const __m256 c = _mm256_add_ps(x[2].lo, x[2].hi), d = _mm256_add_ps(x[3].lo, x[3].hi);
    // a in the low half, b in the high
    const __m256 ab = _mm256_add_ps(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
    const __m256 cd = _mm256_add_ps(_mm256_permute2f128_ps(c, d, 0x20), _mm256_permute2f128_ps(c, d, 0x31));
    // a a c c | b b d d
    const __m256 acbd = _mm256_add_ps(_mm256_shuffle_ps(ab, cd, 0x44), _mm256_shuffle_ps(ab, cd, 0xee));
    // a . c . | b . d .
    const __m256 s = _mm256_add_ps(acbd, _mm256_permute_ps(acbd, 0xb1));
    const __m128 ac = _mm256_castps256_ps128(s), bd = _mm256_extractf128_ps(s, 1);
    _mm_storeu_ps(y, _mm_unpacklo_ps(_mm_permute_ps(ac, 0x88), _mm_permute_ps(bd, 0x88)));
}
DS_INLINE float fold(v16 x) {
    const __m256 y = _mm256_add_ps(x.lo, x.hi);
    const __m128 z = _mm_add_ps(_mm256_castps256_ps128(y), _mm256_extractf128_ps(y, 1)),
                 u = _mm_add_ps(z, _mm_movehl_ps(z, z));
    return _mm_cvtss_f32(_mm_add_ss(u, _mm_movehdup_ps(u)));
}

DS_INLINE __m256 in_order(__m256 x) {
    return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(x), 0xd8));
}
DS_INLINE void split_pairs(v16 lo, v16 hi, v16 &even, v16 &odd) {
    even = {in_order(_mm256_shuffle_ps(lo.lo, lo.hi, 0x88)), in_order(_mm256_shuffle_ps(hi.lo, hi.hi, 0x88))};
    odd = {in_order(_mm256_shuffle_ps(lo.lo, lo.hi, 0xdd)), in_order(_mm256_shuffle_ps(hi.lo, hi.hi, 0xdd))};
}
DS_INLINE v16 zipped(__m256 even, __m256 odd) {
    const __m256 a = _mm256_unpacklo_ps(even, odd), b = _mm256_unpackhi_ps(even, odd);
    return {_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31)};
}
DS_INLINE void join_pairs(v16 even, v16 odd, v16 &lo, v16 &hi) {
    lo = zipped(even.lo, odd.lo);
    hi = zipped(even.hi, odd.hi);
}

DS_INLINE v16 load_i32(const int32_t *p) {
    const __m256i *v = reinterpret_cast<const __m256i *>(p);
    return {_mm256_cvtepi32_ps(_mm256_loadu_si256(v)), _mm256_cvtepi32_ps(_mm256_loadu_si256(v + 1))};
}
DS_INLINE void store_narrow(int32_t *p, __m256i lo, __m256i hi) {
    __m256i *v = reinterpret_cast<__m256i *>(p);
    _mm256_storeu_si256(v, lo);
    _mm256_storeu_si256(v + 1, hi);
}
// For numbers that fit the narrow type.
DS_INLINE void store_narrow(int16_t *p, __m256i lo, __m256i hi) {
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(p),
                        _mm256_permute4x64_epi64(_mm256_packs_epi32(lo, hi), 0xd8));
}
DS_INLINE void store_narrow(int8_t *p, __m256i lo, __m256i hi) {
    const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(lo, hi), 0xd8);
    _mm_storeu_si128(reinterpret_cast<__m128i *>(p),
                     _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
}
template <class E> DS_INLINE void store_rounded(E *p, v16 x) {
    store_narrow(p, _mm256_cvtps_epi32(x.lo), _mm256_cvtps_epi32(x.hi));
}
template <class E> DS_INLINE void store_planes(E *high, E *low, v16 x) {
    const __m256i a = _mm256_cvtps_epi32(x.lo), b = _mm256_cvtps_epi32(x.hi), rest = _mm256_set1_epi32(127);
    store_narrow(high, _mm256_srai_epi32(a, 7), _mm256_srai_epi32(b, 7));
    store_narrow(low, _mm256_and_si256(a, rest), _mm256_and_si256(b, rest));
}
DS_INLINE __m256 larger_magnitude(__m256 a, __m256 b) {
    const __m256i unsign = _mm256_set1_epi32(0x7fffffff), x = _mm256_castps_si256(a),
                  y = _mm256_castps_si256(b);
    return _mm256_castsi256_ps(_mm256_max_epu32(_mm256_and_si256(x, unsign), _mm256_and_si256(y, unsign)));
}
DS_INLINE v16 larger_magnitude(v16 a, v16 b) {
    return {larger_magnitude(a.lo, b.lo), larger_magnitude(a.hi, b.hi)};
}
// AVX2 has no arithmetic right shift of 64 bits: what exceeds the left shift by 20 is shifted right before
// widening.
DS_INLINE void add_totals(int64_t *total, const int32_t *acc, int32_t shift) {
    const __m128i left = _mm_cvtsi32_si128(shift < 20 ? 20 - shift : 0),
                  right = _mm_cvtsi32_si128(shift > 20 ? shift - 20 : 0);
    for (int i = 0; i < 16; i += 4) {
        const __m128i x = _mm_sra_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i *>(acc + i)), right);
        __m256i *to = reinterpret_cast<__m256i *>(total + i);
        _mm256_storeu_si256(
            to, _mm256_add_epi64(_mm256_loadu_si256(to), _mm256_sll_epi64(_mm256_cvtepi32_epi64(x), left)));
    }
}
