// Sixteen int32 in one register of AVX-512.

struct w16i {
    __m512i r;
    w16i() = default;
    DS_INLINE w16i(__m512i r) : r(r) {}
    DS_INLINE explicit w16i(int32_t x) : r(_mm512_set1_epi32(x)) {}
    DS_INLINE explicit w16i(const char *p) : r(_mm512_loadu_si512(p)) {}
};
DS_INLINE v16 to_float(w16i x) { return _mm512_cvtepi32_ps(x.r); }
DS_INLINE v16 as_floats(w16i x) { return _mm512_castsi512_ps(x.r); }
DS_INLINE w16i as_ints(v16 x) { return _mm512_castps_si512(x.r); }
DS_INLINE void store_ints(int32_t *p, w16i x) { _mm512_storeu_si512(p, x.r); }
DS_INLINE w16i planes_joined(w16i high, w16i low) { return _mm512_add_epi32(_mm512_slli_epi32(high.r, 7), low.r); }
DS_INLINE __m256i halved(w16i x) { return _mm256_add_epi32(_mm512_castsi512_si256(x.r), _mm512_extracti64x4_epi64(x.r, 1)); }
