// Work of several threads together. The caller is one of them, and the threads time themselves: one more that
// waited or timed would compete for a processor.
#pragma once

#include "../../tensor/os.h"

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

namespace bench {

// A barrier whose threads wait awake: woken by the system they would start some ten microseconds apart. With
// more threads than processors they make way for each other.
class starting_line {
public:
    explicit starting_line(unsigned threads) : threads_(threads) {}
    void arrive_and_wait() {
        const unsigned round = round_;
        if (++arrived_ == threads_) {
            arrived_ = 0;
            ++round_;
        }
        while (round_ == round) std::this_thread::yield();
    }

private:
    const unsigned threads_;
    std::atomic<unsigned> arrived_ = 0, round_ = 0;
};

// Calls work(thread) on `threads` threads; 0 is the caller.
template <class W> void together(unsigned threads, const W &work) {
    std::vector<std::thread> others;
    for (unsigned t = 1; t < threads; ++t) others.emplace_back([&work, t] { work(t); });
    work(0);
    for (std::thread &o : others) o.join();
}

// Seconds of work(thread) on `threads` threads, from the first one's start to the last one's end.
template <class W> double seconds_together(unsigned threads, const W &work) {
    struct span {
        double begin, end;
    };
    std::vector<span> spans(threads);
    starting_line line(threads);
    together(threads, [&](unsigned t) {
        line.arrive_and_wait();
        const double begin = ds::os::seconds();
        work(t);
        spans[t] = {begin, ds::os::seconds()};
    });
    span all = spans[0];
    for (const span &s : spans) all = {std::min(all.begin, s.begin), std::max(all.end, s.end)};
    return all.end - all.begin;
}

}  // namespace bench
