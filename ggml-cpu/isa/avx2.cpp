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

#include "w16i_avx2.inl"
constexpr bool packed_unsigned = false;
constexpr size_t packed_vectors = 1;
constexpr int packed_tile_x = 4;

// The empty asm keeps GCC from reassociating a sum of many steps into a tree, which takes more registers than
// there are.
DS_INLINE w16i tile_step(w16i sum, w16i w, w16i x) {
    w16i next(_mm256_add_epi32(sum.lo, _mm256_madd_epi16(w.lo, x.lo)),
              _mm256_add_epi32(sum.hi, _mm256_madd_epi16(w.hi, x.hi)));
    __asm__("" : "+x"(next.lo), "+x"(next.hi));
    return next;
}
DS_INLINE w16i plane_step(w16i sum, w16i w, w16i x) { return tile_step(sum, w, x); }

#include "packed_x86.inl"
#include "packed32_x86.inl"
#include "packed256_x86.inl"
#include "packed_rows_x86.inl"

constexpr size_t i8_vectors = 1, i8_dot_x = 2, i8_streams = 2, i8_few_rows = 8;
DS_INLINE w16i widened(const char *w) {
    const __m256i bytes = bytes32(w);
    return {wide_half(bytes, 0), wide_half(bytes, 1)};
}

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
