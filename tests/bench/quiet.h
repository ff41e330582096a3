// Whether the machine is ours alone. On a shared one a neighbour may take half of a core for seconds at a
// time; a figure measured meanwhile says nothing of our code. So a short loop is run before and after each
// measurement, and what lies between two loops of full speed counts.
#pragma once

#include <algorithm>
#include <cstddef>
#include <map>
#include <utility>
#include <vector>

namespace bench {

// Remembers the best speed of the loop, by threads: those of one core share it. One for the whole run.
class quiet_probe {
public:
    double rate(unsigned threads);  // runs the loop on all of them at once: additions a second of each
    bool quiet(unsigned threads, double rate) const;

private:
    std::map<unsigned, double> best_;
};

// Measurements one after the other, with a probe before and after each. Which of them are quiet is judged
// when it is asked: the best probe may come last.
template <class T> class samples {
public:
    samples(quiet_probe &probe, unsigned threads)
        : probe_(probe), threads_(threads), before_(probe.rate(threads)) {}
    template <class F> void take(const F &measure) {
        T value = measure();
        const double after = probe_.rate(threads_);
        list_.push_back({std::move(value), std::min(std::exchange(before_, after), after)});
    }
    size_t taken() const { return list_.size(); }
    size_t quiet() const {
        return static_cast<size_t>(
            std::count_if(list_.begin(), list_.end(), [&](const sample &s) { return is_quiet(s); }));
    }
    // The quiet ones, or all if none is.
    std::vector<T> counting() const {
        std::vector<T> out;
        const bool all = quiet() == 0;
        for (const sample &s : list_)
            if (all || is_quiet(s)) out.push_back(s.value);
        return out;
    }

private:
    struct sample {
        T value;
        double rate;  // of the slower probe
    };
    bool is_quiet(const sample &s) const { return probe_.quiet(threads_, s.rate); }

    quiet_probe &probe_;
    unsigned threads_;
    double before_;
    std::vector<sample> list_;
};

}  // namespace bench
