// Outer products of bf16 by AVX512-BF16 (Intel since Cooper Lake, AMD since Zen 4). Its instruction adds two
// products to each sum, one after the other, each as an fma: that of the elements in the upper halves, then
// that of the lower ones. So two steps are taken at a time, the earlier one above. It takes subnormal numbers
// for 0; with such operands there are none (numerics.h).

#include "isa.h"
#include "target.h"

#ifdef DS_X86_KERNELS
#include "../../tensor/numerics.h"

#include <algorithm>
#include <immintrin.h>

DS_TARGET_BEGIN("avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")
namespace ds {
namespace avx512_bf16 {
namespace {

constexpr int tile_rows = 12, tile_vectors = 2;
constexpr size_t tile_width = 16 * tile_vectors;

// bf16_operand, sixteen at a time: in the upper halves, the lower ones are 0.
DS_INLINE __m512i operands(__m512 x) {
    const __m512i u = _mm512_castps_si512(x), magnitude = _mm512_and_si512(u, _mm512_set1_epi32(0x7fffffff)),
                  odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
    __m512i y = _mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    y = _mm512_mask_or_epi32(y, _mm512_cmpgt_epi32_mask(magnitude, _mm512_set1_epi32(0x7f800000)), u,
                             _mm512_set1_epi32(0x400000));
    return _mm512_maskz_and_epi32(_mm512_cmpge_epi32_mask(magnitude, _mm512_set1_epi32(71 << 23)), y,
                                  _mm512_set1_epi32(static_cast<int>(0xffff0000u)));
}
DS_INLINE __mmask16 first(size_t n) { return static_cast<__mmask16>((1u << n) - 1); }
DS_INLINE __m512i operands_at(const float *p, __mmask16 m) { return operands(_mm512_maskz_loadu_ps(m, p)); }
DS_INLINE __m512i operands_at(const brain *p, __mmask16 m) {
    const __m512i x = _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(m, p)), 16);
    return operands(_mm512_castsi512_ps(x));
}
DS_INLINE __m512i pair(__m512i earlier, __m512i later) {
    return _mm512_or_si512(earlier, _mm512_srli_epi32(later, 16));
}

void tile(const uint32_t *a, const uint32_t *b, size_t pairs, float *y, size_t y_stride, size_t rows,
          size_t columns, bool add) {
    __m512 sum[tile_rows][tile_vectors];
    const auto part = [&](int v) {
        return first(columns > 16u * v ? std::min<size_t>(16, columns - 16 * v) : 0);
    };
    DS_UNROLL for (int r = 0; r < tile_rows; ++r) {
        DS_UNROLL for (int v = 0; v < tile_vectors; ++v) sum[r][v] =
            add && static_cast<size_t>(r) < rows ? _mm512_maskz_loadu_ps(part(v), y + r * y_stride + 16 * v)
                                                 : _mm512_setzero_ps();
    }
    for (size_t t = 0; t < pairs; ++t) {
        __m512bh bt[tile_vectors];
        DS_UNROLL for (int v = 0; v < tile_vectors; ++v) bt[v] =
            (__m512bh)_mm512_loadu_si512(b + t * tile_width + 16 * v);
        DS_UNROLL for (int r = 0; r < tile_rows; ++r) {
            const __m512bh at = (__m512bh)_mm512_set1_epi32(static_cast<int>(a[t * tile_rows + r]));
            DS_UNROLL for (int v = 0; v < tile_vectors; ++v) sum[r][v] =
                _mm512_dpbf16_ps(sum[r][v], at, bt[v]);
        }
    }
    DS_UNROLL for (int r = 0; r < tile_rows; ++r) {
        if (static_cast<size_t>(r) < rows) {
            DS_UNROLL for (int v = 0; v < tile_vectors; ++v)
                _mm512_mask_storeu_ps(y + r * y_stride + 16 * v, part(v), sum[r][v]);
        }
    }
}

// Groups of rows: to[group][pair of steps][row in it]; beyond the last step are zeros.
void pack_rows(const outer_args &p, size_t t0, size_t steps, uint32_t *to) {
    const size_t pairs = (steps + 1) / 2;
    for (size_t i0 = 0; i0 < p.rows; i0 += tile_rows, to += pairs * tile_rows) {
        const size_t n = std::min<size_t>(tile_rows, p.rows - i0);
        const float *const from = p.a + i0 * p.a_row + t0 * p.a_step;
        if (p.a_row == 1) {
            for (size_t t = 0; t < steps; t += 2) {
                const __m512i earlier = operands_at(from + t * p.a_step, first(n)),
                              later = t + 1 < steps ? operands_at(from + (t + 1) * p.a_step, first(n))
                                                    : _mm512_setzero_si512();
                _mm512_mask_storeu_epi32(to + t / 2 * tile_rows, first(tile_rows), pair(earlier, later));
            }
            continue;
        }
        if (n < tile_rows) std::fill_n(to, pairs * tile_rows, 0u);
        for (size_t r = 0; r < n; ++r) {
            const float *const row = from + r * p.a_row;
            for (size_t t = 0; t < steps; t += 16) {
                const size_t count = std::min<size_t>(16, steps - t);
                __m512i x;
                if (p.a_step == 1) x = operands_at(row + t, first(count));
                else {
                    float some[16] = {};
                    for (size_t k = 0; k < count; ++k) some[k] = row[(t + k) * p.a_step];
                    x = operands_at(some, first(16));
                }
                // in the lower half of 64 bits: the earlier step above the later one
                x = _mm512_or_si512(x, _mm512_srli_epi64(x, 48));
                uint32_t two[8];
                _mm256_storeu_si256(reinterpret_cast<__m256i *>(two), _mm512_cvtepi64_epi32(x));
                for (size_t k = 0; 2 * k < count; ++k) to[(t / 2 + k) * tile_rows + r] = two[k];
            }
        }
    }
}

// Panels of columns: to[panel][pair of steps][column in it].
template <class E>
void pack_columns(const outer_args &p, size_t j0, size_t columns, size_t t0, size_t steps, uint32_t *to) {
    const size_t pairs = (steps + 1) / 2;
    for (size_t j = 0; j < columns; j += tile_width, to += pairs * tile_width) {
        const E *const from = reinterpret_cast<const E *>(p.b) + t0 * p.b_stride + j0 + j;
        const size_t n = std::min(tile_width, columns - j);
        for (size_t t = 0; t < steps; t += 2)
            for (size_t i = 0; i < tile_width; i += 16) {
                const __mmask16 some = first(n > i ? std::min<size_t>(16, n - i) : 0);
                const __m512i earlier = operands_at(from + t * p.b_stride + i, some),
                              later = t + 1 < steps ? operands_at(from + (t + 1) * p.b_stride + i, some)
                                                    : _mm512_setzero_si512();
                _mm512_storeu_si512(to + t / 2 * tile_width + i, pair(earlier, later));
            }
    }
}

template <class E> void outer_of(const outer_args &p, float *scratch) {
    static_assert(outer_steps % 2 == 0);
    auto *const columns = reinterpret_cast<uint32_t *>(scratch), *const rows = columns + outer_steps / 2 *
                                                                                             outer_columns;
    for (size_t t0 = 0; t0 < p.steps; t0 += outer_steps) {
        const size_t steps = std::min(outer_steps, p.steps - t0), pairs = (steps + 1) / 2;
        pack_rows(p, t0, steps, rows);
        for (size_t j0 = 0; j0 < p.columns; j0 += outer_columns) {
            const size_t width = std::min(outer_columns, p.columns - j0);
            pack_columns<E>(p, j0, width, t0, steps, columns);
            for (size_t j = 0; j < width; j += tile_width)
                for (size_t i = 0; i < p.rows; i += tile_rows)
                    tile(rows + i * pairs, columns + j * pairs, pairs, p.y + i * p.y_stride + j0 + j,
                         p.y_stride, p.rows - i, width - j, p.add || t0 > 0);
        }
    }
}

// Whether this processor's instruction adds as said above: manuals leave room for other roundings.
__attribute__((noinline)) bool adds_in_order() {
    alignas(64) uint32_t a[16] = {}, b[16] = {};
    alignas(64) float sum[16] = {};
    const auto half = [](float x) { return bits_of(x) >> 16; };
    const auto set = [&](int i, float c, float upper, float lower) {
        sum[i] = c;
        a[i] = half(upper) << 16 | half(lower);
        b[i] = half(1.0f) << 16 | half(1.0f);
    };
    set(0, 1.0f, 0x1p-24f, 0x1p-24f);  // 1: rounded twice
    set(1, 1.0f, 0x1p24f, -0x1p24f);   // 0: the upper one first
    const __m512 y =
        _mm512_dpbf16_ps(_mm512_load_ps(sum), (__m512bh)_mm512_load_si512(a), (__m512bh)_mm512_load_si512(b));
    _mm512_store_ps(sum, y);
    return bits_of(sum[0]) == bits_of(1.0f) && bits_of(sum[1]) == 0;
}

}  // namespace
}  // namespace avx512_bf16
}  // namespace ds
DS_TARGET_END

namespace ds {

bool has_avx512_bf16() {
    return __builtin_cpu_supports("avx512bf16") && isa_avx512.available() && avx512_bf16::adds_in_order();
}

void outer_avx512_bf16(const outer_args &p, float *scratch) {
    if (p.operands != format::bf16) return floats_avx512.outer(p, scratch);
    if (p.b_type == format::f32) avx512_bf16::outer_of<float>(p, scratch);
    else avx512_bf16::outer_of<brain>(p, scratch);
}

}  // namespace ds
#endif
