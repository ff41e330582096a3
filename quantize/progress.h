// A progress bar on a terminal: share done, rate, time left.
#pragma once

#include "../tensor/base.h"

namespace ds {

// "1.50 GB", three digits and a decimal unit.
std::string bytes_text(double bytes);

// One line, without a line feed: "[#####---] 62% 1.50 GB of 2.40 GB 310 MB/s 0:03 left". `seconds` since the
// start.
std::string progress_line(uint64_t done, uint64_t total, double seconds);

// Draws on stderr, at most ten times a second; nothing unless `shown`. The destructor clears the line.
class progress_bar {
public:
    explicit progress_bar(bool shown);
    ~progress_bar();
    void update(uint64_t done, uint64_t total);

private:
    bool shown_, drawn_ = false;
    double start_, last_ = 0;
};

}  // namespace ds
