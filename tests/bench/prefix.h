// What a shared prefix saves, and what a step costs beside the model.
#pragma once

#include "speed.h"

namespace bench {

struct prefix_speed {
    unsigned prefix, suffix, requests;
    // seconds, medians: to the first token of prefix and suffix; again with another suffix; a step over so
    // many rows there
    double cold, warm, step;
    double decode, beside;  // seconds a step, of `requests` that answer: in all; outside the model
};

// On the largest number of threads and of requests among the options.
prefix_speed measure_prefix(const std::string &path, const speed_options &o, unsigned prefix,
                            unsigned suffix);

}  // namespace bench
