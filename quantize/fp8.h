// Weights of 8 bits as DeepSeek publishes them: E4M3 codes, and one scale for each block of rows and columns
// in a tensor X.weight_scale_inv of its own (despite the name, weights are multiplied by it). arXiv
// 2412.19437, section 3.3.2; the codes: OCP 8-bit Floating Point Specification, table 1.
#pragma once

#include "../tensor/formats.h"

namespace ds {

// Sign, 4 bits of exponent (bias 7), 3 of mantissa; exponent 0 is subnormal; 0x7f and 0xff are NaN, and there
// are no infinities.
float e4m3_to_f32(uint8_t code);

struct e4m3_scales {
    // [ceil(rows / block_rows), ceil(columns / block_columns)]: the last blocks may be partial
    const uint8_t *data;
    format type;      // of the scales: f32, f16, bf16
    int64_t columns;  // scales a row of blocks
    int64_t block_rows, block_columns;
    std::string where;  // file and tensor, for messages

    // the scale of the weight there
    float at(int64_t row, int64_t column) const;
    // "file: tensor[i, j]" of that scale
    std::string location(int64_t row, int64_t column) const;
    // Code times scale, rounded once to f32, of n columns from `column` on; `codes` are the row's.
    void decode_row(const uint8_t *codes, int64_t row, size_t column, float *out, size_t n) const;
};

}  // namespace ds
