// The test program's operator new can be told to count, to fail, and to say how much was taken.
#pragma once

#include <cstdint>
#include <functional>

namespace ds::test {

// How many allocations `f` makes, of which the n-th fails (0: none), and all after it when `ever`.
int64_t with_failing(int64_t n, bool ever, const std::function<void()> &f);

// Blocks that were taken and not given back, of the whole program.
int64_t blocks_held();

// The most bytes that `f` held at one time, beside those that were held before it. What other threads hold
// counts.
int64_t most_bytes(const std::function<void()> &f);

}  // namespace ds::test
