// What a shared prefix saves, and what a step costs outside the model.
#pragma once

#include "speed.h"

namespace bench {

struct prefix_speed {
    unsigned prefix, suffix, requests;
    // Median seconds: to the first token of prefix and suffix; the same with another suffix and the prefix
    // cached; a step over as many rows at that depth.
    double cold, warm, step;
    double decode, beside;  // seconds a step while `requests` requests decode: in total; outside the model
};

// Measured with the largest numbers of threads and of requests among the options.
prefix_speed measure_prefix(const std::string &path, const speed_options &o, unsigned prefix,
                            unsigned suffix);

}  // namespace bench
