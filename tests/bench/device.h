// Speed on a CUDA device: published shapes with random weights that are made there, by the architecture's own
// graphs; no file and no engine.
#pragma once

#include <string>
#include <vector>

namespace bench {

struct device_options {
    int device = 0;
    std::string part;    // one of device_parts(); empty: all
    bool quick = false;  // what the acceptance names alone
};

std::vector<std::string> device_parts();

// Prints JSON to stdout, and to stderr lines "#row …" of what was wanted and what was found, each when it is
// known. Throws ds::error.
int measure_device(const device_options &o);

}  // namespace bench
