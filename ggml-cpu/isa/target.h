// Target regions: the code between BEGIN and END, and nothing else in the file, is compiled for the named
// instruction sets.
// Invariant: that code is static, in the instruction set's own namespace, so that no inline function compiled
// here can be linked into another file. Standard headers stay outside.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#define DS_PRAGMA(text) _Pragma(#text)
#ifdef __clang__
#define DS_TARGET_BEGIN(sets)                                                                                \
    DS_PRAGMA(clang attribute push(__attribute__((target(sets))), apply_to = function))
#define DS_TARGET_END _Pragma("clang attribute pop")
#define DS_UNROLL _Pragma("clang loop unroll(full)")
#else
#define DS_TARGET_BEGIN(sets) _Pragma("GCC push_options") DS_PRAGMA(GCC target(sets))
#define DS_TARGET_END _Pragma("GCC pop_options")
#define DS_UNROLL _Pragma("GCC unroll 32")
#pragma GCC diagnostic ignored "-Wuninitialized"  // in GCC 12's own avx512fintrin.h (its bug 105593)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#define DS_INLINE inline __attribute__((always_inline))
// After a lambda's parameters: what it captures then stays in registers.
#define DS_LAMBDA __attribute__((always_inline))

namespace ds {

// Elements of the 16-bit formats, so that `load` can be overloaded.
struct half {
    uint16_t bits;
};
struct brain {
    uint16_t bits;
};

// The product of a repacked i8 page and some rows of two planes: out[r][c] = 128 * (high plane . column c) +
// (low plane . column c) + the row's start.
struct page_args {
    const char *tile;
    size_t columns, depth;  // number and length of the page's rows
    const char *x;          // rows of two planes
    size_t rows;            // at most as many as share a pass over a page (i8.inl)
    int32_t *out;           // [rows][align64(columns)]
};

}  // namespace ds
