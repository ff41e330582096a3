// Kernels that measure how fast memory can be read.
#pragma once

#include "launch.h"

namespace ds::cuda {

struct read_params {
    void *from;  // [count] of 16 bytes each
    int64_t count;
    uint32_t *sum;  // the sum of all words is added to it
    int32_t blocks;
};
int launch_read(const read_params &, stream);
int launch_fill(const read_params &, stream);  // fills `from`

}  // namespace ds::cuda
