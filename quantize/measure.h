// How well a model predicts texts, and how far its distributions are from another's.
#pragma once

#include "forward.h"
#include "text.h"

namespace ds {

// Each runs all windows. `stepped` is called after each step of the pass; it may throw.
using step_fn = std::function<void()>;
// of each token after a window's first; natural logarithm
double mean_nll(forward &pass, const text_windows &text, const step_fn &stepped);
// [tokens, vocab]
std::vector<float> logits_of(forward &pass, const text_windows &text, const step_fn &stepped);
// KL(logits || pass's)
double mean_divergence(forward &pass, const text_windows &text, const std::vector<float> &logits,
                       const step_fn &stepped);

}  // namespace ds
