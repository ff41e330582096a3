// A tensor: format, shape, strides and data. Shapes are written outermost first; ne[rank - 1] varies fastest.
#pragma once

#include "formats.h"

#include <initializer_list>
#include <span>

namespace ds {

constexpr int max_rank = 4;

struct tensor {
    format type = format::f32;
    int rank = 0;
    int64_t ne[max_rank] = {1, 1, 1, 1};  // outermost first; unused ones are 1 and come last
    // in elements; the last is 1. A block format's outer strides are multiples of its block
    int64_t stride[max_rank] = {0, 0, 0, 0};
    void *data = nullptr;
    const tensor *base = nullptr;  // of a view: the tensor whose bytes it shares
    size_t offset = 0;             // of a view: its first byte in them
    // of i8 weights: f32, one factor per row
    const tensor *scale = nullptr;
    const char *name = "";  // for messages; of a weight, its name in the file
};

// A contiguous tensor of this shape, without data.
tensor make_tensor(format type, std::span<const int64_t> ne);
inline tensor make_tensor(format type, std::initializer_list<int64_t> ne) {
    return make_tensor(type, std::span(ne.begin(), ne.size()));
}

int64_t elements(const tensor &t);
size_t tensor_bytes(const tensor &t);  // of a contiguous tensor
bool contiguous(const tensor &t);
bool same_shape(const tensor &a, const tensor &b);
std::string shape_text(const tensor &t);  // "f16[128, 64]"

// The address of an element; of a block format, of the block that starts there.
inline char *at(const tensor &t, int64_t i0, int64_t i1 = 0, int64_t i2 = 0, int64_t i3 = 0) {
    const int64_t e = i0 * t.stride[0] + i1 * t.stride[1] + i2 * t.stride[2] + i3 * t.stride[3];
    return static_cast<char *>(t.data) + e / info(t.type).block * info(t.type).bytes;
}
inline float *f32_at(const tensor &t, int64_t i0, int64_t i1 = 0, int64_t i2 = 0) {
    return reinterpret_cast<float *>(t.data) + i0 * t.stride[0] + i1 * t.stride[1] + i2 * t.stride[2];
}
inline int32_t *i32_at(const tensor &t, int64_t i0, int64_t i1 = 0) {
    return reinterpret_cast<int32_t *>(t.data) + i0 * t.stride[0] + i1 * t.stride[1];
}

}  // namespace ds
