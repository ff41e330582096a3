#include "tile_model.h"

#include "../../ggml-cpu/isa/target.h"
#include "../../tensor/numerics.h"

#include <algorithm>
#include <limits>
#include <type_traits>
#ifdef DS_X86_KERNELS
#include <immintrin.h>

namespace tile_model {

thread_local machine state;

void machine::require(bool good, const char *what) {
    if (!good && fault.empty()) fault = what;
}
bool machine::usable(int t) {
    require(configured, "an instruction without a configuration");
    require(!configured || shape[t].rows > 0, "a tile that is not valid");
    return configured && shape[t].rows > 0;
}
void machine::clear(int t, int from_row) {
    memset(data[t][from_row], 0, static_cast<size_t>(16 - from_row) * 64);
}

static bool zeros(const uint8_t *p, int begin, int end) {
    return std::all_of(p + begin, p + end, [](uint8_t b) { return b == 0; });
}

void tiles::configure(const void *shapes) {
    uint8_t b[64];
    memcpy(b, shapes, sizeof b);
    state.require(b[0] == 1, "a palette other than 1");
    state.require(b[1] == 0, "a start row");
    state.require(zeros(b, 2, 16) && zeros(b, 32, 48) && zeros(b, 56, 64),
                  "reserved bytes of a configuration");
    for (int t = 0; t < 8; ++t) {
        const int bytes = b[16 + 2 * t] | b[17 + 2 * t] << 8, rows = b[48 + t];
        state.require(bytes <= 64 && rows <= 16 && (bytes == 0) == (rows == 0), "a tile's shape");
        if (!state.fault.empty()) return;
        state.shape[t] = {bytes, rows};
        state.clear(t, 0);
    }
    state.configured = true;
    ++state.configurations;
}
void tiles::release() {
    state.configured = false;
    for (int t = 0; t < 8; ++t) {
        state.shape[t] = {};
        state.clear(t, 0);
    }
    ++state.releases;
}
void tiles::zero_of(int t) {
    if (state.usable(t)) state.clear(t, 0);
}
void tiles::load_of(int t, const void *p, size_t stride) {
    if (!state.usable(t)) return;
    state.clear(t, 0);
    for (int r = 0; r < state.shape[t].rows; ++r)
        memcpy(state.data[t][r], static_cast<const char *>(p) + static_cast<size_t>(r) * stride,
               static_cast<size_t>(state.shape[t].bytes));
}
void tiles::store_of(int t, void *p, size_t stride) {
    if (!state.usable(t)) return;
    for (int r = 0; r < state.shape[t].rows; ++r)
        memcpy(static_cast<char *>(p) + static_cast<size_t>(r) * stride, state.data[t][r],
               static_cast<size_t>(state.shape[t].bytes));
}
void tiles::product_of(int sums, int a, int b) {
    if (!state.usable(sums) || !state.usable(a) || !state.usable(b)) return;
    const auto &c = state.shape[sums], &x = state.shape[a], &y = state.shape[b];
    state.require(c.bytes % 4 == 0 && x.bytes % 4 == 0 && y.bytes % 4 == 0, "columns of a product");
    state.require(c.rows == x.rows && c.bytes == y.bytes && x.bytes / 4 == y.rows, "shapes of a product");
    if (!state.fault.empty()) return;
    for (int m = 0; m < c.rows; ++m) {
        uint32_t sum[16];  // they wrap
        memcpy(sum, state.data[sums][m], sizeof sum);
        for (int k = 0; k < x.bytes; ++k)
            for (int n = 0; n < c.bytes / 4; ++n)
                sum[n] += static_cast<uint32_t>(static_cast<int8_t>(state.data[a][m][k]) *
                                                static_cast<int8_t>(state.data[b][k / 4][4 * n + k % 4]));
        memcpy(state.data[sums][m], sum, sizeof sum);
    }
    state.clear(sums, c.rows);
    ++state.products;
}

}  // namespace tile_model

DS_TARGET_BEGIN("avx2,fma,f16c")
namespace ds {
namespace amx_on_avx2 {
namespace {

using tile_model::tiles;

#include "../../ggml-cpu/isa/vec_avx2.inl"
#include "../../ggml-cpu/isa/exp_vec.inl"
#include "../../ggml-cpu/isa/w16i_avx2.inl"
constexpr bool packed_unsigned = true;
constexpr size_t packed_vectors = 2;
constexpr int packed_tile_x = 6;

// VPDPBUSD and VPDPWSSD, without saturation
DS_INLINE w16i tile_step(w16i sum, w16i w, w16i x) {
    uint32_t s[16];
    uint8_t a[64];
    int8_t b[64];
    memcpy(s, &sum, sizeof s), memcpy(a, &w, sizeof a), memcpy(b, &x, sizeof b);
    for (int i = 0; i < 64; ++i) s[i / 4] += static_cast<uint32_t>(a[i] * b[i]);
    return w16i(reinterpret_cast<const char *>(s));
}
DS_INLINE w16i plane_step(w16i sum, w16i w, w16i x) {
    return {_mm256_add_epi32(sum.lo, _mm256_madd_epi16(w.lo, x.lo)),
            _mm256_add_epi32(sum.hi, _mm256_madd_epi16(w.hi, x.hi))};
}

#include "../../ggml-cpu/isa/packed_x86.inl"
#include "../../ggml-cpu/isa/packed32_x86.inl"
#include "../../ggml-cpu/isa/packed256_x86.inl"

constexpr size_t i8_vectors = 4, i8_dot_x = 6, i8_streams = 4, i8_few_rows = 64;
DS_INLINE w16i widened(const char *w) {
    const __m256i flip = _mm256_set1_epi8(-128);
    return {_mm256_xor_si256(bytes32(w), flip), _mm256_xor_si256(bytes32(w + 32), flip)};
}

#include "../../ggml-cpu/isa/i8_x86.inl"

DS_INLINE void turned_quarter(const int32_t *p, size_t q, w16i *out) {
    for (size_t i = 0; i < 4; ++i) {
        int32_t column[16];
        for (size_t r = 0; r < 16; ++r) column[r] = p[16 * r + 4 * q + i];
        out[i] = w16i(reinterpret_cast<const char *>(column));
    }
}

#include "../../ggml-cpu/isa/amx.inl"
#include "../../ggml-cpu/isa/amx_packed.inl"

packed_kernels packed(format f) {
    packed_kernels k = {};
    with_packed(f, [&](auto tag) {
        constexpr bool small = ds::packed<tag.value>::block == 32;
        k.x_bytes = small ? x32_bytes : x256_bytes;
        k.quantize = small ? quantize32 : quantize256;
    });
    k = packed_by_tiles(f, k);
    k.few_rows = 0;  // no kernel of the model reads weights as stored
    return k;
}

}  // namespace
}  // namespace amx_on_avx2
}  // namespace ds
DS_TARGET_END

DS_TARGET_BEGIN("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")
namespace ds {
namespace amx_on_avx512 {
namespace {

using tile_model::tiles;

#include "../../ggml-cpu/isa/vnni_avx512.inl"
#include "../../ggml-cpu/isa/packed32_x86.inl"
#include "../../ggml-cpu/isa/packed256_x86.inl"
#include "../../ggml-cpu/isa/amx.inl"
#include "../../ggml-cpu/isa/amx_packed.inl"

packed_kernels packed(format f) { return packed_by_tiles(f, packed_avx512_vnni(f)); }

}  // namespace
}  // namespace amx_on_avx512
}  // namespace ds
DS_TARGET_END

namespace ds::test {

const isa amx_on_avx2 = {"amx_on_avx2", isa_avx2.available, isa_avx2.floats, ds::amx_on_avx2::packed,
                         &ds::amx_on_avx2::i8_by_tiles},
          amx_on_avx512 = {"amx_on_avx512", isa_avx512_vnni.available, &floats_avx512,
                           ds::amx_on_avx512::packed, &ds::amx_on_avx512::i8_by_tiles};

}  // namespace ds::test
#endif
