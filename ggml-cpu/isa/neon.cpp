// The kernels on aarch64: NEON, which every such processor has, and the byte products of ARMv8.2 (Arm since
// Cortex-A75 and Neoverse N1, Apple since A11). SDOT multiplies signed by signed bytes and wraps, so sums
// start at zero and nothing is widened. One operand may be four bytes of a register, used for all lanes: a
// tile's steps need no broadcasts.

#include "isa.h"
#include "target.h"

#ifdef DS_ARM_KERNELS
#include "../../tensor/numerics.h"
#include "../../tensor/os.h"

#include <algorithm>
#include <arm_neon.h>
#include <limits>

#ifdef __clang__
#define DS_DOTPROD "dotprod"
#else
#define DS_DOTPROD "arch=armv8.2-a+dotprod"
#endif

DS_TARGET_BEGIN(DS_DOTPROD)
namespace ds {
namespace neon {
namespace {

#include "vec_neon.inl"
#include "exp_vec.inl"
#include "float.inl"

// dot_bytes: lane i adds the products of its own four bytes. step<n>: lane i adds those of its four bytes of
// w and the four of x's lane n. In assembler: Clang has the intrinsics for target regions only since version
// 17.
DS_INLINE int32x4_t dot_bytes(int32x4_t sum, int8x16_t w, int8x16_t x) {
    __asm__("sdot %0.4s, %1.16b, %2.16b" : "+w"(sum) : "w"(w), "w"(x));
    return sum;
}
template <int n> DS_INLINE int32x4_t step(int32x4_t sum, int8x16_t w, int8x16_t x) {
    __asm__("sdot %0.4s, %1.16b, %2.4b[%c3]" : "+w"(sum) : "w"(w), "w"(x), "i"(n));
    return sum;
}
DS_INLINE int8x16_t bytes16(const char *p) { return vld1q_s8(reinterpret_cast<const int8_t *>(p)); }

// Lane r of the result is the sum of p[r]'s lanes.
DS_INLINE int32x4_t sum_of_each(const int32x4_t *p) {
    return vpaddq_s32(vpaddq_s32(p[0], p[1]), vpaddq_s32(p[2], p[3]));
}

// Packs sixteen bytes of each of sixteen rows: step s, of 64 bytes, has bytes 4 s to 4 s + 3 of every row.
// Here, those of rows `first` to first + 3.
DS_INLINE void pack4(int8x16_t *r, char *tile, size_t first) {
    int32x4_t t[4];
    for (int i = 0; i < 4; ++i) t[i] = vreinterpretq_s32_s8(r[i]);
    const int32x4_t a = vtrn1q_s32(t[0], t[1]), b = vtrn2q_s32(t[0], t[1]), c = vtrn1q_s32(t[2], t[3]),
                    d = vtrn2q_s32(t[2], t[3]);
    const auto joined = [](int32x4_t x, int32x4_t y, bool high) {
        const int64x2_t u = vreinterpretq_s64_s32(x), v = vreinterpretq_s64_s32(y);
        return vreinterpretq_s32_s64(high ? vtrn2q_s64(u, v) : vtrn1q_s64(u, v));
    };
    int32_t *to = reinterpret_cast<int32_t *>(tile) + first;
    vst1q_s32(to, joined(a, c, false));
    vst1q_s32(to + 16, joined(b, d, false));
    vst1q_s32(to + 32, joined(a, c, true));
    vst1q_s32(to + 48, joined(b, d, true));
}
// Adds the products of such a tile and 16 bytes of each row of x.
template <int n, size_t rows>
DS_INLINE void step16(const char *tile, const int8x16_t *x, int32x4_t (*sum)[4]) {
    DS_UNROLL for (size_t v = 0; v < 4; ++v) {
        const int8x16_t w = bytes16(tile + 64 * n + 16 * v);
        DS_UNROLL for (size_t j = 0; j < rows; ++j) sum[j][v] = step<n>(sum[j][v], w, x[j]);
    }
}
template <size_t rows> DS_INLINE void steps16(const char *tile, const int8x16_t *x, int32x4_t (*sum)[4]) {
    step16<0, rows>(tile, x, sum);
    step16<1, rows>(tile, x, sum);
    step16<2, rows>(tile, x, sum);
    step16<3, rows>(tile, x, sum);
}

// Up to sixteen floats, one per column of a tile.
DS_INLINE v16 load_columns(const float *p, size_t n) { return n < 16 ? load_n(p, n) : load(p); }
DS_INLINE void store_columns(float *p, v16 x, size_t n) {
    if (n < 16) store_n(p, x, n);
    else store(p, x);
}
DS_INLINE v16 to_float(const int32x4_t *x) { return to_float(x[0], x[1], x[2], x[3]); }

#include "q8_neon.inl"
#include "i8_neon.inl"

}  // namespace
}  // namespace neon
}  // namespace ds
DS_TARGET_END

namespace ds {

// Of the packed formats only Q8_0 has kernels here; the others run without vectors.
static packed_kernels packed_neon(format f) { return f == format::q8_0 ? neon::q8 : packed_scalar(f); }

const isa isa_neon = {"neon", os::has_dot_product, &neon::floats, packed_neon, &neon::i8};

}  // namespace ds
#endif
