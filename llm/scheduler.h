// Who gets how much of a step: logic on integers, first come, first served. Answers go first, one row each, so that a long prompt never stalls them;
// what is left goes to prompts in order of submission.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace ds {

struct step_wish {
    int64_t rows;          // known and not yet computed; 0: it wants nothing
    bool all_logits;       // every row's logits are needed (scoring), not only the last one's
};
struct step_share {
    int64_t rows = 0;      // to compute now
    int64_t logits = 0;    // of these, the last ones, whose logits are needed
};

// `shares` gets one share a wish. At most `rows` rows and `logits` rows with logits are given out; somebody gets something whenever somebody wishes something.
void divide_step(std::span<const step_wish> wishes, int64_t rows, int64_t logits, std::vector<step_share> &shares);

} // namespace ds
