// What a number usually is, where a machine disturbs some of its measurements.
#pragma once

#include <algorithm>
#include <vector>

namespace bench {

// Of at least one; between the two in the middle where they are even in number.
inline double median(std::vector<double> v) {
    std::sort(v.begin(), v.end());
    return (v[v.size() / 2] + v[(v.size() - 1) / 2]) / 2;
}

}  // namespace bench
