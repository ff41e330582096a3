// Four floats side by side, by the compiler's vector extension, which every target has. Each lane does its
// own single IEEE operations, so the bits are those of a loop over scalars.
#pragma once

#include "base.h"

namespace ds {

typedef float v4 __attribute__((vector_size(16)));
typedef int32_t i4 __attribute__((vector_size(16)));  // of comparisons: all ones where true

inline v4 lanes(float x) { return v4{x, x, x, x}; }
inline v4 load4(const float *p) {
    v4 v;
    memcpy(&v, p, sizeof v);
    return v;
}
inline v4 smaller(v4 a, v4 b) { return a < b ? a : b; }  // b if either is NaN
inline v4 larger(v4 a, v4 b) { return a > b ? a : b; }
inline v4 magnitude(v4 x) { return (v4)((i4)x & 0x7fffffff); }
inline v4 quotient(v4 a, v4 b) { return b != 0.0f ? a / b : lanes(0.0f); }
// To the nearest integer, half to even, for magnitudes below 2^22.
inline v4 nearest(v4 x) { return (x + 0x1.8p23f) - 0x1.8p23f; }

}  // namespace ds
