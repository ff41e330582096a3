// AVX-512 with VNNI (Intel since Ice Lake's servers, AMD since Zen 4): packed formats and I8 by its byte
// products; all else is avx512's.

#include "isa.h"
#include "target.h"

#ifdef DS_X86_KERNELS
#include "../../tensor/numerics.h"

#include <algorithm>
#include <immintrin.h>
#include <limits>
#include <type_traits>

DS_TARGET_BEGIN("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")
namespace ds {
namespace avx512_vnni {
namespace {

#include "vnni_avx512.inl"
#include "packed32_x86.inl"
#include "packed256_x86.inl"
#include "packed_rows_vnni.inl"

}  // namespace
}  // namespace avx512_vnni
}  // namespace ds
DS_TARGET_END

namespace ds {

static bool available() { return __builtin_cpu_supports("avx512vnni") && isa_avx512.available(); }

packed_kernels packed_avx512_vnni(format f) { return packed_table<avx512_vnni::packed_x86>(f); }
const isa isa_avx512_vnni = {"avx512_vnni", available, &floats_avx512, packed_avx512_vnni, &avx512_vnni::i8};

static bool bf16_available() { return has_avx512_bf16() && available(); }
const isa isa_avx512_bf16 = {"avx512_bf16", bf16_available, &floats_avx512_bf16, packed_avx512_vnni,
                             &avx512_vnni::i8};

}  // namespace ds
#endif
