// One request: its options, its text so far, its progress, and how its answer ends.
#pragma once

#include "../model/adapter.h"
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
constexpr size_t max_ending = 1040;  // tokens of think_ending: 1024 bytes of text, the closing tag, "\n\n"

struct request_options {
    std::vector<token_id> prompt;
    bool score = false, logits = false, logprobs = false, ignore_end = false, special = false,
         use_cache = true;
    uint64_t max_new = 0;  // 0: until the context is full
    size_t top_logprobs = 0;
    std::optional<uint64_t> think_budget;  // most thinking tokens of the model's own
    std::vector<token_id> think_ending;    // injected after these: the result of think_ending()
    ds::sampling sampling;
    std::vector<std::string> stop;
    void *user = nullptr;
    uint64_t client = 0;                                   // client id
    int32_t priority = 0;                                  // higher first
    double timeout = 0;                                    // seconds from submission; 0: none
    std::shared_ptr<const ds::adapter> adapter = nullptr;  // or null
    float adapter_scale = 1;

    // Most positions of tokens that max_new does not count: the thought's ending, and with a budget of 0 the
    // opening tag that the model may choose.
    uint64_t injected_positions() const { return think_ending.size() + (think_budget == 0); }
};

// Searches text that arrives in pieces for stop texts, holding back what may be the beginning of one.
class stop_matcher {
public:
    stop_matcher(const std::vector<std::string> &stops, size_t held_bytes);
    // Adds `piece`, and appends to `out` what is certainly not part of a stop text. True if a stop text is
    // complete; `out` then has the text before it.
    bool push(std::string_view piece, std::string &out);
    void finish(std::string &out);  // appends what was held back: no stop text ended the answer
    bool stopped() const { return stopped_; }
    const std::string &held() const { return held_; }
    void continue_from(std::string_view held);  // takes over what the matcher of a forked request holds back

private:
    std::vector<std::string> stops_;
    std::string held_;
    bool stopped_ = false;
};

struct request {
    // token_bytes, step_bytes: most bytes that one token, and all tokens of a step, add to the text.
    request(request_options o, int64_t max_positions, channel_cutter channels, size_t token_bytes,
            size_t step_bytes);
    request(const request &) = delete;

    uint64_t id = 0;
    const request_options options;

    // What a fork takes over. The stepping thread changes it under this lock and reads it without; other
    // threads read it under the lock.
    std::mutex text_mutex;
    std::vector<token_id> tokens;  // prompt and answer so far
    utf8_stream text;
    stop_matcher stops;
    channel_cutter channels;
    // The closing of the thought was injected; and no token was chosen since.
    bool closed = false, fresh_answer = false;
    bool ended = false;  // its last event was made

    // Used by the stepping thread alone.
    ds::task job;                 // the scheduler's view of this request; reads `tokens`
    request *fork_of = nullptr;   // until the request reaches the scheduler
    std::vector<int32_t> counts;  // [vocabulary] occurrences of each token; empty without penalties

    // Scratch: the text that a token completed, and of this what is certainly not part of a stop text.
    std::string decoded, certain;
    std::string event_text;  // the texts of this step's events, never more than it has room for
    float next_logprob = 0;  // scoring: of the token after the computed positions
    int64_t scored = 0;      // positions that have had their events
    uint64_t thinking_tokens = 0, answer_tokens = 0, injected_tokens = 0;  // sum: `tokens` without the prompt
    double submitted = 0, started = 0, first = 0;                          // os::seconds()

    // Read by other threads too.
    std::atomic<request_state> state{request_state::queued};
    std::atomic<uint64_t> prompt_done{0}, produced{0};
    std::atomic<bool> cancelled{false};
    bool in_step = false;  // has rows in the running step; guarded by the engine's mutex

    int64_t prompt_count() const { return static_cast<int64_t>(options.prompt.size()); }
    bool thought_enough() const {
        return options.think_budget && channels.thinking() && !closed &&
               thinking_tokens >= *options.think_budget;
    }
    void continue_from(std::string_view held);  // as stop_matcher's
    void append(token_id t);
};

}  // namespace ds
