// Sixteen int32 in one register of AVX-512.

struct w16i {
    __m512i r;
    w16i() = default;
    DS_INLINE w16i(__m512i x) : r(x) {}
    DS_INLINE explicit w16i(int32_t x) : r(_mm512_set1_epi32(x)) {}
    DS_INLINE explicit w16i(const char *p) : r(_mm512_loadu_si512(p)) {}
};
DS_INLINE v16 to_float(w16i x) { return _mm512_cvtepi32_ps(x.r); }
DS_INLINE w16i load_sums(const float *y, size_t n) { return _mm512_maskz_loadu_epi32(first_lanes(n), y); }
DS_INLINE void store_sums(float *y, w16i sum, size_t n) {
    _mm512_mask_storeu_epi32(y, first_lanes(n), sum.r);
}
DS_INLINE void store_ints(int32_t *p, w16i x) { _mm512_storeu_si512(p, x.r); }
DS_INLINE w16i planes_joined(w16i high, w16i low) {
    return _mm512_add_epi32(_mm512_slli_epi32(high.r, 7), low.r);
}
DS_INLINE w16i multiply_add(w16i a, w16i b, w16i c) {
    return _mm512_add_epi32(_mm512_mullo_epi32(a.r, b.r), c.r);
}
DS_INLINE __m256i halved(w16i x) {
    return _mm256_add_epi32(_mm512_castsi512_si256(x.r), _mm512_extracti64x4_epi64(x.r, 1));
}

// Rows 4q to 4q + 3 of the transpose of 16 x 16 int32. Loads gather the quarters, so that half of the
// shuffles of transpose16 are left.
DS_INLINE void turned_quarter(const int32_t *p, size_t q, w16i *out) {
    __m512i a[4];
    DS_UNROLL for (size_t i = 0; i < 4; ++i) {
        const auto piece = [&](size_t r) {
            return _mm_loadu_si128(reinterpret_cast<const __m128i *>(p + 16 * r + 4 * q));
        };
        a[i] = _mm512_inserti32x4(_mm512_castsi128_si512(piece(i)), piece(i + 4), 1);
        a[i] = _mm512_inserti32x4(_mm512_inserti32x4(a[i], piece(i + 8), 2), piece(i + 12), 3);
    }
    const __m512i low = _mm512_unpacklo_epi32(a[0], a[1]), high = _mm512_unpackhi_epi32(a[0], a[1]),
                  low2 = _mm512_unpacklo_epi32(a[2], a[3]), high2 = _mm512_unpackhi_epi32(a[2], a[3]);
    out[0] = _mm512_unpacklo_epi64(low, low2);
    out[1] = _mm512_unpackhi_epi64(low, low2);
    out[2] = _mm512_unpacklo_epi64(high, high2);
    out[3] = _mm512_unpackhi_epi64(high, high2);
}

// Transposes 16 x 16 int32.
DS_INLINE void transpose16(w16i *r) {
    __m512i t[16], u[16];
    DS_UNROLL for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i].r, r[i + 1].r);
        t[i + 1] = _mm512_unpackhi_epi32(r[i].r, r[i + 1].r);
    }
    // u[i + c]: column c of each quarter, of rows i to i + 3
    DS_UNROLL for (int i = 0; i < 16; i += 4) {
        DS_UNROLL for (int j = 0; j < 2; ++j) {
            u[i + 2 * j] = _mm512_unpacklo_epi64(t[i + j], t[i + j + 2]);
            u[i + 2 * j + 1] = _mm512_unpackhi_epi64(t[i + j], t[i + j + 2]);
        }
    }
    DS_UNROLL for (int c = 0; c < 4; ++c) {
        // quarters 0, 2
        const __m512i a = _mm512_shuffle_i32x4(u[c], u[4 + c], 0x88),
                      b = _mm512_shuffle_i32x4(u[8 + c], u[12 + c], 0x88);
        // quarters 1, 3
        const __m512i d = _mm512_shuffle_i32x4(u[c], u[4 + c], 0xdd),
                      e = _mm512_shuffle_i32x4(u[8 + c], u[12 + c], 0xdd);
        r[c] = _mm512_shuffle_i32x4(a, b, 0x88);
        r[4 + c] = _mm512_shuffle_i32x4(d, e, 0x88);
        r[8 + c] = _mm512_shuffle_i32x4(a, b, 0xdd);
        r[12 + c] = _mm512_shuffle_i32x4(d, e, 0xdd);
    }
}
