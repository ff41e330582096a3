// The median, a figure that survives measurements which the machine disturbs.
#pragma once

#include <algorithm>
#include <vector>

namespace bench {

// Of at least one value; the mean of the middle two for an even number.
inline double median(std::vector<double> v) {
    std::sort(v.begin(), v.end());
    return (v[v.size() / 2] + v[(v.size() - 1) / 2]) / 2;
}

}  // namespace bench
