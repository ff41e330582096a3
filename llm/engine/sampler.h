// From logits to a token. Everything that is summed is summed in integers, so a choice depends on the logits,
// the parameters, the seed and the position alone.
#pragma once

#include "../text/tokenizer.h"

#include <optional>

namespace ds {

struct sampling {
    float temperature = 0;  // 0, or so small that 1 / it is infinite: the most likely token
    uint32_t top_k = 0;     // 0: off; likewise below
    float top_p = 0, min_p = 0;
    float repetition_penalty = 0, presence_penalty = 0, frequency_penalty = 0;
    uint64_t seed = 0;
    std::vector<std::pair<token_id, float>> bias;

    bool penalises() const {
        return (repetition_penalty != 0 && repetition_penalty != 1) || presence_penalty != 0 ||
               frequency_penalty != 0;
    }
    // No logit becomes larger than the model gave it.
    bool only_lowers() const;
    // 1 / temperature; 0: the most likely token, whatever else is asked for.
    float factor() const;
};

// What is known of a row of logits: the most likely tokens, most likely first, ties by lowest id. Those that
// are not among them come behind the last one.
struct leading_logits {
    // false: some are NaN or infinity, or all are minus infinity; and nothing else is known
    bool numbers;
    std::span<const float> logits;
    std::span<const token_id> tokens;  // as many
    size_t vocab;                      // of the row
    // the sum of sampling_weight over the whole row by sampling's factor, where that is not 0
    int64_t total;
};

struct token_logprob {
    token_id token;
    float logprob;
};

// Scratch for one choice, sized once for a vocabulary.
class sampler {
public:
    explicit sampler(size_t vocab);
    static size_t bytes(size_t vocab);

    // `counts`: how often each token occurred so far, read only when s penalises. None of `not_these` is
    // chosen while there is another. Throws status::numeric when a logit is NaN or +infinity.
    token_id choose(const float *logits, const sampling &s, const int32_t *counts, uint64_t position,
                    std::span<const token_id> not_these = {});
    // The same token from the leading ones, or nothing where these do not tell which: more of the row is then
    // needed.
    std::optional<token_id> choose(const leading_logits &l, const sampling &s, const int32_t *counts,
                                   uint64_t position, std::span<const token_id> not_these = {});

    // ln sum exp(logits): log-probabilities are logit minus it. Throws status::numeric likewise.
    double log_sum(const float *logits);
    // The n most likely, most likely first, ties by lowest id.
    void top(const float *logits, double log_sum, size_t n, std::vector<token_logprob> &out);

private:
    struct candidate {
        float logit;
        token_id token;
        int64_t weight;  // probability against the most likely, times 2^40
    };
    struct cut {  // the tokens that a draw is made from
        size_t tokens;
        int64_t weight;  // their sum
    };
    // The heap of candidates, and what it stands for.
    struct pool {
        bool open;      // there may be others behind its last one
        int64_t total;  // of all weights; unknown: less than 0
    };
    static bool less_likely(const candidate &a, const candidate &b);
    static bool more_likely(const candidate &a, const candidate &b);
    float largest(const float *logits) const;
    float adjust(const float *logits, const sampling &s, const int32_t *counts,
                 std::span<const token_id> not_these);
    pool collect(float max, float factor);
    std::optional<float> adjust(const leading_logits &l, const sampling &s, const int32_t *counts,
                                std::span<const token_id> not_these);
    pool weigh(float max, float factor, bool open, int64_t total);
    std::optional<token_id> draw(const sampling &s, const pool &p, uint64_t position);
    const candidate &next(size_t taken);
    const candidate &ranked(size_t i) const { return candidates_[candidates_.size() - 1 - i]; }
    std::optional<cut> keep(const sampling &s, const pool &p);
    size_t vocab_;
    std::vector<float> adjusted_;
    const float *from_ = nullptr;  // what the choice is made from: the logits, or adjusted_
    std::vector<candidate> candidates_;
};

}  // namespace ds
