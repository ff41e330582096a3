// What an engine answers, compared to the bit: its tokens and the logits that they were chosen by.
#pragma once

#include "../support/golden.h"

#include "../../llm/engine/engine.h"

#include <climits>
#include <map>

namespace ds::test {

struct answer {
    std::vector<int32_t> tokens;
    std::vector<float> logits;
    bool operator==(const answer &o) const {
        return tokens == o.tokens && golden::same_bits(logits, o.logits);
    }
};
using answers = std::map<uint64_t, answer>;  // by request id

// Takes at most `most` steps, fewer when the engine becomes idle.
inline void steps(engine &e, size_t vocab, int most, answers &out) {
    for (int i = 0; i < most && !e.idle(); ++i) {
        const engine::turn turn(e);
        for (const event &event : e.step(turn)) {
            answer &a = out[event.request];
            if (event.type == event_type::token) a.tokens.push_back(event.token);
            if (event.logits) a.logits.insert(a.logits.end(), event.logits, event.logits + vocab);
        }
    }
}
inline answers run_all(engine &e, size_t vocab) {
    answers out;
    steps(e, vocab, INT_MAX, out);
    return out;
}

}  // namespace ds::test
