// Sixteen floats in one register of AVX-512. vec_scalar.inl defines what each function does.

struct v16 {
    __m512 r;
    v16() = default;
    DS_INLINE v16(__m512 x) : r(x) {}
    DS_INLINE v16(float x) : r(_mm512_set1_ps(x)) {}
};

constexpr int attend_rows = 6, dot_rows = 6;
constexpr int attend_vectors(int) { return 4; }
constexpr size_t dot_weights = 4;
constexpr int outer_rows = 12, outer_vectors = 2;

DS_INLINE __mmask16 first_lanes(size_t n) { return static_cast<__mmask16>((1u << n) - 1); }
DS_INLINE __m512 widen_f16(__m256i x) { return _mm512_cvtph_ps(x); }
DS_INLINE __m512 widen_bf16(__m256i x) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
}
DS_INLINE v16 load(const float *p) { return _mm512_loadu_ps(p); }
DS_INLINE v16 load(const half *p) {
    return widen_f16(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(p)));
}
DS_INLINE v16 load(const brain *p) {
    return widen_bf16(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(p)));
}
DS_INLINE v16 load_n(const float *p, size_t n) { return _mm512_maskz_loadu_ps(first_lanes(n), p); }
DS_INLINE v16 load_n(const half *p, size_t n) {
    return widen_f16(_mm256_maskz_loadu_epi16(first_lanes(n), p));
}
DS_INLINE v16 load_n(const brain *p, size_t n) {
    return widen_bf16(_mm256_maskz_loadu_epi16(first_lanes(n), p));
}
DS_INLINE void store(float *p, v16 x) { _mm512_storeu_ps(p, x.r); }
DS_INLINE void store_n(float *p, v16 x, size_t n) { _mm512_mask_storeu_ps(p, first_lanes(n), x.r); }
DS_INLINE __m256i narrow_f16(v16 x) {
    return _mm512_cvtps_ph(x.r, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
DS_INLINE void store_f16(uint16_t *p, v16 x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(p), narrow_f16(x));
}
DS_INLINE void store_f16_n(uint16_t *p, v16 x, size_t n) {
    _mm256_mask_storeu_epi16(p, first_lanes(n), narrow_f16(x));
}

DS_INLINE v16 operator+(v16 a, v16 b) { return _mm512_add_ps(a.r, b.r); }
DS_INLINE v16 operator-(v16 a, v16 b) { return _mm512_sub_ps(a.r, b.r); }
DS_INLINE v16 operator*(v16 a, v16 b) { return _mm512_mul_ps(a.r, b.r); }
DS_INLINE v16 operator/(v16 a, v16 b) { return _mm512_div_ps(a.r, b.r); }
DS_INLINE v16 operator-(v16 a) { return _mm512_xor_ps(a.r, _mm512_set1_ps(-0.0f)); }
DS_INLINE v16 root(v16 a) { return _mm512_sqrt_ps(a.r); }
DS_INLINE v16 fma_f32(v16 a, v16 b, v16 c) { return _mm512_fmadd_ps(a.r, b.r, c.r); }
DS_INLINE v16 keep_n(v16 a, v16 b, size_t n) { return _mm512_mask_blend_ps(first_lanes(n), b.r, a.r); }

DS_INLINE v16 clamped(v16 x, float low, float high) {
    return _mm512_min_ps(_mm512_max_ps(x.r, v16(low).r), v16(high).r);
}
DS_INLINE v16 rounded(v16 x) {
    return _mm512_roundscale_ps(x.r, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
// One rounding, as in scalar's two products by powers of two, of which the first is exact.
DS_INLINE v16 scaled_exp2(v16 p, v16 n) { return _mm512_scalef_ps(p.r, n.r); }
DS_INLINE v16 keep_nan(v16 y, v16 x) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x.r, x.r, _CMP_UNORD_Q), y.r, x.r);
}

DS_INLINE v16 larger(v16 a, v16 b) { return _mm512_max_ps(a.r, b.r); }
DS_INLINE v16 smaller(v16 a, v16 b) { return _mm512_min_ps(a.r, b.r); }
DS_INLINE bool any_nan(v16 x) { return _mm512_cmp_ps_mask(x.r, x.r, _CMP_UNORD_Q) != 0; }
DS_INLINE float largest(v16 x) { return _mm512_reduce_max_ps(x.r); }

// Lanes j and j + s are added for s = 8, 4, 2, 1; four vectors in one call.
DS_INLINE void fold4(const v16 *x, float *y) {
    const __m512 ab =
        _mm512_add_ps(_mm512_shuffle_f32x4(x[0].r, x[1].r, 0x44), _mm512_shuffle_f32x4(x[0].r, x[1].r, 0xee));
    const __m512 cd =
        _mm512_add_ps(_mm512_shuffle_f32x4(x[2].r, x[3].r, 0x44), _mm512_shuffle_f32x4(x[2].r, x[3].r, 0xee));
    // four lanes of each
    __m512 s = _mm512_add_ps(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xdd));
    s = _mm512_add_ps(s, _mm512_permute_ps(s, 0x4e));
    s = _mm512_add_ps(s, _mm512_permute_ps(s, 0xb1));
    const __m512i firsts = _mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
    _mm_storeu_ps(y, _mm512_castps512_ps128(_mm512_permutexvar_ps(firsts, s)));
}
DS_INLINE float fold(v16 x) {
    const __m256 y = _mm256_add_ps(_mm512_castps512_ps256(x.r), _mm512_extractf32x8_ps(x.r, 1));
    const __m128 z = _mm_add_ps(_mm256_castps256_ps128(y), _mm256_extractf128_ps(y, 1)),
                 u = _mm_add_ps(z, _mm_movehl_ps(z, z));
    return _mm_cvtss_f32(_mm_add_ss(u, _mm_movehdup_ps(u)));
}

DS_INLINE void split_pairs(v16 lo, v16 hi, v16 &even, v16 &odd) {
    const __m512i e = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    even.r = _mm512_permutex2var_ps(lo.r, e, hi.r);
    odd.r = _mm512_permutex2var_ps(lo.r, _mm512_add_epi32(e, _mm512_set1_epi32(1)), hi.r);
}
DS_INLINE void join_pairs(v16 even, v16 odd, v16 &lo, v16 &hi) {
    const __m512i l = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    lo.r = _mm512_permutex2var_ps(even.r, l, odd.r);
    hi.r = _mm512_permutex2var_ps(even.r, _mm512_add_epi32(l, _mm512_set1_epi32(8)), odd.r);
}

DS_INLINE v16 load_i32(const int32_t *p) { return _mm512_cvtepi32_ps(_mm512_loadu_si512(p)); }
DS_INLINE void store_narrow(int32_t *p, __m512i x) { _mm512_storeu_si512(p, x); }
DS_INLINE void store_narrow(int16_t *p, __m512i x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(p), _mm512_cvtepi32_epi16(x));
}
DS_INLINE void store_narrow(int8_t *p, __m512i x) {
    _mm_storeu_si128(reinterpret_cast<__m128i *>(p), _mm512_cvtepi32_epi8(x));
}
template <class E> DS_INLINE void store_rounded(E *p, v16 x) { store_narrow(p, _mm512_cvtps_epi32(x.r)); }
template <class E> DS_INLINE void store_planes(E *high, E *low, v16 x) {
    const __m512i q = _mm512_cvtps_epi32(x.r);
    store_narrow(high, _mm512_srai_epi32(q, 7));
    store_narrow(low, _mm512_and_si512(q, _mm512_set1_epi32(127)));
}
DS_INLINE v16 larger_magnitude(v16 a, v16 b) {
    const __m512i unsign = _mm512_set1_epi32(0x7fffffff), x = _mm512_castps_si512(a.r),
                  y = _mm512_castps_si512(b.r);
    return _mm512_castsi512_ps(_mm512_max_epu32(_mm512_and_si512(x, unsign), _mm512_and_si512(y, unsign)));
}
DS_INLINE void add_totals(int64_t *total, const int32_t *acc, int32_t shift) {
    const __m128i left = _mm_cvtsi32_si128(20), right = _mm_cvtsi32_si128(shift < 63 ? shift : 63);
    for (int i = 0; i < 16; i += 8) {
        const __m512i x =
            _mm512_cvtepi32_epi64(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(acc + i)));
        _mm512_storeu_si512(total + i, _mm512_add_epi64(_mm512_loadu_si512(total + i),
                                                        _mm512_sra_epi64(_mm512_sll_epi64(x, left), right)));
    }
}
