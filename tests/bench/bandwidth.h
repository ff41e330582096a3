// How fast this machine reads memory: what decoding, which reads every weight once a token, is measured against.
#pragma once

#include <cstddef>

namespace bench {

// Bytes a second that `threads` threads read together, the best of some passes over a buffer that no cache holds.
double read_bandwidth(unsigned threads);
size_t bandwidth_bytes();     // of that buffer

} // namespace bench
