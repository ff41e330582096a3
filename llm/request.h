// One request on its way: its text so far, what it has computed, and how its answer ends.
#pragma once

#include "sampler.h"
#include "thinking.h"

#include <atomic>
#include <deque>
#include <optional>

namespace ds {

enum class finish : int { none = 0, stop = 1, length = 2, context = 3, cancelled = 4, error = 5, scored = 6 };
enum class request_state : int { queued = 0, prompt = 1, answer = 2, done = 3 };

constexpr size_t max_top_logprobs = 64;

struct request_options {
    std::vector<token_id> prompt;
    bool score = false, logits = false, logprobs = false, ignore_end = false, special = false;
    uint64_t max_new = 0;              // 0: until the context is full
    size_t top_logprobs = 0;
    std::optional<uint64_t> think_budget;    // tokens of its own that the model may think
    std::vector<token_id> think_ending;      // what then follows: think_ending()
    ds::sampling sampling;
    std::vector<std::string> stop;
    void *user = nullptr;
};

// Text that comes in pieces, of which what may be the beginning of a stop text is held back.
class stop_matcher {
public:
    explicit stop_matcher(const std::vector<std::string> &stops) : stops_(stops) {}
    // Appends `piece`, and to `out` what is certainly not part of a stop text. True when a stop text is complete: what comes before it is in `out`.
    bool push(std::string_view piece, std::string &out);
    void finish(std::string &out);     // the answer ended otherwise: what was held back is text after all
    bool stopped() const { return stopped_; }

private:
    std::vector<std::string> stops_;
    std::string held_;
    bool stopped_ = false;
};

struct request {
    request(uint64_t id, request_options o, int64_t max_positions, channel_cutter channels);

    uint64_t id;
    const request_options options;
    const int64_t max_positions;       // prompt and answer, at most
    std::vector<token_id> tokens;      // prompt and answer so far
    int64_t computed = 0;              // of `tokens`, how many have their keys and values in the pages
    std::vector<int32_t> pages;
    int64_t sequence = -1;             // row of the engine's page tables while it runs
    std::vector<int32_t> counts;       // occurrences a token, when penalties need them

    utf8_stream text;
    stop_matcher stops;
    channel_cutter channels;
    std::string decoded, certain;      // scratch: of a token, what became complete; of that, what is no part of a stop text
    std::deque<std::string> said;      // the texts of this step's events
    float next_logprob = 0;            // scoring: of the token after those computed
    bool closed = false, fresh_answer = false;       // the thought was brought to its end; and nothing was chosen since
    uint64_t thinking_tokens = 0, answer_tokens = 0, injected_tokens = 0;    // all of `tokens` but the prompt
    double submitted = 0, started = 0, first = 0;    // os::seconds()

    // Read by other threads.
    std::atomic<request_state> state{request_state::queued};
    std::atomic<uint64_t> prompt_done{0}, produced{0};
    std::atomic<bool> cancelled{false};

    int64_t prompt_count() const { return static_cast<int64_t>(options.prompt.size()); }
    bool thought_enough() const { return options.think_budget && channels.thinking() && !closed && thinking_tokens >= *options.think_budget; }
    void append(token_id t);
};

} // namespace ds
