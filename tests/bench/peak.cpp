// Chains of the integer product that an instruction set's I8 kernels use, on registers alone, with enough
// chains in parallel to hide its latency. The operands are opaque to the compiler, so that it cannot fold
// them.
#include "peak.h"
#include "together.h"

#include <algorithm>
#include <atomic>
#include <cstdint>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace bench {

namespace {

constexpr uint64_t iterations = 4 << 20;
constexpr size_t quiet_passes = 8;
constexpr double most_seconds = 2;  // disturbances last as long
constexpr int chains = 12;
#define DS_ALL_CHAINS                                                                                        \
    _Pragma("GCC unroll 12") for (int j = 0; j < chains; ++j)  // unrolled, so that they stay in registers

// Runs all iterations and returns the number of operations.
using chains_fn = double (*)();

#if defined(__x86_64__)
__attribute__((target("avx2"), noinline)) double chains_avx2() {  // 16 products of int16, and their sums
    __m256i sum[chains], a = _mm256_set1_epi16(3), b = _mm256_set1_epi16(5);
    DS_ALL_CHAINS sum[j] = _mm256_setzero_si256();
    for (uint64_t i = 0; i < iterations; ++i) {
        DS_ALL_CHAINS {
            auto next = _mm256_add_epi32(sum[j], _mm256_madd_epi16(a, b));
            __asm__ volatile("" : "+x"(next), "+x"(a));
            sum[j] = next;
        }
    }
    return static_cast<double>(iterations) * chains * 2 * 16;
}

__attribute__((target("avx512f,avx512bw"), noinline)) double chains_avx512() {
    __m512i sum[chains], a = _mm512_set1_epi16(3), b = _mm512_set1_epi16(5);
    DS_ALL_CHAINS sum[j] = _mm512_setzero_si512();
    for (uint64_t i = 0; i < iterations; ++i) {
        DS_ALL_CHAINS {
            auto next = _mm512_add_epi32(sum[j], _mm512_madd_epi16(a, b));
            __asm__ volatile("" : "+v"(next), "+v"(a));
            sum[j] = next;
        }
    }
    return static_cast<double>(iterations) * chains * 2 * 32;
}

// 64 products of bytes
__attribute__((target("avx512f,avx512vnni"), noinline)) double chains_avx512_vnni() {
    __m512i sum[chains], a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(5);
    DS_ALL_CHAINS sum[j] = _mm512_setzero_si512();
    for (uint64_t i = 0; i < iterations; ++i) {
        DS_ALL_CHAINS {
            auto next = _mm512_dpbusd_epi32(sum[j], a, b);
            __asm__ volatile("" : "+v"(next));
            sum[j] = next;
        }
    }
    return static_cast<double>(iterations) * chains * 2 * 64;
}

// 16 x 16 products of 64 bytes each. Permission for the tiles was requested when the tables of instruction
// sets were made. The operands are not zero, since zeros are multiplied a quarter faster. Loads are written
// as assembly: GCC's intrinsics declare only a few of the bytes that they read, or none, so stores to the
// others are dropped.
__attribute__((target("amx-tile,amx-int8"), noinline)) double chains_amx() {
    struct {
        uint8_t palette = 1, start_row = 0, reserved[14] = {};
        uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
        uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } config;
    uint8_t numbers[16 * 64];
    uint32_t random = 1;
    for (uint8_t &x : numbers) x = static_cast<uint8_t>((random = random * 1664525 + 1013904223) >> 24);
    __asm__ volatile("ldtilecfg (%0)" : : "r"(&config) : "memory");
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm4\n\ttileloadd (%0,%1,1), %%tmm5\n\ttileloadd (%0,%1,1), "
                     "%%tmm6\n\ttileloadd (%0,%1,1), %%tmm7"
                     :
                     : "r"(numbers), "r"(uint64_t{64})
                     : "memory");
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (uint64_t i = 0; i < iterations / 16; ++i) {
        _tile_dpbssd(0, 4, 6);
        _tile_dpbssd(1, 4, 7);
        _tile_dpbssd(2, 5, 6);
        _tile_dpbssd(3, 5, 7);
    }
    _tile_release();
    return static_cast<double>(iterations / 16) * 4 * 2 * 16 * 16 * 64;
}
#elif defined(__aarch64__)
#pragma GCC push_options
#pragma GCC target("arch=armv8.2-a+dotprod")
__attribute__((noinline)) double chains_neon() {  // 16 products of bytes
    int32x4_t sum[chains];
    int8x16_t a = vdupq_n_s8(3), b = vdupq_n_s8(5);
    DS_ALL_CHAINS sum[j] = vdupq_n_s32(0);
    for (uint64_t i = 0; i < iterations; ++i) {
        DS_ALL_CHAINS {
            auto next = vdotq_s32(sum[j], a, b);
            __asm__ volatile("" : "+w"(next));
            sum[j] = next;
        }
    }
    return static_cast<double>(iterations) * chains * 2 * 16;
}
#pragma GCC pop_options
#endif

chains_fn chains_of(const std::string &isa) {
    static constexpr struct {
        const char *isa;
        chains_fn run;
    } list[] = {
#if defined(__x86_64__)
        {"avx2", chains_avx2},
        {"avx512", chains_avx512},
        {"avx512_vnni", chains_avx512_vnni},
        {"amx", chains_amx},
#elif defined(__aarch64__)
        {"neon", chains_neon},
#endif
        {"scalar", nullptr},
    };
    for (const auto &l : list)
        if (isa == l.isa) return l.run;
    return nullptr;
}

}  // namespace

peak integer_peak(const std::string &isa, unsigned threads, quiet_probe &probe) {
    const chains_fn run = chains_of(isa);
    if (!run) return {};
    samples<double> passes(probe, threads);
    const double begin = ds::os::seconds();
    do
        passes.take([&] {
            std::atomic<uint64_t> ops = 0;
            const double seconds =
                seconds_together(threads, [&](unsigned) { ops += static_cast<uint64_t>(run()); });
            return static_cast<double>(ops) / seconds;
        });
    while (passes.quiet() < quiet_passes && ds::os::seconds() - begin < most_seconds);
    const std::vector<double> rates = passes.counting();
    return {*std::max_element(rates.begin(), rates.end()), passes.quiet() > 0};
}

}  // namespace bench
