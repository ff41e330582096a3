// I8 on AVX-512 with VNNI, and what the packed formats need for theirs; included by avx512_vnni.cpp and
// amx.cpp. VPDPBUSD multiplies unsigned by signed bytes: weights become w + 128 (the sign bit flipped), and
// each sum starts at -128 times the sum of x. All is exact.

#include "vec_avx512.inl"
#include "exp_vec.inl"
#include "w16i_avx512.inl"
constexpr bool packed_unsigned = true;
constexpr size_t packed_vectors = 2;
constexpr int packed_tile_x = 6;

// The empty asm keeps GCC from holding sums in memory.
DS_INLINE w16i tile_step(w16i sum, w16i w, w16i x) {
    w16i next(_mm512_dpbusd_epi32(sum.r, w.r, x.r));
    __asm__("" : "+v"(next.r));
    return next;
}
DS_INLINE w16i plane_step(w16i sum, w16i w, w16i x) { return _mm512_dpwssd_epi32(sum.r, w.r, x.r); }

#include "packed_x86.inl"

constexpr size_t i8_vectors = 4, i8_dot_x = 6, i8_streams = 4, i8_few_rows = 64;
DS_INLINE w16i widened(const char *w) {
    return _mm512_xor_si512(_mm512_loadu_si512(w), _mm512_set1_epi8(-128));
}

#include "i8_x86.inl"
