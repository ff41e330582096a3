// Calls to the operating system that fail on demand, for the whole test program (os_faults.cpp); for
// allocations see allocations.h.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

namespace ds::test {

enum class fault {
    refused,      // the call fails, with the error that is most likely there
    interrupted,  // an interruptible call fails once with EINTR
    shortened,    // reads and writes transfer only a part, at least one byte
};

// Runs f with the fault in the n-th call that can have it (0: none), and with `ever` in all later ones too.
// Returns the number of such calls that f makes.
int64_t with_failing_calls(int64_t n, bool ever, fault kind, const std::function<void()> &f);

// How often the last run made this call, such as "open".
int64_t calls_of(const std::string &name);

}  // namespace ds::test
