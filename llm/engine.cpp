// A step: take what was submitted, drop what was cancelled, admit in order while pages for a whole request are free, compute, hand out events.
// Invariant: every running request owns pages for all positions it may ever reach, so a step never runs out of memory; what it needs besides was
// reserved at construction or at submit.
#include "engine.h"

#include <algorithm>
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
    if (!o.step_rows) o.step_rows = std::max<int64_t>(512, o.max_requests);
    in_range("step_tokens", o.step_rows, o.max_requests, 65536);
    if (!o.logit_rows) o.logit_rows = std::min(o.step_rows, std::max<int64_t>(32, o.max_requests));
    in_range("logit_rows", o.logit_rows, 1, o.step_rows);
    if (!o.kv_positions) o.kv_positions = o.max_requests * pages_for(o.context) * page_positions;
    in_range("kv_tokens", o.kv_positions, 1, int64_t{1} << 31);
    return o;
}

static step_sizes sizes_of(const engine_options &o) {
    const int64_t pool_pages = pages_for(o.kv_positions);
    return {o.step_rows, o.logit_rows, o.max_requests, std::min(pages_for(o.context), pool_pages), pool_pages};
}

memory_plan engine::measure(const model &m, const engine_options &o, const backend &b) {
    const page_layout layout = make_page_layout(*m.architecture, m.h, o.kv_type);
    const step_sizes s = sizes_of(o);
    const size_t pages = pool_bytes(layout.page_bytes, s.pool_pages);
    const runner::bytes r = runner::measure(m, layout, s, b);
    return {m.weight_bytes, pages, layout.page_bytes, r.activations, r.work,
            r.inputs + sampler::bytes(static_cast<size_t>(m.h.vocab))};
}

engine::engine(std::shared_ptr<const ds::model> m, const engine_options &o, backend_ptr b)
    : model_(std::move(m)), options_(o), pool_(o.host, make_page_layout(*model_->architecture, model_->h, o.kv_type).page_bytes, pages_for(o.kv_positions)),
      runner_(*model_, make_page_layout(*model_->architecture, model_->h, o.kv_type), sizes_of(o), std::move(b), o.host, pool_.data()),
      sampler_(static_cast<size_t>(model_->h.vocab)), tags_(find_think_tags(model_->vocabulary)),
      no_beginning_(model_->vocabulary.end_tokens()) {
    if (tags_.open >= 0) no_beginning_.push_back(tags_.open);
    const auto most = static_cast<size_t>(o.max_requests);
    running_.reserve(2 * most);    // some may be done, and wait for their events to be read
    wishes_.reserve(2 * most);
    shares_.reserve(2 * most);
    for (int64_t i = o.max_requests; i-- > 0;) free_sequences_.push_back(i);
    events_.reserve(static_cast<size_t>(o.logit_rows) + 2 * most);
    top_.reserve(static_cast<size_t>(o.logit_rows) * max_top_logprobs);
    stats_.pages_total = stats_.pages_free = static_cast<uint64_t>(pool_.pages());
}

// ---- From any thread ------------------------------------------------------------------------------------------------------------------------------

int64_t engine::max_positions(const request_options &o) const {
    const int64_t most = std::min(options_.context, pool_.pages() * page_positions);
    const auto prompt = static_cast<int64_t>(o.prompt.size());
    if (o.score) return prompt;
    const uint64_t wanted = o.max_new + o.think_ending.size();
    return o.max_new == 0 || wanted > static_cast<uint64_t>(most - prompt) ? most : prompt + static_cast<int64_t>(wanted);
}

void engine::check(const request_options &o) const {
    if (o.prompt.empty()) throw error(status::argument, "prompt: is empty, must have at least one token");
    for (size_t i = 0; i < o.prompt.size(); ++i)
        if (o.prompt[i] < 0 || o.prompt[i] >= model_->h.vocab)
            throw error(status::argument, format_text("prompt[%zu]: is %d, must be from 0 to %lld", i, o.prompt[i], static_cast<long long>(model_->h.vocab - 1)));
    for (const auto &[token, bias] : o.sampling.bias)
        if (token < 0 || token >= model_->h.vocab || !(bias < std::numeric_limits<float>::infinity()))
            throw error(status::argument, format_text("logit_bias: token %d is not in the vocabulary of %lld, or its bias is infinity or not a number", token, static_cast<long long>(model_->h.vocab)));
    check_length(o.prompt.size(), o.score);
}

void engine::check_length(size_t prompt, bool score) const {
    const auto fit = [&](const char *what, int64_t positions) {
        const auto room = static_cast<size_t>(positions - (score ? 0 : 1));
        if (prompt > room) throw error(status::too_long, format_text("prompt: has %zu tokens, the %s has room for %zu%s", prompt, what, room, score ? "" : " and an answer"));
    };
    fit("context", options_.context);
    fit("page pool", pool_.pages() * page_positions);
}

uint64_t engine::submit(request_options o) {
    check(o);
    const int64_t most = max_positions(o);
    const bool count = o.sampling.penalises();
    channel_cutter channels(tags_, think_state_after(model_->vocabulary, o.prompt));
    auto r = std::make_unique<request>(0, std::move(o), most, std::move(channels));
    if (count) {
        r->counts.resize(static_cast<size_t>(model_->h.vocab));
        for (const token_id t : r->options.prompt) ++r->counts[static_cast<size_t>(t)];
    }
    r->submitted = os::seconds();
    const std::lock_guard lock(mutex_);
    if (stats_.queued >= static_cast<uint64_t>(options_.max_queue))
        throw error(status::busy, format_text("the queue is full: %llu requests wait", static_cast<unsigned long long>(stats_.queued)));
    r->id = next_id_;
    request *const raw = r.get();
    live_.emplace(next_id_, raw);
    try {
        incoming_.push_back(std::move(r));
    } catch (...) {
        live_.erase(next_id_);
        throw;
    }
    ++stats_.queued;
    return next_id_++;
}

void engine::cancel(uint64_t id) {
    const std::lock_guard lock(mutex_);
    const auto found = live_.find(id);
    if (found == live_.end() || found->second->state == request_state::done) throw error(status::argument, format_text("request %llu: unknown, or already done", static_cast<unsigned long long>(id)));
    found->second->cancelled = true;
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
    return stats_.running + stats_.queued == 0;
}

engine_stats engine::stats() const {
    const std::lock_guard lock(mutex_);
    return stats_;
}

// ---- A step ---------------------------------------------------------------------------------------------------------------------------------------

engine::turn::turn(engine &e) : taken_(e.stepping_) {
    if (taken_.exchange(true)) throw error(status::state, "step: another thread is in it");
}

std::span<const event> engine::step(const turn &) {
    const os::default_float_mode float_mode;
    if (std::exchange(handed_out_, false)) retire();
    take_incoming();
    drop_cancelled(queue_);
    drop_cancelled(running_);
    admit();
    if (const auto [rows, outputs] = fill(); rows > 0) {
        reserve_events();
        const float *logits = runner_.run(rows, outputs);
        for (size_t i = 0; i < running_.size(); ++i) {
            consume(*running_[i], shares_[i], logits);
            logits += shares_[i].logits * model_->h.vocab;
        }
        const std::lock_guard lock(mutex_);
        ++stats_.steps;
    }
    handed_out_ = true;
    return events_;
}

// Forgets what finished in the step before, whose events have now been read.
void engine::retire() {
    events_.clear();
    top_.clear();
    const std::lock_guard lock(mutex_);
    const auto done = [this](const request_ptr &r) { return r->state == request_state::done && live_.erase(r->id) == 1; };
    std::erase_if(queue_, done);
    std::erase_if(running_, done);
}

void engine::take_incoming() {
    const std::lock_guard lock(mutex_);
    queue_.reserve(queue_.size() + incoming_.size());    // all or none
    for (request_ptr &r : incoming_) queue_.push_back(std::move(r));
    incoming_.clear();
}

void engine::drop_cancelled(std::span<const request_ptr> list) {
    for (const request_ptr &r : list)
        if (r->cancelled && r->state != request_state::done) finish_with(*r, finish::cancelled, status::ok);
}

// First come, first served: nobody overtakes a request that waits for pages.
void engine::admit() {
    struct closing {    // when a page's memory cannot be had, too
        std::vector<request_ptr> &queue;
        ~closing() { std::erase(queue, nullptr); }
    } const gaps{queue_};
    for (request_ptr &r : queue_) {
        if (r->state == request_state::done) continue;    // cancelled just now; it stays until its event was read
        if (free_sequences_.empty() || !pool_.take(pages_for(r->max_positions), r->pages)) break;
        start(*r);
        running_.push_back(std::move(r));
    }
}

void engine::start(request &r) {
    r.sequence = free_sequences_.back();
    free_sequences_.pop_back();
    std::copy(r.pages.begin(), r.pages.end(), runner_.table(r.sequence));
    r.started = os::seconds();
    r.state = request_state::prompt;
    const std::lock_guard lock(mutex_);
    --stats_.queued;
    ++stats_.running;
    stats_.pages_free = static_cast<uint64_t>(pool_.free_pages());
    stats_.pages_committed = static_cast<uint64_t>(pool_.committed());
}

// Writes the step's rows, request after request; the rows that need logits are the last ones of each share.
std::pair<int64_t, int64_t> engine::fill() {
    wishes_.clear();
    for (const request_ptr &r : running_)
        wishes_.push_back({r->state == request_state::done ? 0 : static_cast<int64_t>(r->tokens.size()) - r->computed, r->options.score});
    divide_step(wishes_, options_.step_rows, options_.logit_rows, shares_);
    int64_t row = 0, output = 0;
    for (size_t i = 0; i < running_.size(); ++i) {
        const request &r = *running_[i];
        for (int64_t k = 0; k < shares_[i].rows; ++k, ++row) {
            const int64_t position = r.computed + k;
            runner_.ids()[row] = r.tokens[static_cast<size_t>(position)];
            runner_.positions()[row] = static_cast<int32_t>(position);
            runner_.sequence()[row] = static_cast<int32_t>(r.sequence);
            runner_.slots()[row] = static_cast<int32_t>(r.pages[static_cast<size_t>(position / page_positions)] * page_positions + position % page_positions);
            if (k >= shares_[i].rows - shares_[i].logits) runner_.outputs()[output++] = static_cast<int32_t>(row);
        }
    }
    return {row, output};
}

// An event a row with logits, of each request the last, and what may be injected.
void engine::reserve_events() {
    auto most = static_cast<size_t>(options_.logit_rows) + running_.size();
    for (const request_ptr &r : running_) most += r->closed ? 0 : r->options.think_ending.size();
    events_.reserve(events_.size() + most);
}

// ---- What a step's logits mean to a request -----------------------------------------------------------------------------------------------------

void engine::consume(request &r, const step_share &share, const float *logits) {
    if (share.rows == 0) return;
    r.said.clear();
    r.computed += share.rows;
    const auto prompt_rows = static_cast<uint64_t>(std::max<int64_t>(0, std::min(r.computed, r.prompt_count()) - static_cast<int64_t>(r.prompt_done)));
    r.prompt_done += prompt_rows;
    {
        const std::lock_guard lock(mutex_);
        stats_.prompt_tokens += prompt_rows;
    }
    try {
        if (r.options.score) consume_score(r, share, logits);
        else if (share.logits) consume_token(r, logits);
    } catch (const error &e) {
        if (e.code != status::numeric) throw;
        finish_with(r, finish::error, e.code);
    }
}

// The logits of position p speak of the token at p + 1: its log-probability waits in the request for that position's event.
void engine::consume_score(request &r, const step_share &share, const float *logits) {
    const auto vocab = static_cast<size_t>(model_->h.vocab);
    for (int64_t k = 0; k < share.rows; ++k, logits += vocab) {
        const int64_t p = r.computed - share.rows + k;
        const double log_sum = sampler_.log_sum(logits);
        event e = make_event(r, event_type::score);
        e.position = static_cast<uint64_t>(p);
        e.token = r.tokens[static_cast<size_t>(p)];
        e.logprob = r.next_logprob;
        e.logits = r.options.logits ? logits : nullptr;
        e.top = top_of(r, logits, log_sum);
        events_.push_back(e);
        if (p + 1 < r.prompt_count()) r.next_logprob = static_cast<float>(logits[r.tokens[static_cast<size_t>(p + 1)]] - log_sum);
    }
    if (r.computed == r.prompt_count()) finish_with(r, finish::scored, status::ok);
}

void engine::consume_token(request &r, const float *logits) {
    if (r.state == request_state::prompt) {
        r.first = os::seconds();
        r.state = request_state::answer;
    }
    if (r.thought_enough()) return close_thinking(r);    // with a budget of 0, of a thought that the prompt has opened
    const std::span<const token_id> not_these = std::exchange(r.fresh_answer, false) ? no_beginning_ : std::span<const token_id>();
    const token_id t = sampler_.choose(logits, r.options.sampling, r.counts.data(), r.tokens.size(), not_these);
    const std::vector<token_id> &ends = model_->vocabulary.end_tokens();
    if (!r.options.ignore_end && std::binary_search(ends.begin(), ends.end(), t)) return finish_with(r, finish::stop, status::ok);
    accept(r, t, logits);
}

void engine::accept(request &r, token_id t, const float *logits) {
    const bool stopped = say(r, t, logits);
    const uint64_t produced = r.produced;
    if (stopped) finish_with(r, finish::stop, status::ok);
    else if (r.options.max_new && produced >= r.options.max_new) finish_with(r, finish::length, status::ok);
    else if (static_cast<int64_t>(r.tokens.size()) >= r.max_positions) finish_with(r, finish::context, status::ok);
    else if (r.thought_enough()) close_thinking(r);
}

// What is injected runs through the model like a piece of a prompt, before the next choice.
void engine::close_thinking(request &r) {
    const std::vector<token_id> &ending = r.options.think_ending;
    if (static_cast<int64_t>(r.tokens.size() + ending.size()) >= r.max_positions) return finish_with(r, finish::context, status::ok);
    r.closed = r.fresh_answer = true;
    for (const token_id t : ending)
        if (say(r, t, nullptr)) return finish_with(r, finish::stop, status::ok);
}

// The token becomes the request's next, chosen from `logits` or injected. True when a stop text is complete.
bool engine::say(request &r, token_id t, const float *logits) {
    const std::string_view bytes = model_->vocabulary.bytes(t, r.options.special);
    r.decoded.clear();
    r.certain.clear();
    r.text.push(bytes, r.decoded);
    const channel_cutter::seen seen = r.channels.push(t, bytes.size(), r.decoded);
    const bool stopped = r.stops.push(r.decoded, r.certain);
    if (seen.opened && r.options.think_budget == 0) logits = nullptr;    // not even a tag is within a budget of 0
    const bool injected = !logits;
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
    if (!injected) {
        const std::lock_guard lock(mutex_);
        ++stats_.new_tokens;
    }
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
        to.text = r.said.emplace_back(std::move(pieces_[i].text));
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
    return e;
}

void engine::finish_with(request &r, ds::finish f, ds::status s) {
    const bool was_running = r.state != request_state::queued;
    r.decoded.clear();
    r.certain.clear();
    r.text.finish(r.decoded);
    r.channels.finish(r.decoded);
    if (f != finish::stop || !r.stops.stopped()) {    // after a stop text nothing more is to be said
        r.stops.push(r.decoded, r.certain);
        r.stops.finish(r.certain);
    }
    event e = make_event(r, event_type::done);
    const double now = os::seconds(), started = was_running ? r.started : now, first = r.first > 0 ? r.first : now;
    e.position = r.tokens.size();
    e.finish = f;
    e.status = s;
    e.queue_seconds = started - r.submitted;
    e.prompt_seconds = was_running ? first - started : 0;
    e.answer_seconds = now - first;
    hand_out(r, e);
    pool_.give(r.pages);
    if (was_running) free_sequences_.push_back(r.sequence);
    r.state = request_state::done;
    const std::lock_guard lock(mutex_);
    --(was_running ? stats_.running : stats_.queued);
    stats_.pages_free = static_cast<uint64_t>(pool_.free_pages());
}

} // namespace ds
