// The engine: many requests on one paged cache. Functions that take a `turn` run in one thread at a time; all
// others may be called from any thread.
#pragma once

#include "request.h"
#include "runner.h"
#include "session.h"

#include <array>
#include <condition_variable>
#include <mutex>

namespace ds {

// What one step did.
struct step_trace {
    uint64_t step;
    uint64_t rows, prompt_rows, answer_rows;  // computed; 0 if the step was stopped
    uint64_t started, preempted, ended;       // requests
    uint64_t cached_positions, copied_pages;
    uint64_t running, queued;                       // requests after the step
    uint64_t pages_free, pages_cached, pages_held;  // after the step
    double seconds, compute_seconds;                // of the whole step; of the model alone
};

struct engine_options {
    int64_t max_requests = 8, max_queue = 1024;
    int64_t context = 0;       // 0: the model's, at most 4096
    int64_t step_rows = 0;     // 0: 512, or max_requests if larger
    int64_t logit_rows = 0;    // 0: max_requests, at least 32, at most step_rows
    int64_t kv_positions = 0;  // 0: max_requests * context
    format kv_type = format::f16;
    int32_t form = 1;          // see build_args; 1: the architecture decides by the work
    int64_t adapter_rank = 0;  // the largest of requests' adapters; 0: they have none
    ds::host host;
    std::function<void(const step_trace &)> trace;  // called by the stepping thread; may be empty
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
    uint64_t cached_tokens, preemptions;
};

struct engine_stats {
    uint64_t running, queued, pages_total, pages_free, pages_committed, steps, prompt_tokens, new_tokens;
    uint64_t pages_cached, lookup_tokens, cached_tokens, preemptions;
    double prompt_rate, new_rate;  // tokens per second, over the last 10 seconds
};

struct request_progress {
    request_state state;
    uint64_t prompt_tokens, prompt_done, produced;
};

// What a request gets from a step's logits: the next token, and the logits themselves if the request's events
// need them (of all its rows, if it is scored).
struct outcome {
    token_id token;
    const float *logits;  // or null
    ds::status status;    // numeric: the logits are not finite, and there is no token
};

// The unit of the scheduler's deadlines.
inline int64_t microseconds(double seconds) { return static_cast<int64_t>(seconds * 1e6); }

class engine {
public:
    // The right to step, to read the step's events and to use the pages. One thread at a time has it.
    class turn {
    public:
        explicit turn(engine &e);  // throws state if another thread has it
        turn(const turn &) = delete;
        ~turn() { taken_ = false; }

    private:
        std::atomic<bool> &taken_;
    };

    // Reserves the engine for one request: other submissions are refused until the destructor, which also
    // ends the request if it is unfinished.
    class claim {
    public:
        explicit claim(engine &e);  // throws state if another thread has the turn, or there are requests
        claim(const claim &) = delete;
        ~claim();
        uint64_t submit(request_options o);
        const engine::turn &turn() const { return turn_; }

    private:
        engine &engine_;
        const engine::turn turn_;
        uint64_t id_ = 0;
    };

    // Checks the options and fills in defaults. Throws status::argument naming the field.
    static engine_options resolve(const model &m, engine_options o);
    // `o`: resolved.
    static memory_plan measure(const model &m, const engine_options &o, const backend &b);

    // `b`: the backend whose memory holds the model's weights.
    engine(std::shared_ptr<const model> m, const engine_options &resolved, std::shared_ptr<backend> b);
    const model &loaded() const { return *model_; }
    const backend &device() const { return runner_.device(); }

    uint64_t submit(request_options o);  // throws argument, too_long, busy
    // Continues from a request's text so far; o's prompt, client, use_cache and adapter are ignored. Throws
    // the same.
    uint64_t fork(uint64_t id, request_options o);
    void cancel(uint64_t id);                      // throws argument
    request_progress progress(uint64_t id) const;  // an unknown id is done
    // Events are valid until the next step. A step that throws loses none: the next one returns them.
    std::span<const event> step(const turn &);
    // Forgets all cached pages except the `keep` most recently used, and returns free memory at the pool's
    // end.
    void trim(const turn &, int64_t keep);
    // See session.h. They return the positions in the file, the positions restored, and the pages freed.
    int64_t save_session(const turn &, const session_key &key, std::span<const token_id> tokens,
                         const std::string &path);
    int64_t restore_session(const turn &, const session_key &key, const std::string &path,
                            std::span<token_id> tokens, size_t &count);
    int64_t forget_session(const turn &, const session_key &key, std::span<const token_id> tokens);
    // Throws too_long if such a request can never fit.
    void check_length(size_t prompt, bool score) const;
    bool idle() const;  // no request is queued or running
    // Waits for work for a step; false after the timeout or wake().
    bool wait(double seconds);
    void wake();
    engine_stats stats() const;
    size_t max_events() const;  // of one step

private:
    using request_ptr = std::shared_ptr<request>;  // fork() reads a request that may end meanwhile
    void check(const request_options &o) const;
    void check_adapter(const ds::adapter *a, float scale) const;
    void check_tokens(const char *field, std::span<const token_id> tokens) const;
    session_pages session_view() {
        return {*model_, options_.kv_type, options_.host, pool_, scheduler_.pages()};
    }
    void check_room(size_t prompt, uint64_t max_new, bool score) const;
    int64_t max_positions(const request_options &o) const;
    request_ptr make_request(request_options o) const;
    void check_queue() const;
    uint64_t enqueue(request_ptr r, bool claimed = false);
    void check_claim(bool mine) const;
    bool has_work() const {
        return !claimed_ && stats_.running + stats_.queued + incoming_.size() + unread_ > 0;
    }
    int64_t more_pages(int64_t pages) noexcept;
    void take_in();
    void take_weights();
    void retire();
    void drop_cancelled();
    void drop_expired();
    void begin(const step_plan &p);
    void fill(const step_plan &p);
    bool compute(const step_plan &p);
    void choose(const step_plan &p);
    token_id choose_one(request &r, int64_t output, const float *logits);
    void enter_step(const step_plan &p);
    void leave_step();
    void consume(const step_part &p, const outcome &o);
    void consume_score(request &r, const step_part &p, const float *logits);
    void consume_token(request &r, const outcome &o);
    void accept(request &r, const outcome &o);
    bool emit_token(request &r, token_id t, const outcome *o);
    void count_prompt(request &r, uint64_t done);
    void count_new(uint64_t tokens);
    void count_step(step_trace &t, double begun);
    void mark_done(request &r);
    void close_thinking(request &r);
    void hand_out(request &r, event e);
    void finish_with(request &r, ds::finish f, ds::status s);
    event make_event(const request &r, event_type type) const;
    std::span<const token_logprob> top_of(const request &r, const float *logits, double log_sum);
    void publish();
    void report(const step_plan &p, bool computed, double begun, double compute);

    std::shared_ptr<const model> model_;
    engine_options options_;
    page_pool pool_;
    scheduler scheduler_;
    runner runner_;
    sampler sampler_;
    think_tags tags_;
    std::vector<token_id> not_first_;  // tokens that an answer after a closed thought must not begin with
    size_t token_bytes_;               // most bytes that one token can add to a text

    std::atomic<bool> stepping_{false}, stop_{false};
    uint64_t generation_ = 0;          // of the model's weights: model::generation
    std::atomic<bool> unread_{false};  // events_ are complete but not yet returned to the caller
    bool handed_out_ = true;           // events_ were returned to the caller
    std::vector<event> events_;
    std::vector<token_logprob> top_;
    std::vector<text_piece> pieces_;
    std::vector<outcome> outcomes_;          // one per part of the step
    std::vector<request *> done_, dropped_;  // used by the stepping thread alone
    std::exception_ptr no_memory_;           // why the pool did not grow
    uint64_t step_prompt_ = 0, step_new_ = 0, step_ended_ = 0;

    mutable std::mutex mutex_;  // guards what follows
    std::unordered_map<uint64_t, request_ptr> live_;
    std::vector<request *> incoming_, cancelled_;
    int64_t in_step_ = 0;  // requests with rows in the running step, without those cancelled
    uint64_t next_id_ = 1;
    bool claimed_ = false;
    std::condition_variable work_;  // notified by new work and by wake()
    int64_t waiting_ = 0;           // threads in wait()
    uint64_t wakes_ = 0;            // calls of wake() while threads waited
    bool wake_next_ = false;        // wake() was called while none waited
    engine_stats stats_{};
    struct sample {
        double begun, ended;
        uint64_t prompt, made;
    };
    std::array<sample, 128> recent_{};  // the last steps, the newest at stats_.steps % 128
};

}  // namespace ds
