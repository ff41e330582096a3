// The kernels on AVX-512 (F, BW, DQ, VL: Intel since Skylake's servers, AMD since Zen 4).

#include "isa.h"
#include "target.h"

#ifdef DS_X86_KERNELS
#include "../../tensor/numerics.h"

#include <algorithm>
#include <immintrin.h>
#include <limits>
#include <type_traits>

DS_TARGET_BEGIN("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")
namespace ds {
namespace avx512 {
namespace {

#include "vec_avx512.inl"
#include "exp_vec.inl"
#include "float.inl"

#include "w16i_avx512.inl"
constexpr bool packed_unsigned = false;
constexpr size_t packed_vectors = 2;
constexpr int packed_tile_x = 6;

// The empty asm keeps GCC from reassociating a sum of many steps into a tree, which takes more registers than
// there are.
DS_INLINE w16i tile_step(w16i sum, w16i w, w16i x) {
    w16i next(_mm512_add_epi32(sum.r, _mm512_madd_epi16(w.r, x.r)));
    __asm__("" : "+v"(next.r));
    return next;
}
DS_INLINE w16i plane_step(w16i sum, w16i w, w16i x) { return tile_step(sum, w, x); }

#include "packed_x86.inl"
#include "packed32_x86.inl"
#include "packed256_x86.inl"
#include "packed_rows_x86.inl"

constexpr size_t i8_vectors = 4, i8_dot_x = 6, i8_streams = 4, i8_few_rows = 20;
DS_INLINE w16i widened(const char *w) {
    return _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(w)));
}

#include "i8_x86.inl"

}  // namespace
}  // namespace avx512
}  // namespace ds
DS_TARGET_END

namespace ds {

static bool available() {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && isa_avx2.available();
}
const float_kernels floats_avx512 = avx512::floats;
static constexpr float_kernels with_bf16() {
    float_kernels f = avx512::floats;
    f.outer = outer_avx512_bf16;
    return f;
}
const float_kernels floats_avx512_bf16 = with_bf16();
const isa isa_avx512 = {"avx512", available, &floats_avx512, packed_table<avx512::packed_x86>, &avx512::i8};

}  // namespace ds
#endif
