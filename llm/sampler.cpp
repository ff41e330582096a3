// The sampler. Probabilities are taken against the most likely token in fixed point, rint(p * 2^40) summed in int64: the order of summing is
// then free, and 2^22 tokens cannot overflow. A draw is a hash of seed and position (the finaliser of splitmix64), so that it needs no state.
#include "sampler.h"

#include "../tensor/numerics.h"

#include <algorithm>
#include <cmath>
#include <limits>

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

// In lanes, which a compiler makes vectors of.
float sampler::largest(const float *logits) const {
    constexpr size_t lanes = 16;
    constexpr float infinity = std::numeric_limits<float>::infinity();
    float most[lanes];
    int32_t wrong[lanes] = {};
    std::fill_n(most, lanes, -infinity);
    const auto take = [&](size_t lane, float x) {
        wrong[lane] |= !(x < infinity);    // NaN, too
        most[lane] = x > most[lane] ? x : most[lane];
    };
    size_t i = 0;
    for (; i + lanes <= vocab_; i += lanes)
        for (size_t j = 0; j < lanes; ++j) take(j, logits[i + j]);
    for (; i < vocab_; ++i) take(0, logits[i]);
    const float max = *std::max_element(most, most + lanes);
    if (std::any_of(wrong, wrong + lanes, [](int32_t w) { return w != 0; }) || !finite_f32(max)) throw error(status::numeric, "the model's logits are not finite");
    return max;
}

double sampler::log_sum(const float *logits) {
    const float max = largest(logits);
    int64_t sum = 0;
    for (size_t i = 0; i < vocab_; ++i) sum += weight_of(logits[i], max, 1.0f);
    return max + log_f64(static_cast<double>(sum) / static_cast<double>(one));
}

bool sampler::less_likely(const candidate &a, const candidate &b) { return a.logit < b.logit || (a.logit == b.logit && a.token > b.token); }

void sampler::top(const float *logits, double log_sum, size_t n, std::vector<token_logprob> &out) {
    candidates_.clear();
    for (size_t i = 0; i < vocab_; ++i) candidates_.push_back({logits[i], static_cast<token_id>(i), 0});
    n = std::min(n, vocab_);
    std::partial_sort(candidates_.begin(), candidates_.begin() + static_cast<ptrdiff_t>(n), candidates_.end(),
                      [](const candidate &a, const candidate &b) { return less_likely(b, a); });
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

// The logits that the choice is made from: bias, then penalties, then what may not be chosen. Gives the largest.
float sampler::adjust(const float *logits, const sampling &s, const int32_t *counts, std::span<const token_id> not_these) {
    const float max = largest(logits);    // refuses what is not a number before anything else touches it
    from_ = logits;
    if (s.bias.empty() && !s.penalises() && not_these.empty()) return max;
    from_ = adjusted_.data();
    std::copy_n(logits, vocab_, adjusted_.begin());
    for (const auto &[token, bias] : s.bias) adjusted_[static_cast<size_t>(token)] += bias;
    if (s.penalises()) penalise(adjusted_, s, counts);
    for (const token_id t : not_these) adjusted_[static_cast<size_t>(t)] = -std::numeric_limits<float>::infinity();
    if (!not_these.empty() && !finite_f32(*std::max_element(adjusted_.begin(), adjusted_.end()))) return adjust(logits, s, counts, {});
    return largest(adjusted_.data());
}

// The tokens of any weight, as a heap whose first is the most likely. Gives their weight.
int64_t sampler::collect(float max, float inverse_temperature) {
    int64_t total = 0;
    candidates_.clear();
    for (size_t i = 0; i < vocab_; ++i) {
        const int64_t w = weight_of(from_[i], max, inverse_temperature);
        total += w;
        if (w > 0) candidates_.push_back({from_[i], static_cast<token_id>(i), w});
    }
    std::make_heap(candidates_.begin(), candidates_.end(), less_likely);
    return total;
}

// The heap's next, most likely first; it moves behind what is left, so that the i-th stands at the i-th place from the end.
const sampler::candidate &sampler::next(size_t taken) {
    std::pop_heap(candidates_.begin(), candidates_.end() - static_cast<ptrdiff_t>(taken), less_likely);
    return ranked(taken);
}

// Takes the most likely tokens off the heap as far as top_k, top_p (of the weight that top_k leaves) and min_p let them, of all that weigh `total`.
sampler::cut sampler::keep(const sampling &s, int64_t total) {
    const size_t most = s.top_k ? std::min<size_t>(s.top_k, candidates_.size()) : candidates_.size();
    const bool by_p = s.top_p > 0 && s.top_p < 1;
    size_t taken = 0;
    if (by_p && most < candidates_.size())
        for (total = 0; taken < most;) total += next(taken++).weight;
    const double enough = by_p ? static_cast<double>(s.top_p) * static_cast<double>(total) : std::numeric_limits<double>::infinity();
    const float least = s.min_p * one;
    cut kept = {0, 0};
    while (kept.tokens < most && static_cast<double>(kept.weight) < enough) {
        if (kept.tokens == taken) next(taken++);
        const candidate &c = ranked(kept.tokens);
        if (kept.tokens > 0 && static_cast<float>(c.weight) < least) break;
        kept.weight += c.weight;
        ++kept.tokens;
    }
    return kept;
}

token_id sampler::choose(const float *logits, const sampling &s, const int32_t *counts, uint64_t position, std::span<const token_id> not_these) {
    const float max = adjust(logits, s, counts, not_these), inverse = 1.0f / s.temperature;
    if (!finite_f32(inverse)) return static_cast<token_id>(std::find(from_, from_ + vocab_, max) - from_);    // 0, or as good as that
    const int64_t total = collect(max, inverse);
    const bool all = !s.top_k && !(s.top_p > 0 && s.top_p < 1) && !(s.min_p > 0);
    const cut kept = all ? cut{candidates_.size(), total} : keep(s, total);
    const auto target = static_cast<int64_t>((static_cast<unsigned __int128>(draw_bits(s.seed, position)) * static_cast<uint64_t>(kept.weight)) >> 64);
    int64_t passed = 0;
    for (size_t i = 0;; ++i) {
        const candidate &c = all ? next(i) : ranked(i);    // ends: target lies below the sum of the weights
        passed += c.weight;
        if (target < passed) return c.token;
    }
}

} // namespace ds
