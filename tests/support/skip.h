// How a test case reports that it cannot run here, for lack of data or hardware.
// Invariant: a case reports itself once, however often it calls skip(), so that counting the lines counts the
// cases.
#pragma once

#include <string>

namespace ds::test {

// Prints the message "SKIPPED: <reason>", unless the running case has done so already. Only the case's own
// thread may call it. The file and line are the caller's.
void skip(const std::string &reason, const char *file = __builtin_FILE(), int line = __builtin_LINE());

}  // namespace ds::test
