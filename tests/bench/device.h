// Speed on a CUDA device: published shapes with random weights that are made there, by the architecture's own graphs; no file, no engine and no sampling.
#pragma once

#include <string>

namespace bench {

struct device_options {
    int device = 0;
    std::string shape;          // one of the table; empty: those of the acceptance
    bool quick = false;         // fewer sizes
};

// Prints JSON to stdout, and to stderr lines "#row …" of what was wanted and what was found. Throws ds::error.
int measure_device(const device_options &o);

} // namespace bench
