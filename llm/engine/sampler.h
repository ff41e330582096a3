// From logits to a token. All sums are sums of integers, so a choice depends on the logits, the parameters,
// the seed and the position alone.
#pragma once

#include "../text/tokenizer.h"

#include <optional>

namespace ds {

struct sampling {
    float temperature = 0;  // 0, or so small that its reciprocal is infinite: the most likely token
    uint32_t top_k = 0;     // 0: off, here and below
    float top_p = 0, min_p = 0;
    float repetition_penalty = 0, presence_penalty = 0, frequency_penalty = 0;
    uint64_t seed = 0;
    std::vector<std::pair<token_id, float>> bias;

    bool penalises() const {
        return (repetition_penalty != 0 && repetition_penalty != 1) || presence_penalty != 0 ||
               frequency_penalty != 0;
    }
    // True if bias and penalties never raise a logit.
    bool only_lowers() const;
    // 1 / temperature; 0: the most likely token, whatever the other parameters.
    float factor() const;
};

// The most likely tokens of a row of logits, most likely first, ties by lowest id. All other tokens rank
// after the last one.
struct leading_logits {
    // False: some are NaN or +infinity, or all are -infinity; the other fields are then undefined.
    bool finite;
    std::span<const float> logits;
    std::span<const token_id> tokens;  // as many as logits
    size_t vocab;                      // length of the row
    // Sum of sampling_weight over the whole row at sampling::factor(), if that is not 0.
    int64_t total;
};

struct token_logprob {
    token_id token;
    float logprob;
};

// Chooses tokens, with scratch memory allocated once for a vocabulary.
class sampler {
public:
    explicit sampler(size_t vocab);
    static size_t bytes(size_t vocab);

    // `counts`: [vocabulary] occurrences of each token so far, read only if s penalises. No token of
    // `not_these` is chosen unless there is no other. Throws status::numeric if a logit is NaN or +infinity,
    // or all are -infinity.
    token_id choose(const float *logits, const sampling &s, const int32_t *counts, uint64_t position,
                    std::span<const token_id> not_these = {});
    // The same token from the leading logits alone, or nothing if they do not determine it and the whole row
    // is needed.
    std::optional<token_id> choose(const leading_logits &l, const sampling &s, const int32_t *counts,
                                   uint64_t position, std::span<const token_id> not_these = {});

    // ln(sum(exp(logits))): a log-probability is the logit minus this. Throws as `choose`.
    double log_sum(const float *logits);
    // Appends the n most likely tokens, most likely first, ties by lowest id.
    void top(const float *logits, double log_sum, size_t n, std::vector<token_logprob> &out);

private:
    struct candidate {
        float logit;
        token_id token;
        int64_t weight;  // probability relative to the most likely token, times 2^40
    };
    struct cut {  // the tokens that a draw chooses from
        size_t tokens;
        int64_t weight;  // sum over them
    };
    // What is known about the heap of candidates.
    struct pool {
        bool open;      // unknown tokens may rank after its last one
        int64_t total;  // sum of all weights; negative if unknown
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
    const float *from_ = nullptr;  // the logits to choose from: the caller's, or adjusted_
    std::vector<candidate> candidates_;
};

}  // namespace ds
