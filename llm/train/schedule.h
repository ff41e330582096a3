// The learning rate by steps.
#pragma once

#include <cstdint>

namespace ds {

struct schedule {
    double peak = 1e-4, least = 0;
    int64_t warmup = 0;  // steps in which the rate rises linearly to `peak`
    int64_t steps = 0;   // at which a cosine reaches `least`; 0: the rate stays at `peak`

    double at(int64_t step) const;  // the first step is 1
};

}  // namespace ds
