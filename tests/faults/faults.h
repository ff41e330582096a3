// Calls to the operating system that fail on demand, for the whole test program (os_faults.cpp); for
// allocations see allocations.h.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

namespace ds::test {

enum class fault {
    refused,      // the call fails, with the error that is most likely there
    interrupted,  // a call that may be interrupted is, once: EINTR
    shortened,    // reads and writes get a part of what they ask for: at least a byte
};

// Runs f, while the n-th call that such a fault can meet has it, and with `ever` all later ones, too (0:
// none). Gives the number of such calls that f made.
int64_t with_failing_calls(int64_t n, bool ever, fault kind, const std::function<void()> &f);

// How often the last run made this one, "open".
int64_t calls_of(const std::string &name);

}  // namespace ds::test
