// Sixteen int32 in two registers of AVX2.

struct w16i {
    __m256i lo, hi;
    w16i() = default;
    DS_INLINE w16i(__m256i l, __m256i h) : lo(l), hi(h) {}
    DS_INLINE explicit w16i(int32_t x) : lo(_mm256_set1_epi32(x)), hi(lo) {}
    DS_INLINE explicit w16i(const char *p)
        : lo(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(p))),
          hi(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(p + 32))) {}
};
DS_INLINE v16 to_float(w16i x) { return {_mm256_cvtepi32_ps(x.lo), _mm256_cvtepi32_ps(x.hi)}; }
DS_INLINE w16i load_sums(const float *y, size_t n) {
    const auto p = reinterpret_cast<const int *>(y);
    return {_mm256_maskload_epi32(p, low_mask(n)),
            n > 8 ? _mm256_maskload_epi32(p + 8, high_mask(n)) : _mm256_setzero_si256()};
}
DS_INLINE void store_sums(float *y, w16i sum, size_t n) {
    const auto p = reinterpret_cast<int *>(y);
    _mm256_maskstore_epi32(p, low_mask(n), sum.lo);
    if (n > 8) _mm256_maskstore_epi32(p + 8, high_mask(n), sum.hi);
}
DS_INLINE void store_ints(int32_t *p, w16i x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(p), x.lo);
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(p + 8), x.hi);
}
DS_INLINE w16i planes_joined(w16i high, w16i low) {
    return {_mm256_add_epi32(_mm256_slli_epi32(high.lo, 7), low.lo),
            _mm256_add_epi32(_mm256_slli_epi32(high.hi, 7), low.hi)};
}
DS_INLINE void transpose8(__m256i *r);  // packed_x86.inl
DS_INLINE void transpose16(w16i *r) {   // of 16 x 16 int32
    __m256i t[4][8];
    for (int i = 0; i < 8; ++i) {
        t[0][i] = r[i].lo;
        t[1][i] = r[8 + i].lo;
        t[2][i] = r[i].hi;
        t[3][i] = r[8 + i].hi;
    }
    for (__m256i *part : t) transpose8(part);
    for (int i = 0; i < 8; ++i) {
        r[i] = {t[0][i], t[1][i]};
        r[8 + i] = {t[2][i], t[3][i]};
    }
}
DS_INLINE __m256i halved(w16i x) { return _mm256_add_epi32(x.lo, x.hi); }
[[maybe_unused]] DS_INLINE w16i multiply_add(w16i a, w16i b, w16i c) {
    return {_mm256_add_epi32(_mm256_mullo_epi32(a.lo, b.lo), c.lo),
            _mm256_add_epi32(_mm256_mullo_epi32(a.hi, b.hi), c.hi)};
}
