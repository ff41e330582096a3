// Speed on a CUDA device: the architecture's own graphs over published shapes, with random weights made on
// the device. No file and no engine is involved.
#pragma once

#include <string>
#include <vector>

namespace bench {

struct device_options {
    int device = 0;
    std::string part;    // one of device_parts(); empty: all
    bool quick = false;  // measures fewer sizes
};

std::vector<std::string> device_parts();

// Prints JSON to stdout, and to stderr a line "#row …" with target and result as soon as each is known.
// Throws ds::error.
int measure_device(const device_options &o);

}  // namespace bench
