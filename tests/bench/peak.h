// How fast this machine multiplies bytes. A prompt multiplies with every weight once a token, so this is its
// limit.
#pragma once

#include <string>

namespace bench {

// Operations a second (a product and a sum are two) that `threads` threads reach together on registers alone,
// with the integer product of instruction set `isa`'s kernels: the best of several tries. 0 if not known
// (scalar).
double integer_peak(const std::string &isa, unsigned threads);

}  // namespace bench
