// Sixteen int32 in one register of AVX-512.

struct w16i {
    __m512i r;
    w16i() = default;
    DS_INLINE w16i(__m512i r) : r(r) {}
    DS_INLINE explicit w16i(int32_t x) : r(_mm512_set1_epi32(x)) {}
    DS_INLINE explicit w16i(const char *p) : r(_mm512_loadu_si512(p)) {}
};
DS_INLINE v16 to_float(w16i x) { return _mm512_cvtepi32_ps(x.r); }
