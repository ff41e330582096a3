// The kernels of candidates (tensor/ops.h), called as those of launch.h are.
#pragma once

#include "launch.h"

namespace ds::cuda {

constexpr int32_t candidates_block = 8192;  // logits per block
constexpr int32_t most_candidates = 256, most_logits = 1 << 24;

struct candidates_launch_params {
    const float *x;  // [n, width]
    int64_t x_stride;
    const float *factors;  // [n]
    int32_t *y;            // [n, 4 + 2 count], 8-byte aligned
    int64_t y_stride;
    int32_t n, width, count;
    void *work;
};
bool candidates_fit(const candidates_launch_params &);
size_t candidates_work_bytes(const candidates_launch_params &);  // grows with n, width and count
int launch_candidates(const candidates_launch_params &, stream);

}  // namespace ds::cuda
