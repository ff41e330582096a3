// Passes of several threads together, timed by the threads themselves: another thread that timed them would
// compete for a processor.
#pragma once

#include "../../tensor/os.h"

#include <algorithm>
#include <barrier>
#include <cstddef>
#include <limits>
#include <thread>
#include <vector>

namespace bench {

// Calls prepare(thread) once, then work(thread, pass). Returns the seconds of the shortest pass, from the
// first thread's start to the last one's end.
template <class P, class W>
double shortest_pass(unsigned threads, size_t passes, const P &prepare, const W &work) {
    struct span {
        double begin, end;
    };
    std::vector<std::vector<span>> spans(threads, std::vector<span>(passes));
    std::barrier line(threads);
    std::vector<std::thread> workers;
    for (unsigned t = 0; t < threads; ++t)
        workers.emplace_back([&, t] {
            prepare(t);
            for (size_t pass = 0; pass < passes; ++pass) {
                line.arrive_and_wait();
                const double begin = ds::os::seconds();
                work(t, pass);
                spans[t][pass] = {begin, ds::os::seconds()};
            }
        });
    for (std::thread &w : workers) w.join();
    double best = std::numeric_limits<double>::infinity();
    for (size_t pass = 0; pass < passes; ++pass) {
        span all = spans[0][pass];
        for (const auto &s : spans)
            all = {std::min(all.begin, s[pass].begin), std::max(all.end, s[pass].end)};
        best = std::min(best, all.end - all.begin);
    }
    return best;
}

}  // namespace bench
