// How fast this machine multiplies bytes: what prompts, which multiply every weight once a token, are
// measured against.
#pragma once

#include <string>

namespace bench {

// Operations a second (a product and a sum are two) that `threads` threads reach together on registers alone,
// with the integer product that the kernels of instruction set `isa` use, the best of some tries; 0 where
// that is not known (scalar).
double integer_peak(const std::string &isa, unsigned threads);

}  // namespace bench
