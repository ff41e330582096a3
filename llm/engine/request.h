// One request on its way: its text so far, what it has computed, and how its answer ends.
#pragma once

#include "sampler.h"
#include "scheduler.h"
#include "thinking.h"

#include <atomic>
#include <mutex>
#include <optional>

namespace ds {

enum class finish : int {
    none = 0,
    stop = 1,
    length = 2,
    context = 3,
    cancelled = 4,
    error = 5,
    scored = 6,
    deadline = 7
};
enum class request_state : int { queued = 0, prompt = 1, answer = 2, done = 3 };

constexpr size_t max_top_logprobs = 64;
constexpr size_t max_ending = 1040;  // tokens of think_ending: a text of 1024 bytes, and a tag

struct request_options {
    std::vector<token_id> prompt;
    bool score = false, logits = false, logprobs = false, ignore_end = false, special = false,
         use_cache = true;
    uint64_t max_new = 0;  // 0: until the context is full
    size_t top_logprobs = 0;
    std::optional<uint64_t> think_budget;  // tokens of its own that the model may think
    std::vector<token_id> think_ending;    // what then follows: think_ending()
    ds::sampling sampling;
    std::vector<std::string> stop;
    void *user = nullptr;
    uint64_t client = 0;   // the client's
    int32_t priority = 0;  // higher first
    double timeout = 0;    // seconds from submission; 0: none

    // Positions of tokens that are not in max_new: the thought's ending, and against a budget of 0 the tag
    // that the model may open it with.
    uint64_t injected_positions() const { return think_ending.size() + (think_budget == 0); }
};

// Text that comes in pieces, of which what may be the beginning of a stop text is held back.
class stop_matcher {
public:
    stop_matcher(const std::vector<std::string> &stops, size_t held_bytes);
    // Appends `piece`, and to `out` what is certainly not part of a stop text. True when a stop text is
    // complete: what comes before it is in `out`.
    bool push(std::string_view piece, std::string &out);
    void finish(std::string &out);  // the answer ended otherwise: what was held back is text after all
    bool stopped() const { return stopped_; }
    const std::string &held() const { return held_; }
    void hold(std::string_view text);  // of another one's, from where this one goes on

private:
    std::vector<std::string> stops_;
    std::string held_;
    bool stopped_ = false;
};

struct request {
    // A token adds at most token_bytes bytes to the text, all tokens of a step step_bytes.
    request(request_options o, int64_t max_positions, channel_cutter channels, size_t token_bytes,
            size_t step_bytes);
    request(const request &) = delete;

    uint64_t id = 0;
    const request_options options;

    // What a fork takes over: the stepping thread changes it under this lock and reads it without, others
    // read it under it.
    std::mutex text_mutex;
    std::vector<token_id> tokens;  // prompt and answer so far
    utf8_stream text;
    stop_matcher stops;
    channel_cutter channels;
    // the thought was brought to its end; and nothing was chosen since
    bool closed = false, fresh_answer = false;
    bool ended = false;  // its last event was made

    // The stepping thread's.
    ds::task job;                 // where it stands among the others; reads `tokens`
    request *fork_of = nullptr;   // until the engine takes it in
    std::vector<int32_t> counts;  // occurrences a token, when penalties need them

    // scratch: of a token, what became complete; of that, what is no part of a stop text
    std::string decoded, certain;
    std::string said;        // the texts of this step's events, never more than it has room for
    float next_logprob = 0;  // scoring: of the token after those computed
    int64_t scored = 0;      // positions whose events were given
    uint64_t thinking_tokens = 0, answer_tokens = 0, injected_tokens = 0;  // all of `tokens` but the prompt
    double submitted = 0, started = 0, first = 0;                          // os::seconds()

    // Read by other threads.
    std::atomic<request_state> state{request_state::queued};
    std::atomic<uint64_t> prompt_done{0}, produced{0};
    std::atomic<bool> cancelled{false};
    bool in_step = false;  // it has rows in the step that runs; guarded by the engine

    int64_t prompt_count() const { return static_cast<int64_t>(options.prompt.size()); }
    bool thought_enough() const {
        return options.think_budget && channels.thinking() && !closed &&
               thinking_tokens >= *options.think_budget;
    }
    void hold(std::string_view text);  // likewise
    void append(token_id t);
};

}  // namespace ds
