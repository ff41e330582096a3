// Number formats: the table made of formats.def, and encoding and decoding of rows, which define each format.
#pragma once

#include "base.h"

namespace ds {

enum class format : uint8_t {
#define DS_FORMAT(name, text, id, block, bytes, runs, writes) name,
#include "formats.def"
#undef DS_FORMAT
    count
};

struct format_info {
    const char *text;
    uint32_t gguf_id;
    uint32_t block;  // elements per block
    uint32_t bytes;  // bytes per block
    bool runs;       // this build computes with weights of it
    bool writes;     // it can be encoded
};

const format_info &info(format f);
// The table's bytes a block, for those who need them when they are compiled.
constexpr size_t block_bytes(format f) {
    constexpr size_t table[] = {
#define DS_FORMAT(name, text, id, block, bytes, runs, writes) bytes,
#include "formats.def"
#undef DS_FORMAT
    };
    return table[static_cast<size_t>(f)];
}
bool format_from_gguf(uint32_t id, format *out);  // false: no such id
bool format_from_text(const std::string &text, format *out);
std::string formats_that_run();  // "f32, f16, …" for messages

// Bytes of `n` elements of a row; n must be a multiple of the block.
inline uint64_t row_bytes(format f, uint64_t n) { return n / info(f).block * info(f).bytes; }

// One row to and from f32; `n` is a multiple of the block. Formats that run can be decoded; those with
// `writes` can be encoded, i8 by encode_row_i8 below.
// F16 and BF16 round to nearest even. Q8_0 takes d = max|x| / 127, stored as f16, and q = x * (1 / d), halves
// away from zero, as published. The other packed formats search for the scales with the least squared error,
// each element's weighted by `importance` if given (n values of 0 or more). A value that is not finite, or
// too large for the format, is not an error here (an infinity stays one, or spoils its block): the converter
// checks and reports.
void decode_row(format f, const void *src, float *dst, size_t n);
void encode_row(format f, const float *src, void *dst, size_t n, const float *importance = nullptr);
float magnitude_limit(format f);  // encode_row can represent magnitudes below this

// I8 has one scale per row, stored apart: decode_row returns the bare integers. This makes them: dst =
// rint(src * 127 / max|src|), in -127 to 127; returns their scale, max|src| / 127. max|src| < 1e-30 counts as
// zero. All values must be finite.
float encode_row_i8(const float *src, int8_t *dst, size_t n);

// Scalar conversions, the same on every machine.
float f16_to_f32(uint16_t h);
uint16_t f32_to_f16(float f);  // nearest even; overflow to infinity; NaN stays NaN
inline float bf16_to_f32(uint16_t h) {
    uint32_t u = uint32_t(h) << 16;
    float f;
    __builtin_memcpy(&f, &u, 4);
    return f;
}
uint16_t f32_to_bf16(float f);  // nearest even

}  // namespace ds
