// A step: take in what was submitted, end what was cancelled or is late, let the scheduler plan, copy pages, compute, hand out events.
// Invariant: a step allocates nothing. What it needs was reserved at construction or at submit; only the page pool grows, and a step that finds no memory for
// that loses nothing.
#include "engine.h"

#include "../tensor/numerics.h"

#include <algorithm>
#include <chrono>
#include <limits>

namespace ds {

// ---- Options ------------------------------------------------------------------------------------------------------------------------------------

static int64_t in_range(const char *field, int64_t v, int64_t min, int64_t max) {
    if (v < min || v > max)
        throw error(status::argument, format_text("%s: is %lld, must be from %lld to %lld", field, static_cast<long long>(v), static_cast<long long>(min), static_cast<long long>(max)));
    return v;
}

engine_options engine::resolve(const model &m, engine_options o) {
    if (!m.architecture) throw error(status::state, m.file.name() + ": was loaded for its vocabulary only; no engine can be made of it");
    in_range("max_requests", o.max_requests, 1, 4096);
    in_range("max_queue", o.max_queue, 1, 1 << 20);
    if (!o.context) o.context = std::min<int64_t>(m.h.context, 4096);
    in_range("context_length", o.context, 1, m.h.context);
    if (o.kv_type == format::i8) in_range("context_length (with kv_type int8)", o.context, 1, i8_most_positions);
    if (!o.step_rows) o.step_rows = std::max<int64_t>(512, o.max_requests);
    in_range("step_tokens", o.step_rows, o.max_requests, 65536);
    if (!o.logit_rows) o.logit_rows = std::min(o.step_rows, std::max<int64_t>(32, o.max_requests));
    in_range("logit_rows", o.logit_rows, 1, o.step_rows);
    if (!o.kv_positions) o.kv_positions = o.max_requests * pages_for(o.context) * page_positions;
    in_range("kv_tokens", o.kv_positions, 1, int64_t{1} << 31);
    return o;
}

static int64_t microseconds(double seconds) { return static_cast<int64_t>(seconds * 1e6); }

static step_sizes sizes_of(const engine_options &o) {
    const int64_t pool_pages = pages_for(o.kv_positions);
    return {o.step_rows, o.logit_rows, o.max_requests, std::min(pages_for(o.context), pool_pages), pool_pages, o.mla};
}

memory_plan engine::measure(const model &m, const engine_options &o, const backend &b) {
    const page_layout layout = make_page_layout(*m.architecture, m.h, o.kv_type);
    const step_sizes s = sizes_of(o);
    const size_t pages = pool_bytes(layout.page_bytes, s.pool_pages);
    const runner::bytes r = runner::measure(m, layout, s, b);
    return {m.placed_bytes ? m.placed_bytes : m.weight_bytes + m.made_bytes, pages, layout.page_bytes, r.activations, r.work,
            r.inputs + sampler::bytes(static_cast<size_t>(m.h.vocab)) + page_book::bytes(s.pool_pages)};
}

static size_t token_bytes_of(const tokenizer &v) {
    size_t longest = 0;
    for (size_t t = 0; t < v.size(); ++t) longest = std::max(longest, v.bytes(static_cast<token_id>(t), true).size());
    return 3 * (longest + 4);    // every byte may become U+FFFD, and so may those held back
}

engine::engine(std::shared_ptr<const ds::model> m, const engine_options &o, std::shared_ptr<backend> b)
    : model_(std::move(m)), options_(o), pool_(o.host, make_page_layout(*model_->architecture, model_->h, o.kv_type).page_bytes, pages_for(o.kv_positions), b),
      scheduler_({o.max_requests, o.max_queue, o.step_rows, o.logit_rows, pool_.pages()},
                 pool_.grows() ? page_source{this, [](void *e, int64_t pages) { return static_cast<engine *>(e)->more_pages(pages); }} : page_source{}),
      runner_(*model_, make_page_layout(*model_->architecture, model_->h, o.kv_type), sizes_of(o), std::move(b), o.host, pool_.data()),
      sampler_(static_cast<size_t>(model_->h.vocab)), tags_(find_think_tags(model_->vocabulary)),
      no_beginning_(model_->vocabulary.end_tokens()), token_bytes_(token_bytes_of(model_->vocabulary)) {
    if (tags_.open >= 0) no_beginning_.push_back(tags_.open);
    const size_t most = static_cast<size_t>(o.max_queue + 2 * o.max_requests);    // requests that live, some of them preempted
    events_.reserve(most_events());
    top_.reserve(static_cast<size_t>(o.logit_rows) * max_top_logprobs);
    pieces_.reserve(8);
    outcomes_.reserve(static_cast<size_t>(o.max_requests));
    for (std::vector<request *> *list : {&done_, &dropped_, &incoming_, &cancelled_}) list->reserve(most);
    stats_.pages_total = static_cast<uint64_t>(pool_.pages());
    publish();
}

// One a row with logits, and of each request its last; of each that runs what may be injected, and text of the other channel. Room that is never used is
// never touched.
size_t engine::most_events() const {
    return static_cast<size_t>(options_.logit_rows + options_.max_queue + 2 * options_.max_requests) + static_cast<size_t>(options_.max_requests) * (max_ending + 6);
}

// ---- From any thread ------------------------------------------------------------------------------------------------------------------------------

int64_t engine::max_positions(const request_options &o) const {
    const int64_t most = std::min(options_.context, pool_.pages() * page_positions);
    const auto prompt = static_cast<int64_t>(o.prompt.size());
    if (o.score) return prompt;
    const uint64_t wanted = o.max_new + o.injected_positions();
    return o.max_new == 0 || wanted > static_cast<uint64_t>(most - prompt) ? most : prompt + static_cast<int64_t>(wanted);
}

void engine::check_tokens(const char *field, std::span<const token_id> tokens) const {
    if (tokens.empty()) throw error(status::argument, std::string(field) + ": is empty, must have at least one token");
    for (size_t i = 0; i < tokens.size(); ++i)
        if (tokens[i] < 0 || tokens[i] >= model_->h.vocab)
            throw error(status::argument, format_text("%s[%zu]: is %d, must be from 0 to %lld", field, i, tokens[i], static_cast<long long>(model_->h.vocab - 1)));
}

void engine::check(const request_options &o) const {
    check_tokens("prompt", o.prompt);
    for (const auto &[token, bias] : o.sampling.bias)
        if (token < 0 || token >= model_->h.vocab || !(bias < std::numeric_limits<float>::infinity()))
            throw error(status::argument, format_text("logit_bias: token %d is not in the vocabulary of %lld, or its bias is infinity or not a number", token, static_cast<long long>(model_->h.vocab)));
    check_room(o.prompt.size(), o.max_new ? o.max_new + o.injected_positions() : 0, o.score);
}

void engine::check_length(size_t prompt, bool score) const { check_room(prompt, 0, score); }

// What a request can never get: positions beyond the context, for its prompt and one token; pages that the pool does not have, for all that it asks for.
void engine::check_room(size_t prompt, uint64_t max_new, bool score) const {
    const auto room = static_cast<size_t>(options_.context - (score ? 0 : 1));
    if (prompt > room) throw error(status::too_long, format_text("prompt: has %zu tokens, the context has room for %zu%s", prompt, room, score ? "" : " and an answer"));
    const uint64_t answer = score ? 0 : std::clamp<uint64_t>(max_new, 1, static_cast<uint64_t>(options_.context) - prompt);
    const int64_t pages = pages_for(static_cast<int64_t>(prompt + answer));
    if (pages > pool_.pages())
        throw error(status::too_long, format_text("prompt: its %zu tokens and %llu of an answer need %llu bytes in the page pool, which has %llu", prompt, static_cast<unsigned long long>(answer),
                                                  static_cast<unsigned long long>(pages) * pool_.page_bytes(), static_cast<unsigned long long>(pool_.pages()) * pool_.page_bytes()));
}

void engine::check_queue() const {
    const uint64_t waiting = stats_.queued + incoming_.size();
    if (waiting >= static_cast<uint64_t>(options_.max_queue)) throw error(status::busy, format_text("the queue is full: %llu requests wait", static_cast<unsigned long long>(waiting)));
}

engine::request_ptr engine::make_request(request_options o) const {
    check(o);
    const int64_t most = max_positions(o);
    const bool count = o.sampling.penalises();
    size_t step_bytes = 2 * token_bytes_;
    for (const token_id t : o.think_ending) step_bytes += 3 * model_->vocabulary.bytes(t, true).size();
    channel_cutter channels(tags_, think_state_after(model_->vocabulary, o.prompt));
    auto r = std::make_shared<request>(std::move(o), most, std::move(channels), token_bytes_, step_bytes);
    if (count) {
        r->counts.resize(static_cast<size_t>(model_->h.vocab));
        for (const token_id t : r->options.prompt) ++r->counts[static_cast<size_t>(t)];
    }
    r->submitted = os::seconds();
    if (r->options.timeout > 0) r->job.deadline = microseconds(r->submitted + r->options.timeout);
    scheduler::prepare(r->job);
    return r;
}

void engine::check_claim(bool mine) const {
    if (claimed_ && !mine) throw error(status::state, "the engine is taken by ds_engine_chat until it returns");
}

// Under the lock.
uint64_t engine::enqueue(request_ptr r, bool claimed) {
    check_claim(claimed);
    check_queue();
    r->id = next_id_;
    request *const raw = r.get();
    live_.emplace(next_id_, std::move(r));
    incoming_.push_back(raw);    // has room
    if (waiting_ > 0) work_.notify_all();
    return next_id_++;
}

uint64_t engine::submit(request_options o) {
    request_ptr r = make_request(std::move(o));
    const std::lock_guard lock(mutex_);
    return enqueue(std::move(r));
}

// The copy is made under the request's own lock, which a step takes for one token at a time: neither waits long for the other, and others for neither.
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
    const auto unknown = [id] { return error(status::argument, format_text("request %llu: unknown, or already done", static_cast<unsigned long long>(id))); };
    if (!of) throw unknown();
    if (of->options.score) throw error(status::argument, format_text("request %llu: is scored, and has no answer to fork", static_cast<unsigned long long>(id)));
    o.tag = of->options.tag;
    o.use_cache = of->options.use_cache;
    struct { utf8_stream text; std::string held; std::optional<channel_cutter> channels; bool closed, fresh_answer; } state{};
    {
        const std::lock_guard lock(of->text_mutex);
        if (of->ended) throw unknown();
        o.prompt = of->tokens;
        state = {of->text, of->stops.held(), of->channels, of->closed, of->fresh_answer};
    }
    request_ptr r = make_request(std::move(o));
    r->text = state.text;
    r->hold(state.held);
    r->channels.go_on(*state.channels);
    r->closed = state.closed;
    r->fresh_answer = state.fresh_answer;
    const std::lock_guard lock(mutex_);
    r->fork_of = find().get();    // it may have ended meanwhile; else it lives until the engine has taken this one in
    return enqueue(std::move(r));
}

void engine::cancel(uint64_t id) {
    const std::lock_guard lock(mutex_);
    const auto found = live_.find(id);
    if (found == live_.end() || found->second->state == request_state::done) throw error(status::argument, format_text("request %llu: unknown, or already done", static_cast<unsigned long long>(id)));
    request &r = *found->second;
    if (r.cancelled.exchange(true)) return;
    cancelled_.push_back(&r);    // has room
    if (r.in_step && --in_step_ == 0) stop_ = true;    // nobody needs what is being computed
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
    constexpr double long_time = 1e9;    // as good as for ever
    const auto until = std::chrono::steady_clock::now() + std::chrono::duration_cast<std::chrono::steady_clock::duration>(std::chrono::duration<double>(std::min(seconds, long_time)));
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
    if (now > since) s.prompt_rate = static_cast<double>(prompt) / (now - since), s.new_rate = static_cast<double>(made) / (now - since);
    return s;
}

// ---- A step ---------------------------------------------------------------------------------------------------------------------------------------

engine::turn::turn(engine &e) : taken_(e.stepping_) {
    if (taken_.exchange(true)) throw error(status::state, "step: another thread is in it");
}

engine::claim::claim(engine &e) : engine_(e), turn_(e) {
    const std::lock_guard lock(e.mutex_);
    if (e.stats_.running + e.stats_.queued + e.incoming_.size() > 0) throw error(status::state, "ds_engine_chat: the engine has other requests, whose events would be lost");
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
    } catch (...) {    // a device that is lost: the engine is good for nothing more
    }
    const std::lock_guard lock(engine_.mutex_);
    engine_.claimed_ = false;
    if (engine_.waiting_ > 0) engine_.work_.notify_all();
}

std::span<const event> engine::step(const turn &) {
    const os::default_float_mode float_mode;
    const double begun = os::seconds();
    if (unread_.exchange(false)) {    // a host's trace threw, and they were not read
        handed_out_ = true;
        return events_;
    }
    take_in();    // before requests go that it may name
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

// Submissions and cancellations at one moment: what was cancelled is known to the scheduler. What ended before it was is left as it is, and may go.
void engine::take_in() {
    const std::lock_guard lock(mutex_);
    for (request *r : incoming_) scheduler_.submit(r->job, r->fork_of ? &r->fork_of->job : nullptr);
    stats_.queued += incoming_.size();
    incoming_.clear();
    dropped_.swap(cancelled_);
    std::erase_if(dropped_, [](const request *r) { return r->state == request_state::done; });
}

// Forgets what finished in the step before, whose events have now been read.
void engine::retire() {
    events_.clear();
    top_.clear();
    const std::lock_guard lock(mutex_);
    for (const request *r : done_) live_.erase(r->id);
    done_.clear();
}

void engine::drop_cancelled() {
    for (request *r : dropped_) r->said.clear(), finish_with(*r, finish::cancelled, status::ok);
    dropped_.clear();
}

void engine::drop_expired() {
    const int64_t now = microseconds(os::seconds());
    while (const task *j = scheduler_.expired(now)) {
        request &r = *static_cast<request *>(j->owner);
        r.said.clear();
        finish_with(r, finish::deadline, status::ok);
    }
}

// For the scheduler: memory for the first `pages` pages, if it can be had.
int64_t engine::more_pages(int64_t pages) noexcept {
    try {
        pool_.commit(pages);
    } catch (...) {
        no_memory_ = std::current_exception();
    }
    return pool_.committed();
}

// What the plan means to requests, and to pages.
void engine::begin(const step_plan &p) {
    for (const task *j : p.preempted) static_cast<request *>(j->owner)->state = request_state::queued;
    for (const task *j : p.started) {
        request &r = *static_cast<request *>(j->owner);
        if (j->starts == 1) {
            r.started = os::seconds();
            r.prompt_done = static_cast<uint64_t>(j->found);
        }
        r.state = r.produced > 0 ? request_state::answer : request_state::prompt;
    }
    for (const page_copy &c : p.copies) pool_.copy(c.from, c.to);
    publish();
}

// Writes the step's rows, part after part; the rows that need logits are the last ones of each.
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
            runner_.slots()[row] = static_cast<int32_t>(pages[static_cast<size_t>(position / page_positions)] * page_positions + position % page_positions);
            if (k < part.rows - part.logits) continue;
            runner_.factors()[output] = r.options.score ? 0.0f : r.options.sampling.factor();
            runner_.outputs()[output++] = static_cast<int32_t>(row);
        }
    }
}

// From here to leave_step the step is stopped when the last of its requests is cancelled.
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

// A device may fail meanwhile: its rows are then as good as never planned.
bool engine::compute(const step_plan &p) {
    struct in_step {
        engine &e;
        ~in_step() { e.leave_step(); }
    };
    enter_step(p);
    const in_step guard{*this};
    return runner_.run(p.rows, p.logits, &stop_);
}

void engine::leave_step() {
    const std::lock_guard lock(mutex_);
    for (const task *j : scheduler_.running()) static_cast<request *>(j->owner)->in_step = false;
}

// What others may see of the scheduler.
void engine::publish() {
    const page_book &book = scheduler_.pages();
    const std::lock_guard lock(mutex_);
    stats_.running = scheduler_.running().size();
    stats_.queued = static_cast<uint64_t>(scheduler_.waiting());
    stats_.pages_free = static_cast<uint64_t>(book.available());
    stats_.pages_kept = static_cast<uint64_t>(book.kept());
    stats_.pages_committed = static_cast<uint64_t>(pool_.committed());
    stats_.looked_up = scheduler_.totals().looked_up;
    stats_.found = scheduler_.totals().found;
    stats_.preemptions = scheduler_.totals().preemptions;
}

void engine::report(const step_plan &p, bool computed, double begun, double compute) {
    const double ended = os::seconds();
    step_trace t{};
    {
        const std::lock_guard lock(mutex_);
        t.step = ++stats_.steps;
        recent_[t.step % recent_.size()] = {begun, ended, step_prompt_, step_new_};
        t.running = stats_.running, t.queued = stats_.queued + incoming_.size();
    }
    t.rows = computed ? static_cast<uint64_t>(p.rows) : 0;
    t.prompt_rows = std::exchange(step_prompt_, 0);
    t.answer_rows = t.rows - std::min(t.rows, t.prompt_rows);
    t.started = p.started.size(), t.preempted = p.preempted.size(), t.ended = std::exchange(step_ended_, 0);
    t.found_positions = static_cast<uint64_t>(p.found), t.copied_pages = p.copies.size();
    const page_book &book = scheduler_.pages();
    t.pages_free = static_cast<uint64_t>(book.free()), t.pages_kept = static_cast<uint64_t>(book.kept());
    t.pages_held = static_cast<uint64_t>(book.pages() - book.available());
    t.seconds = ended - begun, t.compute_seconds = compute;
    step_new_ = 0;
    if (options_.trace) options_.trace(t);
}

void engine::trim(const turn &, int64_t keep) {
    scheduler_.pages().forget(keep);
    pool_.uncommit(scheduler_.pages().shrink());
    publish();
}

int64_t engine::save_session(const turn &, uint64_t tag, std::span<const token_id> tokens, const std::string &path) {
    check_tokens("tokens", tokens);
    return ds::save_session(session_place(), tag, tokens, path);
}

int64_t engine::restore_session(const turn &, uint64_t tag, const std::string &path, std::span<token_id> tokens, size_t &count) {
    struct publisher {    // a failure may have displaced kept pages, too
        engine &e;
        ~publisher() { e.publish(); }
    } const publisher{*this};
    return ds::restore_session(session_place(), tag, path, tokens, count);
}

int64_t engine::forget_session(const turn &, uint64_t tag, std::span<const token_id> tokens) {
    check_tokens("tokens", tokens);
    const int64_t pages = scheduler_.pages().forget(tag, tokens);
    publish();
    return pages;
}

// ---- What a step's logits mean to a request -----------------------------------------------------------------------------------------------------

// All that is read of logits, before anything is made of it: a device that fails now has changed nothing. A request whose thought ends here chooses nothing.
void engine::choose(const step_plan &p) {
    int64_t output = 0;
    outcomes_.clear();
    for (const step_part &part : p.parts) {
        request &r = *static_cast<request *>(part.who->owner);
        const request_options &o = r.options;
        outcome &out = outcomes_.emplace_back(outcome{-1, nullptr, status::ok});
        const int64_t first = std::exchange(output, output + part.logits);
        if (part.logits == 0 || (!o.score && r.thought_enough())) continue;
        if (o.score || o.logits || o.logprobs || o.top_logprobs) out.logits = runner_.logits(first, part.logits);
        try {
            if (!o.score) out.token = choose_one(r, first, out.logits);
        } catch (const error &e) {
            if (e.code != status::numeric) throw;
            out.status = e.code;
        }
    }
}

// From all logits, or from the leading ones where these are enough.
token_id engine::choose_one(request &r, int64_t output, const float *logits) {
    const sampling &s = r.options.sampling;
    const std::span<const token_id> not_these = r.fresh_answer ? no_beginning_ : std::span<const token_id>();
    if (!logits && runner_.leads())
        if (const std::optional<token_id> t = sampler_.choose(runner_.leading(output), s, r.counts.data(), r.tokens.size(), not_these)) return *t;
    return sampler_.choose(logits ? logits : runner_.logits(output), s, r.counts.data(), r.tokens.size(), not_these);
}

void engine::consume(const step_part &p, const outcome &o) {
    request &r = *static_cast<request *>(p.who->owner);
    r.said.clear();
    scheduler_.computed(p);
    const auto prompt_done = static_cast<uint64_t>(std::min(r.job.computed, r.prompt_count()));
    if (prompt_done > r.prompt_done) {
        step_prompt_ += prompt_done - r.prompt_done;
        const std::lock_guard lock(mutex_);
        stats_.prompt_tokens += prompt_done - r.prompt_done;
        r.prompt_done = prompt_done;
    }
    try {
        if (r.options.score) consume_score(r, p, o.logits);
        else if (p.logits) consume_token(r, o);
    } catch (const error &e) {
        if (e.code != status::numeric) throw;
        finish_with(r, finish::error, e.code);
    }
}

// The logits of position p speak of the token at p + 1: its log-probability waits in the request for that position's event. What was scored before the
// request made room for others is not told again.
void engine::consume_score(request &r, const step_part &part, const float *logits) {
    const auto vocab = static_cast<size_t>(model_->h.vocab);
    for (int64_t p = part.first; p < part.first + part.rows; ++p, logits += vocab) {
        if (p < r.scored) continue;
        const double log_sum = sampler_.log_sum(logits);
        event e = make_event(r, event_type::score);
        e.position = static_cast<uint64_t>(p);
        e.token = r.tokens[static_cast<size_t>(p)];
        e.logprob = r.next_logprob;
        e.logits = r.options.logits ? logits : nullptr;
        e.top = top_of(r, logits, log_sum);
        events_.push_back(e);
        r.scored = p + 1;
        if (p + 1 < r.prompt_count()) r.next_logprob = static_cast<float>(logits[r.tokens[static_cast<size_t>(p + 1)]] - log_sum);
    }
    if (r.job.computed == r.prompt_count()) finish_with(r, finish::scored, status::ok);
}

void engine::consume_token(request &r, const outcome &o) {
    if (r.state == request_state::prompt) {
        r.first = os::seconds();
        r.state = request_state::answer;
    }
    if (r.thought_enough()) return close_thinking(r);    // with a budget of 0, of a thought that the prompt has opened
    if (o.status != status::ok) return finish_with(r, finish::error, o.status);
    {
        const std::lock_guard lock(r.text_mutex);
        r.fresh_answer = false;
    }
    const std::vector<token_id> &ends = model_->vocabulary.end_tokens();
    if (!r.options.ignore_end && std::binary_search(ends.begin(), ends.end(), o.token)) return finish_with(r, finish::stop, status::ok);
    accept(r, o);
}

void engine::accept(request &r, const outcome &o) {
    const uint64_t before = r.produced;
    bool stopped;
    {
        const std::lock_guard lock(r.text_mutex);
        stopped = say(r, o.token, &o);
    }
    count_new(r.produced - before);
    scheduler_.charge(r.job, 1);
    const uint64_t produced = r.produced;
    if (stopped) finish_with(r, finish::stop, status::ok);
    else if (r.options.max_new && produced >= r.options.max_new) finish_with(r, finish::length, status::ok);
    else if (static_cast<int64_t>(r.tokens.size()) >= r.job.max_length) finish_with(r, finish::context, status::ok);
    else if (r.thought_enough()) close_thinking(r);
}

// What is injected runs through the model like a piece of a prompt, before the next choice.
void engine::close_thinking(request &r) {
    const std::vector<token_id> &ending = r.options.think_ending;
    if (static_cast<int64_t>(r.tokens.size() + ending.size()) >= r.job.max_length) return finish_with(r, finish::context, status::ok);
    bool stopped = false;
    {
        const std::lock_guard lock(r.text_mutex);
        r.closed = r.fresh_answer = true;
        for (size_t i = 0; i < ending.size() && !stopped; ++i) stopped = say(r, ending[i], nullptr);
    }
    if (stopped) finish_with(r, finish::stop, status::ok);
}

void engine::count_new(uint64_t tokens) {
    const std::lock_guard lock(mutex_);
    stats_.new_tokens += tokens;
    step_new_ += tokens;
}

// The token becomes the request's next, chosen, or injected where `o` is null. True when a stop text is complete. Under the request's lock: a fork takes all of
// this, or nothing.
bool engine::say(request &r, token_id t, const outcome *o) {
    const std::string_view bytes = model_->vocabulary.bytes(t, r.options.special);
    r.decoded.clear();
    r.certain.clear();
    r.text.push(bytes, r.decoded);
    const channel_cutter::seen seen = r.channels.push(t, bytes.size(), r.decoded);
    const bool stopped = r.stops.push(r.decoded, r.certain);
    if (seen.opened && r.options.think_budget == 0) o = nullptr;    // not even a tag is within a budget of 0
    const bool injected = !o;
    const float *const logits = o ? o->logits : nullptr;
    ++(injected ? r.injected_tokens : seen.thinking ? r.thinking_tokens : r.answer_tokens);
    r.append(t);
    event e = make_event(r, event_type::token);
    e.thinking = seen.thinking;
    e.injected = injected;
    e.token = t;
    e.position = r.tokens.size() - 1;
    if (logits && (r.options.logprobs || r.options.top_logprobs)) {
        const double log_sum = sampler_.log_sum(logits);
        e.logprob = static_cast<float>(logits[t] - log_sum);
        e.top = top_of(r, logits, log_sum);
    }
    e.logits = r.options.logits ? logits : nullptr;
    hand_out(r, e);
    return stopped;
}

// The event gets the text that became certain, as far as it is of its channel; text of the other one gets events of its own, before and after it.
void engine::hand_out(request &r, event e) {
    pieces_.clear();
    r.channels.cut(r.certain, pieces_);
    const bool last = e.type == event_type::done;
    if (last && !pieces_.empty()) e.thinking = pieces_.back().thinking;
    const auto mine = std::find_if(pieces_.rbegin(), pieces_.rend(), [&](const text_piece &p) { return p.thinking == e.thinking; });
    const auto own = mine == pieces_.rend() ? pieces_.size() : static_cast<size_t>(pieces_.rend() - mine) - 1;
    for (size_t i = 0; i < pieces_.size(); ++i) {
        event text = make_event(r, event_type::text);
        text.position = e.position;
        event &to = i == own ? e : text;
        to.thinking = pieces_[i].thinking;
        to.text = {r.said.data() + r.said.size(), pieces_[i].text.size()};
        r.said += pieces_[i].text;
        events_.push_back(to);
    }
    if (own == pieces_.size()) events_.push_back(e);
}

std::span<const token_logprob> engine::top_of(const request &r, const float *logits, double log_sum) {
    const size_t first = top_.size();
    if (r.options.top_logprobs) sampler_.top(logits, log_sum, r.options.top_logprobs, top_);
    return {top_.data() + first, top_.size() - first};    // top_ never grows past its reserve
}

event engine::make_event(const request &r, event_type type) const {
    event e{};
    e.request = r.id;
    e.user = r.options.user;
    e.type = type;
    e.thinking = r.channels.thinking();
    e.token = -1;
    e.prompt_tokens = r.prompt_done;
    e.thinking_tokens = r.thinking_tokens;
    e.answer_tokens = r.answer_tokens;
    e.injected_tokens = r.injected_tokens;
    e.cached_tokens = static_cast<uint64_t>(r.job.found);
    e.preemptions = r.job.preemptions;
    return e;
}

void engine::finish_with(request &r, ds::finish f, ds::status s) {
    const bool was_running = r.job.starts > 0;
    std::unique_lock text(r.text_mutex);
    r.decoded.clear();
    r.certain.clear();
    r.text.finish(r.decoded);
    r.channels.finish(r.decoded);
    if (f != finish::stop || !r.stops.stopped()) {    // after a stop text nothing more is to be said
        r.stops.push(r.decoded, r.certain);
        r.stops.finish(r.certain);
    }
    r.ended = true;
    event e = make_event(r, event_type::done);
    const double now = os::seconds(), started = was_running ? r.started : now, first = r.first > 0 ? r.first : now;
    e.position = r.tokens.size();
    e.finish = f;
    e.status = s;
    e.queue_seconds = started - r.submitted;
    e.prompt_seconds = was_running ? first - started : 0;
    e.answer_seconds = now - first;
    hand_out(r, e);
    text.unlock();
    done_.push_back(&r);
    ++step_ended_;
    scheduler_.end(r.job);
    {
        const std::lock_guard lock(mutex_);
        r.state = request_state::done;
    }
    publish();
}

} // namespace ds
