// The test program's operator new: it counts allocations, fails on demand, and records how many bytes are
// held.
#pragma once

#include <cstdint>
#include <functional>

namespace ds::test {

// Returns how many allocations `f` makes. The n-th fails (0: none), and with `ever` all later ones too.
int64_t with_failing(int64_t n, bool ever, const std::function<void()> &f);

// Blocks of the whole program that are allocated and not yet freed.
int64_t blocks_held();

// The most bytes that `f` holds at one time, beyond those held before it. Other threads' allocations count
// too.
int64_t most_bytes(const std::function<void()> &f);

}  // namespace ds::test
