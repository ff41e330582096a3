// Sums over the vocabulary are in double. NaN logits give NaN, which no bound accepts.

#include "measure.h"

#include <algorithm>
#include <cmath>

namespace ds {

static double log_sum(const float *x, size_t n) {
    const double most = *std::max_element(x, x + n);
    double sum = 0;
    for (size_t i = 0; i < n; ++i) sum += std::exp(x[i] - most);
    return most + std::log(sum);
}

// each(logits of a position, its index in all windows together, the window, its index in the window)
template <class F>
static void each_row(forward &pass, const text_windows &text, const step_fn &stepped, const F &each) {
    size_t before = 0;
    for (const std::vector<token_id> &w : text.list) {
        pass.run(w, [&](const graph &, const tensor &logits, int64_t first) {
            for (int64_t r = 0; r < logits.ne[0]; ++r) {
                const auto index = static_cast<size_t>(first + r);
                each(std::span<const float>(f32_at(logits, r), static_cast<size_t>(logits.ne[1])),
                     before + index, w, index);
            }
            stepped();
        });
        before += w.size();
    }
}

double mean_nll(forward &pass, const text_windows &text, const step_fn &stepped) {
    double sum = 0;
    uint64_t n = 0;
    each_row(pass, text, stepped,
             [&](std::span<const float> x, size_t, const std::vector<token_id> &w, size_t index) {
                 if (index + 1 == w.size()) return;
                 sum += log_sum(x.data(), x.size()) - x[static_cast<size_t>(w[index + 1])];
                 ++n;
             });
    return sum / static_cast<double>(n);
}

std::vector<float> logits_of(forward &pass, const text_windows &text, const step_fn &stepped) {
    std::vector<float> out;
    each_row(pass, text, stepped,
             [&](std::span<const float> x, size_t, const std::vector<token_id> &, size_t) {
                 out.insert(out.end(), x.begin(), x.end());
             });
    return out;
}

double mean_divergence(forward &pass, const text_windows &text, const std::vector<float> &logits,
                       const step_fn &stepped) {
    double sum = 0;
    each_row(pass, text, stepped,
             [&](std::span<const float> q, size_t row, const std::vector<token_id> &, size_t) {
                 const float *const p = logits.data() + row * q.size();
                 const double lp = log_sum(p, q.size()), lq = log_sum(q.data(), q.size());
                 for (size_t i = 0; i < q.size(); ++i)
                     sum += std::exp(p[i] - lp) * ((p[i] - lp) - (q[i] - lq));
             });
    return sum / static_cast<double>(text.tokens);
}

}  // namespace ds
