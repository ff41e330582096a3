// The test program's operator new can be told to count and to fail.
#pragma once

#include <cstdint>
#include <functional>

namespace ds::test {

// How many allocations `f` makes, of which the n-th fails (0: none), and all after it when `ever`.
int64_t with_failing(int64_t n, bool ever, const std::function<void()> &f);

// Blocks that were taken and not given back, of the whole program.
int64_t blocks_held();

} // namespace ds::test
