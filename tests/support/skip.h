// How a test case reports that it cannot run here, for lack of data or hardware.
// Invariant: a case reports itself once, however often it calls skip(), so that the lines can be counted as cases.
#pragma once

#include <source_location>
#include <string>

namespace ds::test {

// Prints the message "SKIPPED: <reason>" unless the running case has done so already. Only the case's own thread may
// call it.
void skip(const std::string &reason, std::source_location where = std::source_location::current());

}  // namespace ds::test
