// AMX-INT8 (Intel, since Sapphire Rapids): I8 and packed formats with many rows by tile registers; all else
// is avx512_bf16's.
// tests/cpu/test_amx.cpp holds these kernels against scalar's by a model of the tile registers.
// Invariant: the system is asked for permission before the registers are first touched (os::allow_tiles, from
// available).

#include "isa.h"
#include "target.h"

#ifdef DS_X86_KERNELS
#include "../../tensor/numerics.h"
#include "../../tensor/os.h"

#include <algorithm>
#include <cpuid.h>
#include <immintrin.h>
#include <limits>
#include <type_traits>

DS_TARGET_BEGIN("amx-tile,amx-int8,prfchw,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")
namespace ds {
namespace amx {
namespace {

#include "vnni_avx512.inl"

// In assembler: GCC's intrinsics take a register's number as text, not from a template, and do not promise
// that a load sees memory just written. Volatile also keeps their order, as the compiler does not know the
// tile registers.
struct tiles {
    static DS_INLINE void configure(const void *shapes) {
        __asm__ volatile("ldtilecfg (%0)" : : "r"(shapes) : "memory");
    }
    static DS_INLINE void release() { __asm__ volatile("tilerelease"); }
    template <int t> static DS_INLINE void zero() { __asm__ volatile("tilezero %%tmm%c0" : : "i"(t)); }
    template <int t> static DS_INLINE void load(const void *p, size_t stride) {
        __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(p), "r"(stride), "i"(t) : "memory");
    }
    // The same, for what should not stay in the first-level cache.
    template <int t> static DS_INLINE void stream(const void *p, size_t stride) {
        __asm__ volatile("tileloaddt1 (%0,%1,1), %%tmm%c2" : : "r"(p), "r"(stride), "i"(t) : "memory");
    }
    template <int t> static DS_INLINE void store(void *p, size_t stride) {
        __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(p), "r"(stride), "i"(t) : "memory");
    }
    template <int sums, int a, int b> static DS_INLINE void product() {
        __asm__ volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(sums), "i"(a), "i"(b));
    }
};

#include "packed32_x86.inl"
#include "packed256_x86.inl"
#include "amx.inl"
#include "amx_packed.inl"

}  // namespace
}  // namespace amx
}  // namespace ds
DS_TARGET_END

namespace ds {

// CPUID (Intel's manual, volume 2A): leaf 7 reports the two features, leaf 0x1D the palette's sizes. GCC 12
// has no names for them.
static bool has_tiles() {
    unsigned a, b, c, d;
    constexpr unsigned tile = 1u << 24, int8 = 1u << 25;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & (tile | int8)) != (tile | int8)) return false;
    // bytes per row, registers, rows
    return __get_cpuid_count(0x1d, 1, &a, &b, &c, &d) && (b & 0xffff) >= 64 && b >> 16 >= 8 &&
           (c & 0xffff) >= 16;
}
static bool available() { return has_tiles() && isa_avx512_bf16.available() && os::allow_tiles(); }
static bool could_be() { return has_tiles() && isa_avx512_bf16.available() && os::has_tiles(); }

static packed_kernels packed_amx(format f) { return amx::packed_by_tiles(f, packed_avx512_vnni(f)); }
const isa isa_amx = {"amx", available, &floats_avx512_bf16, packed_amx, &amx::i8_by_tiles, could_be};

}  // namespace ds
#endif
