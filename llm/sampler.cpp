// The sampler. Probabilities are taken against the most likely token in fixed point, rint(p * 2^40) summed in int64: the order of summing is
// then free, and 2^22 tokens cannot overflow. A draw is a hash of seed and position (the finaliser of splitmix64), so that it needs no state.
#include "sampler.h"

#include "../tensor/numerics.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace ds {

static constexpr float one = 1099511627776.0f;    // 2^40

static int64_t weight_of(float logit, float max, float inverse_temperature) {
    return static_cast<int64_t>(__builtin_rintf(exp_f32((logit - max) * inverse_temperature) * one));
}

// 64 random bits for a seed and a position.
static uint64_t draw_bits(uint64_t seed, uint64_t position) {
    uint64_t z = seed * 0xd1342543de82ef95ull + (position + 1) * 0x9e3779b97f4a7c15ull;
    for (int i = 0; i < 2; ++i) {
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
        z ^= z >> 31;
    }
    return z;
}

sampler::sampler(size_t vocab) : vocab_(vocab), adjusted_(vocab) { candidates_.reserve(vocab); }

size_t sampler::bytes(size_t vocab) { return vocab * (sizeof(float) + sizeof(candidate)); }

float sampler::largest(const float *logits) const {
    float max = -std::numeric_limits<float>::infinity();
    bool numbers = true;
    for (size_t i = 0; i < vocab_; ++i) {
        numbers &= logits[i] < std::numeric_limits<float>::infinity();    // false for NaN, too
        max = logits[i] > max ? logits[i] : max;
    }
    if (!numbers || !finite_f32(max)) throw error(status::numeric, "the model's logits are not finite");
    return max;
}

double sampler::log_sum(const float *logits) {
    const float max = largest(logits);
    int64_t sum = 0;
    for (size_t i = 0; i < vocab_; ++i) sum += weight_of(logits[i], max, 1.0f);
    return max + log_f64(static_cast<double>(sum) / static_cast<double>(one));
}

static bool before(float logit_a, token_id a, float logit_b, token_id b) { return logit_a > logit_b || (logit_a == logit_b && a < b); }

void sampler::top(const float *logits, double log_sum, size_t n, std::vector<token_logprob> &out) {
    candidates_.clear();
    for (size_t i = 0; i < vocab_; ++i) candidates_.push_back({logits[i], static_cast<token_id>(i), 0});
    n = std::min(n, vocab_);
    std::partial_sort(candidates_.begin(), candidates_.begin() + static_cast<ptrdiff_t>(n), candidates_.end(),
                      [](const candidate &a, const candidate &b) { return before(a.logit, a.token, b.logit, b.token); });
    for (size_t i = 0; i < n; ++i) out.push_back({candidates_[i].token, static_cast<float>(candidates_[i].logit - log_sum)});
}

static void penalise(std::vector<float> &logits, const sampling &s, const int32_t *counts) {
    for (size_t i = 0; i < logits.size(); ++i) {
        if (!counts[i]) continue;
        float &l = logits[i];
        if (s.repetition_penalty != 0) l = l > 0 ? l / s.repetition_penalty : l * s.repetition_penalty;
        l = l - s.presence_penalty - s.frequency_penalty * static_cast<float>(counts[i]);
    }
}

token_id sampler::choose(const float *logits, const sampling &s, const int32_t *counts, uint64_t position) {
    largest(logits);    // refuses what is not a number before anything else touches it
    std::copy_n(logits, vocab_, adjusted_.begin());
    for (const auto &[token, bias] : s.bias) adjusted_[static_cast<size_t>(token)] += bias;
    if (s.penalises()) penalise(adjusted_, s, counts);
    const float max = largest(adjusted_.data());
    if (s.temperature == 0) return static_cast<token_id>(std::find(adjusted_.begin(), adjusted_.end(), max) - adjusted_.begin());

    const float inverse = 1.0f / s.temperature;
    int64_t total = 0;
    candidates_.clear();
    for (size_t i = 0; i < vocab_; ++i) {
        const int64_t w = weight_of(adjusted_[i], max, inverse);
        total += w;
        if (w > 0) candidates_.push_back({adjusted_[i], static_cast<token_id>(i), w});
    }
    std::sort(candidates_.begin(), candidates_.end(), [](const candidate &a, const candidate &b) { return before(a.logit, a.token, b.logit, b.token); });
    size_t kept = candidates_.size();
    if (s.top_k) kept = std::min<size_t>(kept, s.top_k);
    if (s.top_p > 0 && s.top_p < 1) {
        int64_t within = 0;    // of the probability left after top_k
        if (s.top_k) total = std::accumulate(candidates_.begin(), candidates_.begin() + static_cast<ptrdiff_t>(kept), int64_t{0}, [](int64_t t, const candidate &c) { return t + c.weight; });
        const double enough = static_cast<double>(s.top_p) * static_cast<double>(total);
        size_t n = 0;
        while (n < kept && static_cast<double>(within) < enough) within += candidates_[n++].weight;
        kept = std::max<size_t>(n, 1);
    }
    const float least = s.min_p * one;
    while (kept > 1 && static_cast<float>(candidates_[kept - 1].weight) < least) --kept;

    total = 0;
    for (size_t i = 0; i < kept; ++i) total += candidates_[i].weight;
    const auto target = static_cast<int64_t>((static_cast<unsigned __int128>(draw_bits(s.seed, position)) * static_cast<uint64_t>(total)) >> 64);
    int64_t passed = 0;
    for (size_t i = 0; i < kept; ++i) {
        passed += candidates_[i].weight;
        if (target < passed) return candidates_[i].token;
    }
    return candidates_[0].token;
}

} // namespace ds
