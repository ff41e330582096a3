// The processor's floating-point control register, for tests that act as a host which has changed it.
#pragma once

#include <cstdint>
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace ds::test {

#if defined(__x86_64__)
// Without the sticky exception flags, bits 0 to 5.
inline uint64_t float_control() { return _mm_getcsr() & ~0x3fu; }
inline void set_float_control(uint64_t v) { _mm_setcsr(static_cast<unsigned>(v)); }
constexpr uint64_t flushing = 0x8040;  // results and operands that are denormal become zero
#elif defined(__aarch64__)
inline uint64_t float_control() {
    uint64_t v;
    __asm__ volatile("mrs %0, fpcr" : "=r"(v) : : "memory");
    return v;
}
inline void set_float_control(uint64_t v) { __asm__ volatile("msr fpcr, %0" : : "r"(v) : "memory"); }
// FZ and FZ16 (denormals become zero, f16 included), AHP (alternative half precision) and DN (default NaN).
constexpr uint64_t flushing = 0x7080000;
#endif

}  // namespace ds::test
