// Probabilities are relative to the most likely token, in fixed point: rint(p * 2^40), summed in int64. So
// the order of summation is free, and 2^22 tokens cannot overflow. A draw's random number is a hash of seed
// and position (the finaliser of splitmix64), so that it needs no state.
#include "sampler.h"

#include "../../tensor/numerics.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace ds {

static constexpr float one = sampling_one;

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

bool sampling::only_lowers() const {
    const bool biases = std::all_of(bias.begin(), bias.end(), [](const auto &b) { return b.second <= 0; });
    return biases && (repetition_penalty == 0 || repetition_penalty >= 1) && presence_penalty >= 0 &&
           frequency_penalty >= 0;
}
float sampling::factor() const {
    const float f = 1.0f / temperature;
    return finite_f32(f) ? f : 0.0f;
}

sampler::sampler(size_t vocab) : vocab_(vocab), adjusted_(vocab) { candidates_.reserve(vocab); }

size_t sampler::bytes(size_t vocab) { return vocab * (sizeof(float) + sizeof(candidate)); }

[[noreturn]] static void refuse() { throw error(status::numeric, "the model's logits are not finite"); }

// Separate lanes, so that the compiler can vectorize.
float sampler::largest(const float *logits) const {
    constexpr size_t lanes = 16;
    constexpr float infinity = std::numeric_limits<float>::infinity();
    float most[lanes];
    int32_t wrong[lanes] = {};
    std::fill_n(most, lanes, -infinity);
    const auto take = [&](size_t lane, float x) {
        wrong[lane] |= !(x < infinity);  // true for NaN too
        most[lane] = x > most[lane] ? x : most[lane];
    };
    size_t i = 0;
    for (; i + lanes <= vocab_; i += lanes)
        for (size_t j = 0; j < lanes; ++j) take(j, logits[i + j]);
    for (; i < vocab_; ++i) take(0, logits[i]);
    const float max = *std::max_element(most, most + lanes);
    if (std::any_of(wrong, wrong + lanes, [](int32_t w) { return w != 0; }) || !finite_f32(max)) refuse();
    return max;
}

double sampler::log_sum(const float *logits) {
    const float max = largest(logits);
    int64_t sum = 0;
    for (size_t i = 0; i < vocab_; ++i) sum += sampling_weight(logits[i], max, 1.0f);
    return log_sum_of(max, sum);
}

bool sampler::less_likely(const candidate &a, const candidate &b) {
    return a.logit < b.logit || (a.logit == b.logit && a.token > b.token);
}
bool sampler::more_likely(const candidate &a, const candidate &b) { return less_likely(b, a); }

void sampler::top(const float *logits, double log_sum, size_t n, std::vector<token_logprob> &out) {
    candidates_.clear();
    for (size_t i = 0; i < vocab_; ++i) candidates_.push_back({logits[i], static_cast<token_id>(i), 0});
    n = std::min(n, vocab_);
    std::partial_sort(candidates_.begin(), candidates_.begin() + static_cast<ptrdiff_t>(n), candidates_.end(),
                      more_likely);
    for (size_t i = 0; i < n; ++i)
        out.push_back({candidates_[i].token, static_cast<float>(candidates_[i].logit - log_sum)});
}

static float penalised(float l, const sampling &s, int32_t count) {
    if (!count) return l;
    if (s.repetition_penalty != 0) l = l > 0 ? l / s.repetition_penalty : l * s.repetition_penalty;
    return l - s.presence_penalty - s.frequency_penalty * static_cast<float>(count);
}

// Prepares the logits to choose from: bias, then penalties, then forbidden tokens. Returns the largest.
float sampler::adjust(const float *logits, const sampling &s, const int32_t *counts,
                      std::span<const token_id> not_these) {
    const float max = largest(logits);  // throws before anything else reads a value that is not finite
    from_ = logits;
    if (s.bias.empty() && !s.penalises() && not_these.empty()) return max;
    from_ = adjusted_.data();
    std::copy_n(logits, vocab_, adjusted_.begin());
    for (const auto &[token, bias] : s.bias) adjusted_[static_cast<size_t>(token)] += bias;
    if (s.penalises())
        for (size_t i = 0; i < vocab_; ++i) adjusted_[i] = penalised(adjusted_[i], s, counts[i]);
    for (const token_id t : not_these)
        adjusted_[static_cast<size_t>(t)] = -std::numeric_limits<float>::infinity();
    if (!not_these.empty() && !finite_f32(*std::max_element(adjusted_.begin(), adjusted_.end())))
        return adjust(logits, s, counts, {});
    return largest(adjusted_.data());
}

// Makes a heap of the tokens with nonzero weight, the most likely first.
sampler::pool sampler::collect(float max, float factor) {
    int64_t total = 0;
    candidates_.clear();
    for (size_t i = 0; i < vocab_; ++i) {
        const int64_t w = sampling_weight(from_[i], max, factor);
        total += w;
        if (w > 0) candidates_.push_back({from_[i], static_cast<token_id>(i), w});
    }
    std::make_heap(candidates_.begin(), candidates_.end(), less_likely);
    return {false, total};
}

// The same for leading tokens, as candidates without weights: those that certainly rank before all unknown
// tokens. Returns the largest logit, or nothing if it might belong to an unknown token. No logit is raised,
// so unknown tokens still rank after the unadjusted last leading one.
std::optional<float> sampler::adjust(const leading_logits &l, const sampling &s, const int32_t *counts,
                                     std::span<const token_id> not_these) {
    const candidate last = {l.logits.back(), l.tokens.back(), 0};
    candidates_.clear();
    for (size_t i = 0; i < l.tokens.size(); ++i) {
        candidate c = {l.logits[i], l.tokens[i], 0};
        for (const auto &[token, bias] : s.bias)
            if (token == c.token) c.logit += bias;
        if (s.penalises()) c.logit = penalised(c.logit, s, counts[c.token]);
        if (std::find(not_these.begin(), not_these.end(), c.token) != not_these.end())
            c.logit = -std::numeric_limits<float>::infinity();
        if (l.tokens.size() == l.vocab || !less_likely(c, last)) candidates_.push_back(c);
    }
    if (candidates_.empty()) return std::nullopt;
    const float max = std::min_element(candidates_.begin(), candidates_.end(), more_likely)->logit;
    if (finite_f32(max)) return max;
    return std::nullopt;
}

// Sets the candidates' weights and makes them a heap. No token after one of weight 0 has a weight.
sampler::pool sampler::weigh(float max, float factor, bool open, int64_t total) {
    int64_t sum = 0;
    for (candidate &c : candidates_) {
        sum += c.weight = sampling_weight(c.logit, max, factor);
        open &= c.weight > 0;
    }
    std::erase_if(candidates_, [](const candidate &c) { return c.weight == 0; });
    std::make_heap(candidates_.begin(), candidates_.end(), less_likely);
    return {open, open ? total : sum};
}

// Pops the heap's most likely candidate to the end of the remaining ones, so that the i-th popped is the i-th
// from the end.
const sampler::candidate &sampler::next(size_t taken) {
    std::pop_heap(candidates_.begin(), candidates_.end() - static_cast<ptrdiff_t>(taken), less_likely);
    return ranked(taken);
}

// Pops the most likely tokens as far as top_k, top_p (of the weight that top_k leaves) and min_p allow.
// Nothing if the result depends on unknown tokens.
std::optional<sampler::cut> sampler::keep(const sampling &s, const pool &p) {
    const size_t known = candidates_.size(), most = s.top_k ? std::min<size_t>(s.top_k, known) : known;
    const bool by_p = s.top_p > 0 && s.top_p < 1, open = p.open && (!s.top_k || s.top_k > known);
    size_t taken = 0;
    int64_t total = p.total;
    if (by_p && (s.top_k && open)) return std::nullopt;
    if (by_p && s.top_k && (most < known || p.open))
        for (total = 0; taken < most;) total += next(taken++).weight;
    if (by_p && total < 0) return std::nullopt;
    const double enough = by_p ? static_cast<double>(s.top_p) * static_cast<double>(total)
                               : std::numeric_limits<double>::infinity();
    const float least = s.min_p * one;
    cut kept = {0, 0};
    while (static_cast<double>(kept.weight) < enough) {
        if (kept.tokens == most) {
            if (open) return std::nullopt;
            break;
        }
        if (kept.tokens == taken) next(taken++);
        const candidate &c = ranked(kept.tokens);
        if (kept.tokens > 0 && static_cast<float>(c.weight) < least) break;
        kept.weight += c.weight;
        ++kept.tokens;
    }
    return kept;
}

std::optional<token_id> sampler::draw(const sampling &s, const pool &p, uint64_t position) {
    const bool all = !s.top_k && !(s.top_p > 0 && s.top_p < 1) && !(s.min_p > 0);
    if (all && p.total < 0) return std::nullopt;
    const std::optional<cut> kept = all ? cut{candidates_.size(), p.total} : keep(s, p);
    if (!kept) return std::nullopt;
    const auto target = static_cast<int64_t>(
        (static_cast<unsigned __int128>(draw_bits(s.seed, position)) * static_cast<uint64_t>(kept->weight)) >>
        64);
    int64_t passed = 0;
    for (size_t i = 0; i < kept->tokens; ++i) {
        const candidate &c = all ? next(i) : ranked(i);
        passed += c.weight;
        if (target < passed) return c.token;
    }
    return std::nullopt;  // only if some tokens are unknown: target is below the sum of all weights
}

token_id sampler::choose(const float *logits, const sampling &s, const int32_t *counts, uint64_t position,
                         std::span<const token_id> not_these) {
    const float max = adjust(logits, s, counts, not_these), factor = s.factor();
    if (factor == 0) return static_cast<token_id>(std::find(from_, from_ + vocab_, max) - from_);
    return *draw(s, collect(max, factor), position);
}

std::optional<token_id> sampler::choose(const leading_logits &l, const sampling &s, const int32_t *counts,
                                        uint64_t position, std::span<const token_id> not_these) {
    if (!l.finite) refuse();
    if (!s.only_lowers()) return std::nullopt;
    const std::optional<float> max = adjust(l, s, counts, not_these);
    if (!max) return std::nullopt;
    const float factor = s.factor();
    if (factor == 0) return std::min_element(candidates_.begin(), candidates_.end(), more_likely)->token;
    const bool as_given = s.bias.empty() && !s.penalises() && not_these.empty(),
               open = l.tokens.size() < l.vocab;
    return draw(s, weigh(*max, factor, open, as_given ? l.total : -1), position);
}

}  // namespace ds
