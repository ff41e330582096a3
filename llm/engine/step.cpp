// A step: accept new requests, end those cancelled or past their deadline, let the scheduler plan, copy
// pages, compute, make events.
// Invariant: a step allocates nothing. What it needs was reserved at construction or at submission. Only the
// page pool grows, and a step that finds no memory for that loses nothing.
#include "engine.h"

#include "../../tensor/numerics.h"

#include <algorithm>

namespace ds {

engine::turn::turn(engine &e) : taken_(e.stepping_) {
    if (taken_.exchange(true)) throw error(status::state, "step: another thread is in it");
}

std::span<const event> engine::step(const turn &) {
    const os::default_float_mode float_mode;
    const double begun = os::seconds();
    take_weights();
    if (unread_.exchange(false)) {  // the host's trace callback threw, so the events were not returned
        handed_out_ = true;
        return events_;
    }
    take_in();  // before retire(), because a fork may refer to a finished request
    if (std::exchange(handed_out_, false)) retire();
    drop_cancelled();
    drop_expired();
    const step_plan &p = scheduler_.plan();
    begin(p);
    if (p.parts.empty() && p.starved) std::rethrow_exception(no_memory_);
    double seconds = 0;
    bool computed = false;
    if (!p.parts.empty()) {
        fill(p);
        const double before = os::seconds();
        computed = compute(p);
        seconds = os::seconds() - before;
        if (computed) {
            choose(p);
            for (size_t i = 0; i < p.parts.size(); ++i) consume(p.parts[i], outcomes_[i]);
        } else take_in(), drop_cancelled();
        unread_ = true;
        report(p, computed, begun, seconds);
        unread_ = false;
    }
    handed_out_ = true;
    return events_;
}

void engine::drop_cancelled() {
    for (request *r : dropped_) r->event_text.clear(), finish_with(*r, finish::cancelled, status::ok);
    dropped_.clear();
}

void engine::drop_expired() {
    const int64_t now = microseconds(os::seconds());
    while (const task *j = scheduler_.expired(now)) {
        request &r = *static_cast<request *>(j->owner);
        r.event_text.clear();
        finish_with(r, finish::deadline, status::ok);
    }
}

// The scheduler's page source: commits memory for the first `pages` pages, if possible.
int64_t engine::more_pages(int64_t pages) noexcept {
    try {
        pool_.commit(pages);
    } catch (...) {
        no_memory_ = std::current_exception();
    }
    return pool_.committed();
}

// Applies the plan to requests and pages.
void engine::begin(const step_plan &p) {
    for (const task *j : p.preempted) static_cast<request *>(j->owner)->state = request_state::queued;
    for (const task *j : p.started) {
        request &r = *static_cast<request *>(j->owner);
        if (j->starts == 1) {
            r.started = os::seconds();
            r.prompt_done = static_cast<uint64_t>(j->cached);
        }
        r.state = r.produced > 0 ? request_state::answer : request_state::prompt;
        const ds::adapter *const a = r.options.adapter.get();
        if (options_.adapter_rank)
            runner_.adapter(j->slot) = {a ? a->matrices().data() : nullptr, r.options.adapter_scale, 0};
    }
    for (const page_copy &c : p.copies) pool_.copy(c.from, c.to);
    publish();
}

// Writes the step's rows, part by part. The rows that need logits are the last ones of each part.
void engine::fill(const step_plan &p) {
    int64_t row = 0, output = 0;
    for (const step_part &part : p.parts) {
        const request &r = *static_cast<const request *>(part.who->owner);
        const std::vector<int32_t> &pages = r.job.pages;
        std::copy(pages.begin(), pages.end(), runner_.table(r.job.slot));
        for (int64_t k = 0; k < part.rows; ++k, ++row) {
            const int64_t position = part.first + k;
            runner_.ids()[row] = r.tokens[static_cast<size_t>(position)];
            runner_.positions()[row] = static_cast<int32_t>(position);
            runner_.sequence()[row] = r.job.slot;
            runner_.slots()[row] =
                static_cast<int32_t>(pages[static_cast<size_t>(position / page_positions)] * page_positions +
                                     position % page_positions);
            if (k < part.rows - part.logits) continue;
            runner_.factors()[output] = r.options.score ? 0.0f : r.options.sampling.factor();
            runner_.outputs()[output++] = static_cast<int32_t>(row);
        }
    }
}

// If a device fails here and run() throws, the step's rows count as never planned.
bool engine::compute(const step_plan &p) {
    struct in_step {
        engine &e;
        ~in_step() { e.leave_step(); }
    };
    enter_step(p);
    const in_step guard{*this};
    const bool adapted = std::any_of(p.parts.begin(), p.parts.end(),
                                     [](const step_part &part) { return part.who->adapter != 0; });
    return runner_.run(p.rows, p.logits, &stop_, adapted);
}

void engine::report(const step_plan &p, bool computed, double begun, double compute) {
    step_trace t{};
    count_step(t, begun);
    t.rows = computed ? static_cast<uint64_t>(p.rows) : 0;
    t.prompt_rows = std::exchange(step_prompt_, 0);
    t.answer_rows = t.rows - std::min(t.rows, t.prompt_rows);
    t.started = p.started.size(), t.preempted = p.preempted.size(), t.ended = std::exchange(step_ended_, 0);
    t.cached_positions = static_cast<uint64_t>(p.cached), t.copied_pages = p.copies.size();
    const page_book &book = scheduler_.pages();
    t.pages_free = static_cast<uint64_t>(book.free()), t.pages_cached = static_cast<uint64_t>(book.cached());
    t.pages_held = static_cast<uint64_t>(book.pages() - book.available());
    t.compute_seconds = compute;
    step_new_ = 0;
    if (options_.trace) options_.trace(t);
}

// Weights that are trained change between two steps: what was computed with the old ones is not cached any
// more.
void engine::take_weights() {
    const uint64_t now = model_->generation;
    if (now & 1)
        throw error(status::state, "the model's weights have changed: they must be published before a step");
    if (now == std::exchange(generation_, now)) return;
    scheduler_.pages().forget(0);
    publish();
}

void engine::trim(const turn &, int64_t keep) {
    scheduler_.pages().forget(keep);
    pool_.uncommit(scheduler_.pages().shrink());
    publish();
}

int64_t engine::save_session(const turn &, const session_key &key, std::span<const token_id> tokens,
                             const std::string &path) {
    check_tokens("tokens", tokens);
    check_adapter(key.adapter, key.adapter_scale);
    return ds::save_session(session_view(), key, tokens, path);
}

int64_t engine::restore_session(const turn &, const session_key &key, const std::string &path,
                                std::span<token_id> tokens, size_t &count) {
    check_adapter(key.adapter, key.adapter_scale);
    struct publisher {  // a failure may have dropped cached pages too
        engine &e;
        ~publisher() { e.publish(); }
    } const publisher{*this};
    return ds::restore_session(session_view(), key, path, tokens, count);
}

int64_t engine::forget_session(const turn &, const session_key &key, std::span<const token_id> tokens) {
    check_tokens("tokens", tokens);
    check_adapter(key.adapter, key.adapter_scale);
    const int64_t pages = scheduler_.pages().forget(key.owner(), tokens);
    publish();
    return pages;
}

}  // namespace ds
