// Everything that happens under the engine's lock: submission, cancellation, waiting and progress from any
// thread, and what the stepping thread publishes to the others.
// Invariant: nothing here computes or blocks while it holds the lock, except wait() itself.
#include "engine.h"

#include <algorithm>
#include <chrono>

namespace ds {

void engine::check_queue() const {
    const uint64_t waiting = stats_.queued + incoming_.size();
    if (waiting >= static_cast<uint64_t>(options_.max_queue))
        throw error(status::busy, format_text("the queue is full: %llu requests wait",
                                              static_cast<unsigned long long>(waiting)));
}

void engine::check_claim(bool mine) const {
    if (claimed_ && !mine)
        throw error(status::state, "the engine is taken by ds_engine_chat until it returns");
}

// The caller holds the lock.
uint64_t engine::enqueue(request_ptr r, bool claimed) {
    check_claim(claimed);
    check_queue();
    r->id = next_id_;
    request *const raw = r.get();
    live_.emplace(next_id_, std::move(r));
    incoming_.push_back(raw);  // within its reserved capacity
    if (waiting_ > 0) work_.notify_all();
    return next_id_++;
}

uint64_t engine::submit(request_options o) {
    request_ptr r = make_request(std::move(o));
    const std::lock_guard lock(mutex_);
    return enqueue(std::move(r));
}

// The copy is made under the request's own lock, which a step takes for one token at a time, so neither waits
// long for the other, and no other request waits.
uint64_t engine::fork(uint64_t id, request_options o) {
    const auto find = [this, id] {
        const auto found = live_.find(id);
        return found == live_.end() || found->second->state == request_state::done ? nullptr : found->second;
    };
    request_ptr of;
    {
        const std::lock_guard lock(mutex_);
        check_claim(false);
        check_queue();
        of = find();
    }
    const auto unknown = [id] {
        return error(status::argument, format_text("request %llu: unknown, or already done",
                                                   static_cast<unsigned long long>(id)));
    };
    if (!of) throw unknown();
    if (of->options.score)
        throw error(status::argument, format_text("request %llu: is scored, and has no answer to fork",
                                                  static_cast<unsigned long long>(id)));
    o.client = of->options.client;
    o.use_cache = of->options.use_cache;
    o.adapter = of->options.adapter, o.adapter_scale = of->options.adapter_scale;
    struct {
        utf8_stream text;
        std::string held;
        std::optional<channel_cutter> channels;
        bool closed, fresh_answer;
    } state{};
    {
        const std::lock_guard lock(of->text_mutex);
        if (of->ended) throw unknown();
        o.prompt = of->tokens;
        state = {of->text, of->stops.held(), of->channels, of->closed, of->fresh_answer};
    }
    request_ptr r = make_request(std::move(o));
    r->text = state.text;
    r->continue_from(state.held);
    r->channels.continue_from(*state.channels);
    r->closed = state.closed;
    r->fresh_answer = state.fresh_answer;
    const std::lock_guard lock(mutex_);
    // Null if the request has ended meanwhile; else it lives until take_in() has submitted this one.
    r->fork_of = find().get();
    return enqueue(std::move(r));
}

void engine::cancel(uint64_t id) {
    const std::lock_guard lock(mutex_);
    const auto found = live_.find(id);
    if (found == live_.end() || found->second->state == request_state::done)
        throw error(status::argument, format_text("request %llu: unknown, or already done",
                                                  static_cast<unsigned long long>(id)));
    request &r = *found->second;
    if (r.cancelled.exchange(true)) return;
    cancelled_.push_back(&r);                        // within its reserved capacity
    if (r.in_step && --in_step_ == 0) stop_ = true;  // every request of the running step is cancelled
    if (waiting_ > 0) work_.notify_all();
}

request_progress engine::progress(uint64_t id) const {
    const std::lock_guard lock(mutex_);
    const auto found = live_.find(id);
    if (found == live_.end()) return {request_state::done, 0, 0, 0};
    const request &r = *found->second;
    return {r.state, r.options.prompt.size(), r.prompt_done, r.produced};
}

bool engine::idle() const {
    const std::lock_guard lock(mutex_);
    return stats_.running + stats_.queued + incoming_.size() == 0;
}

bool engine::wait(double seconds) {
    constexpr double long_time = 1e9;  // 30 years: practically forever, and wait_until cannot overflow
    const auto until =
        std::chrono::steady_clock::now() + std::chrono::duration_cast<std::chrono::steady_clock::duration>(
                                               std::chrono::duration<double>(std::min(seconds, long_time)));
    std::unique_lock lock(mutex_);
    if (has_work()) return true;
    if (std::exchange(wake_next_, false) || seconds == 0) return false;
    const uint64_t wakes = wakes_;
    ++waiting_;
    work_.wait_until(lock, until, [&] { return has_work() || wakes_ != wakes; });
    --waiting_;
    return wakes_ == wakes && has_work();
}

void engine::wake() {
    const std::lock_guard lock(mutex_);
    if (waiting_ > 0) ++wakes_, work_.notify_all();
    else wake_next_ = true;
}

engine_stats engine::stats() const {
    const std::lock_guard lock(mutex_);
    engine_stats s = stats_;
    s.queued += incoming_.size();
    const double now = os::seconds();
    double since = now;
    uint64_t prompt = 0, made = 0;
    for (const sample &e : recent_)
        if (e.ended > now - 10) since = std::min(since, e.begun), prompt += e.prompt, made += e.made;
    if (now > since)
        s.prompt_rate = static_cast<double>(prompt) / (now - since),
        s.new_rate = static_cast<double>(made) / (now - since);
    return s;
}

engine::claim::claim(engine &e) : engine_(e), turn_(e) {
    const std::lock_guard lock(e.mutex_);
    if (e.stats_.running + e.stats_.queued + e.incoming_.size() > 0)
        throw error(status::state,
                    "ds_engine_chat: the engine has other requests, whose events would be lost");
    e.claimed_ = true;
}

uint64_t engine::claim::submit(request_options o) {
    request_ptr r = engine_.make_request(std::move(o));
    const std::lock_guard lock(engine_.mutex_);
    return id_ = engine_.enqueue(std::move(r), true);
}

engine::claim::~claim() {
    try {
        if (id_ && engine_.progress(id_).state != request_state::done) {
            engine_.cancel(id_);
            engine_.step(turn_);
        }
    } catch (...) {  // the device is lost, and the engine can only be freed
    }
    const std::lock_guard lock(engine_.mutex_);
    engine_.claimed_ = false;
    if (engine_.waiting_ > 0) engine_.work_.notify_all();
}

// Takes submissions and cancellations under one lock, so that the scheduler knows every cancelled request.
// Those that ended before they were cancelled need no further handling.
void engine::take_in() {
    const std::lock_guard lock(mutex_);
    for (request *r : incoming_) scheduler_.submit(r->job, r->fork_of ? &r->fork_of->job : nullptr);
    stats_.queued += incoming_.size();
    incoming_.clear();
    dropped_.swap(cancelled_);
    std::erase_if(dropped_, [](const request *r) { return r->state == request_state::done; });
}

// Forgets requests that finished in the previous step, whose events have now been read.
void engine::retire() {
    events_.clear();
    top_.clear();
    const std::lock_guard lock(mutex_);
    for (const request *r : done_) live_.erase(r->id);
    done_.clear();
}

// From here to leave_step(), cancelling the last of the step's requests stops the step.
void engine::enter_step(const step_plan &p) {
    const std::lock_guard lock(mutex_);
    in_step_ = 0;
    for (const step_part &part : p.parts) {
        request &r = *static_cast<request *>(part.who->owner);
        r.in_step = !r.cancelled;
        in_step_ += r.in_step;
    }
    stop_ = in_step_ == 0;
}

void engine::leave_step() {
    const std::lock_guard lock(mutex_);
    for (const task *j : scheduler_.running()) static_cast<request *>(j->owner)->in_step = false;
}

// Copies what other threads may see of the scheduler.
void engine::publish() {
    const page_book &book = scheduler_.pages();
    const std::lock_guard lock(mutex_);
    stats_.running = scheduler_.running().size();
    stats_.queued = static_cast<uint64_t>(scheduler_.waiting());
    stats_.pages_free = static_cast<uint64_t>(book.available());
    stats_.pages_cached = static_cast<uint64_t>(book.cached());
    stats_.pages_committed = static_cast<uint64_t>(pool_.committed());
    stats_.lookup_tokens = scheduler_.totals().lookup;
    stats_.cached_tokens = scheduler_.totals().cached;
    stats_.preemptions = scheduler_.totals().preemptions;
}

void engine::count_prompt(request &r, uint64_t done) {
    const uint64_t more = done - r.prompt_done;
    step_prompt_ += more;
    const std::lock_guard lock(mutex_);
    stats_.prompt_tokens += more;
    r.prompt_done = done;
}

void engine::count_new(uint64_t tokens) {
    const std::lock_guard lock(mutex_);
    stats_.new_tokens += tokens;
    step_new_ += tokens;
}

void engine::count_step(step_trace &t, double begun) {
    const double ended = os::seconds();
    t.seconds = ended - begun;
    const std::lock_guard lock(mutex_);
    t.step = ++stats_.steps;
    recent_[t.step % recent_.size()] = {begun, ended, step_prompt_, step_new_};
    t.running = stats_.running;
    t.queued = stats_.queued + incoming_.size();
}

void engine::mark_done(request &r) {
    const std::lock_guard lock(mutex_);
    r.state = request_state::done;
}

}  // namespace ds
