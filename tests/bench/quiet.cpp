// Additions of registers: they keep a core's units busy and need no memory, so whoever shares the core slows
// them, and little else does.
#include "quiet.h"
#include "together.h"

#include <cstdint>
#include <limits>

namespace bench {

namespace {

// Some 40 microseconds at 3 GHz: long beside the clock's reading, short beside what lies between two probes.
constexpr uint64_t iterations = 40000;
// The best counts, since an interrupt, or an engine's thread on its way to sleep, is no neighbour.
constexpr int tries = 3;
// A run may begin beside a neighbour. Among a second of probes a few are likely quiet even then.
constexpr double first_seconds = 1;
constexpr size_t chains = 12;  // more than processors add in a cycle; with two more they fit the registers
// On an Emerald Rapids guest, probes were within 8 % of their best when nothing else ran, and lost a quarter
// or more beside a neighbour.
constexpr double quiet_share = 0.9;

// Any number, for all that the compiler knows.
inline void hide(uint64_t &x) { __asm__ volatile("" : "+r"(x)); }

template <size_t... j> void add(std::index_sequence<j...>) {
    uint64_t sum[] = {j...}, step = 1;
    hide(step);
    for (uint64_t i = 0; i < iterations; ++i) ((sum[j] += step, hide(sum[j])), ...);
}

// Of the best try, from the first thread's start to the last one's end: threads that had to take turns show.
double loop_seconds(unsigned threads) {
    double best = std::numeric_limits<double>::infinity();
    for (int i = 0; i < tries; ++i)
        best = std::min(best,
                        seconds_together(threads, [](unsigned) { add(std::make_index_sequence<chains>()); }));
    return best;
}

}  // namespace

double quiet_probe::rate(unsigned threads) {
    const auto [at, first] = best_.try_emplace(threads);
    const double begin = ds::os::seconds();
    double rate;
    do {
        rate = static_cast<double>(chains * iterations) / loop_seconds(threads);
        at->second = std::max(at->second, rate);
    } while (first && ds::os::seconds() - begin < first_seconds);
    return rate;
}

bool quiet_probe::quiet(unsigned threads, double rate) const {
    return rate >= quiet_share * best_.at(threads);
}

}  // namespace bench
