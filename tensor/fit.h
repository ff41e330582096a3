// Search for the scales with the least squared error, weighted by importance, and the levels that go with
// them; for encode.cpp. Candidates surround the scale that maps the largest element to the last level. A
// candidate is judged by the least-squares scale for its levels, and the best is refitted. The method is that
// described for k-quants in ggml-org/llama.cpp pull request 1684.
// Elements that share a scale are a part; four parts are searched together, one per lane.
#pragma once

#include "blocks.h"
#include "lanes.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace ds {

// x[i] is element i of four parts of n, w[i] its weight; unweighted, all weights are 1.
template <int n, bool weighted> struct group {
    static constexpr int size = n;
    v4 x[n], w[weighted ? n : 1];

    // Lane l takes the part at l * n; lanes from `valid` on repeat lane 0.
    void load(const float *from, const float *weight, int valid = 4) {
        for (int i = 0; i < n; ++i)
            for (int l = 0; l < 4; ++l) {
                const int at = (l < valid ? l : 0) * n + i;
                x[i][l] = from[at];
                if (weighted) w[i][l] = weight[at];
            }
    }
    v4 counted(int i, v4 a) const { return weighted ? w[i] * a : a; }
    v4 total() const {
        v4 sum = lanes(weighted ? 0.0f : static_cast<float>(n));
        for (int i = 0; weighted && i < n; ++i) sum += w[i];
        return sum;
    }
};

struct range {
    int low, high;
};

inline v4 level(v4 x, range r) {
    return nearest(larger(smaller(x, lanes(static_cast<float>(r.high))), lanes(static_cast<float>(r.low))));
}

// ---- Without a minimum: x = d q

struct even_levels {
    range r;
    v4 operator()(v4 x) const { return level(x, r); }
};

struct scale_sums {
    v4 xq, qq;
};
template <class G, class L> scale_sums sums_of(const G &g, const L &levels, v4 inverse) {
    scale_sums s = {lanes(0.0f), lanes(0.0f)};
    for (int i = 0; i < G::size; ++i) {
        const v4 q = levels(g.x[i] * inverse), wq = g.counted(i, q);
        s.xq += g.x[i] * wq;
        s.qq += wq * q;
    }
    return s;
}

template <class G> v4 largest_of(const G &g) {  // signed
    v4 most = lanes(0.0f);
    for (const v4 x : g.x) most = magnitude(x) > magnitude(most) ? x : most;
    return most;
}

// The best of the scales that map the largest element to end + k * step, k from -steps to steps, for each of
// two ends.
template <class G, class L>
v4 fitted_scale(const G &g, const L &levels, const float (&ends)[2], float step, int steps) {
    const v4 most = largest_of(g);
    v4 best = lanes(0.0f), least = best;  // the squared error is that of all zeros, minus `gain`
    for (const float end : ends)
        for (int k = -steps; k <= steps; ++k) {
            const scale_sums s =
                sums_of(g, levels, quotient(lanes(end + step * static_cast<float>(k)), most));
            const v4 d = quotient(s.xq, s.qq), gain = d * s.xq;
            best = gain > least ? d : best;
            least = larger(gain, least);
        }
    const scale_sums s = sums_of(g, levels, quotient(lanes(1.0f), best));
    return quotient(s.xq, s.qq);
}
template <class G> v4 fitted_scale(const G &g, range r) {
    return fitted_scale(g, even_levels{r}, {static_cast<float>(r.low), static_cast<float>(r.high)}, 0.3f, 3);
}

// ---- With a minimum: x = d q + m, q from 0 to `high`

struct line {
    float d, m;
};
struct lines {
    v4 d, m;
};

// Least-squares sums of x - low over levels. If `below` is set, a minimum above 0 becomes 0.
struct line_sums {
    v4 w, x, l, xl, ll;
};
template <class G> line_sums sums_of(const G &g, int high, v4 inverse, v4 offset, v4 low) {
    line_sums s = {g.total(), lanes(0.0f), lanes(0.0f), lanes(0.0f), lanes(0.0f)};
    for (int i = 0; i < G::size; ++i) {
        const v4 x = g.x[i] - low, q = level((x - offset) * inverse, {0, high}), wq = g.counted(i, q);
        s.x += g.counted(i, x);
        s.l += wq;
        s.xl += x * wq;
        s.ll += q * wq;
    }
    return s;
}
inline lines fitted_to(const line_sums &s, v4 low, bool below) {
    const v4 determinant = s.w * s.ll - s.l * s.l;
    v4 d = determinant > 0.0f ? (s.w * s.xl - s.x * s.l) / determinant : lanes(0.0f),
       m = quotient(s.x - d * s.l, s.w);
    if (below) {
        const i4 above = m + low > 0.0f;
        d = above ? quotient(s.xl + low * s.l, s.ll) : d;
        m = above ? -low : m;
    }
    return {larger(d, lanes(0.0f)), m};
}

template <class G> lines fitted_line(const G &g, int high, bool below) {
    v4 low = below ? lanes(0.0f) : g.x[0], top = g.x[0];
    for (const v4 x : g.x) low = smaller(low, x), top = larger(top, x);
    lines best = {lanes(0.0f), lanes(0.0f)};
    v4 most = lanes(-std::numeric_limits<float>::infinity());
    for (int k = -4; k <= 8; ++k) {
        const line_sums s = sums_of(
            g, high, quotient(lanes(static_cast<float>(high) + 0.2f * static_cast<float>(k)), top - low),
            lanes(0.0f), low);
        const lines f = fitted_to(s, low, below);
        const v4 gain = f.d * (2.0f * s.xl - f.d * s.ll) + f.m * (2.0f * s.x - f.m * s.w - 2.0f * f.d * s.l);
        const i4 better = gain > most;
        best = {better ? f.d : best.d, better ? f.m : best.m};
        most = larger(gain, most);
    }
    const lines f = fitted_to(sums_of(g, high, quotient(lanes(1.0f), best.d), best.m, low), low, below);
    return {f.d, larger(smaller(f.m + low, lanes(65504.0f)), lanes(-65504.0f))};  // the range of f16
}

// Writes the levels for these scales to q, unless it is null; returns the error that they leave.
template <class G> v4 take_levels(const G &g, range r, lines l, int8_t *q) {
    const v4 inverse = quotient(lanes(1.0f), l.d);
    v4 error = lanes(0.0f);
    for (int i = 0; i < G::size; ++i) {
        const v4 a = level((g.x[i] - l.m) * inverse, r), off = g.x[i] - (l.d * a + l.m);
        error += g.counted(i, off * off);
        for (int lane = 0; q && lane < 4; ++lane) q[lane * G::size + i] = static_cast<int8_t>(a[lane]);
    }
    return error;
}

}  // namespace ds
