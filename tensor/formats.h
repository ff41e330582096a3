// Number formats: the table made of formats.def, and encode/decode of rows, which is what a format means.
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
    uint32_t block;  // elements a block
    uint32_t bytes;  // bytes a block
    bool runs;       // this build computes with weights of it
    bool writes;     // encode_row knows it
};

const format_info &info(format f);
bool format_from_gguf(uint32_t id, format *out);  // false: no such id
bool format_from_text(const std::string &text, format *out);
std::string formats_that_run();  // "f32, f16, …" for messages

// Bytes of `n` elements of a row; n must be a multiple of the block.
inline uint64_t row_bytes(format f, uint64_t n) { return n / info(f).block * info(f).bytes; }

// One row to and from f32. `n` is a multiple of the block. Decoding: formats that run; encoding: those that
// are written; i8 only decodes, see below. Encoding: F16 and BF16 round to nearest even; Q8_0 takes d =
// max|x| / 127, stored as f16, and q = x * (1 / d), halves away from zero, as published. The others look for
// the scales with the least squared error, each element's counted `importance` times, if that is given: n
// numbers of 0 or more. A value that is not finite, or too large for the format, is encoded as it falls (an
// infinity stays one, or spoils its block): the converter checks and reports.
void decode_row(format f, const void *src, float *dst, size_t n);
void encode_row(format f, const float *src, void *dst, size_t n, const float *importance = nullptr);
float magnitude_limit(format f);  // what encode_row can hold: smaller magnitudes than this

// I8 has one scale a row, kept apart: decode_row gives the bare integers, and this makes them: dst = rint(src
// * 127 / max|src|), in -127 to 127; returns max|src| / 127, what they are to be multiplied by. max|src| <
// 1e-30 counts as zero. All values must be finite.
float encode_row_i8(const float *src, int8_t *dst, size_t n);

// Scalar conversions, exact, the same on every machine.
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
