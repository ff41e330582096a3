// Two passes over the wishes in order of submission: single rows (answers), then longer ones (prompts).
#include "scheduler.h"

#include <algorithm>

namespace ds {

void divide_step(std::span<const step_wish> wishes, int64_t rows, int64_t logits, std::vector<step_share> &shares) {
    shares.assign(wishes.size(), {});
    for (const bool single : {true, false})
        for (size_t i = 0; i < wishes.size(); ++i) {
            const step_wish &w = wishes[i];
            if (w.rows == 0 || (w.rows == 1) != single) continue;
            int64_t n = std::min(w.rows, rows);
            if (w.all_logits) n = std::min(n, logits);
            // The last row of all needs its logits; without room for them the row waits, and the rest goes ahead.
            if (!w.all_logits && n == w.rows && logits == 0) --n;
            shares[i] = {n, w.all_logits ? n : n == w.rows && n > 0 ? 1 : 0};
            rows -= n;
            logits -= shares[i].logits;
        }
}

} // namespace ds
