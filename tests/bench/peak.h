// How fast this machine multiplies bytes. A prompt multiplies with every weight once a token, so this is its
// limit.
#pragma once

#include "quiet.h"

#include <string>

namespace bench {

struct peak {
    double rate = 0;  // operations a second, a product and a sum being two; 0 if not known (scalar)
    bool quiet = false;
};

// What `threads` threads reach together on registers alone, with the integer product of instruction set
// `isa`'s kernels: the best of some quiet passes, or of two seconds' passes if none of them is quiet.
peak integer_peak(const std::string &isa, unsigned threads, quiet_probe &probe);

}  // namespace bench
