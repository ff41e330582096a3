// The test program's main with doctest's implementation, and the count of skipped cases.
#define DOCTEST_CONFIG_IMPLEMENT
#include "skip.h"

#include <doctest/doctest.h>

#include <cstdio>

namespace {

const void *last_skipped = nullptr;  // doctest's record of the case
int skipped = 0;

}  // namespace

void ds::test::skip(const std::string &reason, const char *file, int line) {
    const void *const running = doctest::getContextOptions()->currentTest;
    if (running == last_skipped) return;
    last_skipped = running;
    ++skipped;
    DOCTEST_ADD_MESSAGE_AT(file, line, "SKIPPED: " << reason);
}

int main(int argc, char **argv) {
    doctest::Context context(argc, argv);
    const int failed = context.run();
    // doctest counts a case that returns early as passed.
    if (skipped > 0) std::printf("%d cases were skipped\n", skipped);
    return failed;
}
