// The engine: many requests on one paged cache. `step` belongs to one thread at a time; submit, cancel, status and stats to any.
#pragma once

#include "request.h"
#include "runner.h"
#include "scheduler.h"

#include <mutex>

namespace ds {

struct engine_options {
    int64_t max_requests = 8, max_queue = 1024;
    int64_t context = 0;          // 0: the model's, at most 4096
    int64_t step_rows = 0;        // 0: 512, or max_requests if larger
    int64_t logit_rows = 0;       // 0: max_requests, at least 32, at most step_rows
    int64_t kv_positions = 0;     // 0: max_requests * context
    format kv_type = format::f16;
    ds::host host;
};

struct memory_plan {
    uint64_t weights, pages, page_bytes, activations, work, tables;
};

enum class event_type : int { token = 0, score = 1, done = 2, text = 3 };

struct event {
    uint64_t request;
    void *user;
    event_type type;
    bool thinking;
    token_id token;
    float logprob;
    uint64_t position;
    std::string_view text;
    std::span<const token_logprob> top;
    const float *logits;
    ds::finish finish;
    ds::status status;
    uint64_t prompt_tokens, thinking_tokens, answer_tokens;
    double queue_seconds, prompt_seconds, answer_seconds;
    bool injected;
    uint64_t injected_tokens;
};

struct engine_stats {
    uint64_t running, queued, pages_total, pages_free, pages_committed, steps, prompt_tokens, new_tokens;
};

struct request_progress {
    request_state state;
    uint64_t prompt_tokens, prompt_done, produced;
};

class engine {
public:
    // The right to step, and to read what the step gave; one thread at a time has it.
    class turn {
    public:
        explicit turn(engine &e);    // throws state when another thread has it
        turn(const turn &) = delete;
        ~turn() { taken_ = false; }

    private:
        std::atomic<bool> &taken_;
    };

    // Checks the options and fills in defaults. Throws status::argument naming the field.
    static engine_options resolve(const model &m, engine_options o);
    static memory_plan measure(const model &m, const engine_options &o, const backend &b);    // of resolved options

    engine(std::shared_ptr<const model> m, const engine_options &resolved, backend_ptr b);
    const model &loaded() const { return *model_; }
    const backend &device() const { return runner_.device(); }

    uint64_t submit(request_options o);                     // throws argument, too_long, busy
    void cancel(uint64_t id);                               // throws argument
    request_progress progress(uint64_t id) const;           // of an unknown id: done
    std::span<const event> step(const turn &);              // events live until the next step. One that throws loses none: the next hands them out
    void check_length(size_t prompt, bool score) const;     // throws too_long when such a request can never fit
    bool idle() const;                                      // no request is queued or running
    engine_stats stats() const;

private:
    using request_ptr = std::unique_ptr<request>;
    void check(const request_options &o) const;
    int64_t max_positions(const request_options &o) const;
    void retire();
    void take_incoming();
    void drop_cancelled(std::span<const request_ptr> list);
    void admit();
    void start(request &r);
    std::pair<int64_t, int64_t> fill();
    void reserve_events();
    void consume(request &r, const step_share &share, const float *logits);
    void consume_score(request &r, const step_share &share, const float *logits);
    void consume_token(request &r, const float *logits);
    void accept(request &r, token_id t, const float *logits);
    bool say(request &r, token_id t, const float *logits);
    void close_thinking(request &r);
    void hand_out(request &r, event e);
    void finish_with(request &r, ds::finish f, ds::status s);
    event make_event(const request &r, event_type type) const;
    std::span<const token_logprob> top_of(const request &r, const float *logits, double log_sum);

    std::shared_ptr<const model> model_;
    engine_options options_;
    page_pool pool_;
    runner runner_;
    sampler sampler_;
    think_tags tags_;
    std::vector<token_id> no_beginning_;          // what an answer after a closed thought does not begin with

    std::atomic<bool> stepping_{false};
    bool handed_out_ = true;                      // events_ were given to the caller
    std::vector<request_ptr> queue_, running_;    // the stepping thread's; in order of submission
    std::vector<int64_t> free_sequences_;
    std::vector<step_wish> wishes_;
    std::vector<step_share> shares_;
    std::vector<event> events_;
    std::vector<token_logprob> top_;
    std::vector<text_piece> pieces_;

    mutable std::mutex mutex_;                              // guards what follows
    std::vector<request_ptr> incoming_;
    std::unordered_map<uint64_t, request *> live_;
    uint64_t next_id_ = 1;
    engine_stats stats_{};
};

} // namespace ds
