// The kernels on AVX2 with FMA and F16C (Intel since Haswell, AMD since Excavator).
// Products of packed formats and I8 widen to int16 where AVX2's unsigned-by-signed byte product would
// saturate.

#include "isa.h"
#include "target.h"

#ifdef DS_X86_KERNELS
#include "../../tensor/numerics.h"

#include <algorithm>
#include <cpuid.h>
#include <immintrin.h>
#include <limits>
#include <type_traits>

DS_TARGET_BEGIN("avx2,fma,f16c")
namespace ds {
namespace avx2 {
namespace {

#include "vec_avx2.inl"
#include "exp_vec.inl"
#include "float.inl"

struct w16i {
    __m256i lo, hi;
    w16i() = default;
    DS_INLINE w16i(__m256i l, __m256i h) : lo(l), hi(h) {}
    DS_INLINE explicit w16i(int32_t x) : lo(_mm256_set1_epi32(x)), hi(lo) {}
    DS_INLINE explicit w16i(const char *p)
        : lo(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(p))),
          hi(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(p + 32))) {}
};
constexpr bool packed_unsigned = false;
constexpr size_t packed_vectors = 1;
constexpr int packed_tile_x = 4;

DS_INLINE v16 to_float(w16i x) { return {_mm256_cvtepi32_ps(x.lo), _mm256_cvtepi32_ps(x.hi)}; }
// The empty asm keeps GCC from reassociating a sum of many steps into a tree, which takes more registers than
// there are.
DS_INLINE w16i tile_step(w16i sum, w16i w, w16i x) {
    w16i next(_mm256_add_epi32(sum.lo, _mm256_madd_epi16(w.lo, x.lo)),
              _mm256_add_epi32(sum.hi, _mm256_madd_epi16(w.hi, x.hi)));
    __asm__("" : "+x"(next.lo), "+x"(next.hi));
    return next;
}
DS_INLINE w16i plane_step(w16i sum, w16i w, w16i x) { return tile_step(sum, w, x); }
[[maybe_unused]] DS_INLINE w16i multiply_add(w16i a, w16i b, w16i c) {
    return {_mm256_add_epi32(_mm256_mullo_epi32(a.lo, b.lo), c.lo),
            _mm256_add_epi32(_mm256_mullo_epi32(a.hi, b.hi), c.hi)};
}

#include "packed_x86.inl"
#include "packed32_x86.inl"
#include "packed256_x86.inl"
#include "packed_rows_x86.inl"

constexpr size_t i8_vectors = 1, i8_dot_x = 2, i8_streams = 2, i8_few_rows = 8;
DS_INLINE w16i widened(const char *w) {
    const __m256i bytes = bytes32(w);
    return {wide_half(bytes, 0), wide_half(bytes, 1)};
}
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
DS_INLINE void transpose16(w16i *r) {  // of 16 x 16 int32
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

#include "i8_x86.inl"

}  // namespace
}  // namespace avx2
}  // namespace ds
DS_TARGET_END

namespace ds {

// __builtin_cpu_supports checks what the operating system saves, too. Not every compiler's knows F16C, which
// uses the same registers as the other two.
static bool available() {
    unsigned a, b, c, d;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}
const isa isa_avx2 = {"avx2", available, &avx2::floats, packed_table<avx2::packed_x86>, &avx2::i8};

}  // namespace ds
#endif
