// From a step's logits to a request's next token, its text, its events and its end.
// Invariant: everything read from a device is read before any request changes, so a device that fails has
// changed nothing.
#include "engine.h"

#include "../../tensor/numerics.h"

#include <algorithm>

namespace ds {

// Reads all logits and chooses all tokens. A request whose thought has used up its budget chooses nothing.
void engine::choose(const step_plan &p) {
    int64_t output = 0;
    outcomes_.clear();
    for (const step_part &part : p.parts) {
        request &r = *static_cast<request *>(part.who->owner);
        const request_options &o = r.options;
        outcome &out = outcomes_.emplace_back(outcome{-1, nullptr, status::ok});
        const int64_t first = std::exchange(output, output + part.logits);
        if (part.logits == 0 || (!o.score && r.thought_enough())) continue;
        if (o.score || o.logits || o.logprobs || o.top_logprobs)
            out.logits = runner_.logits(first, part.logits);
        try {
            if (!o.score) out.token = choose_one(r, first, out.logits);
        } catch (const error &e) {
            if (e.code != status::numeric) throw;
            out.status = e.code;
        }
    }
}

// Chooses from the leading logits if these suffice, else from all.
token_id engine::choose_one(request &r, int64_t output, const float *logits) {
    const sampling &s = r.options.sampling;
    const std::span<const token_id> not_these = r.fresh_answer ? not_first_ : std::span<const token_id>();
    if (!logits && runner_.leads())
        if (const std::optional<token_id> t =
                sampler_.choose(runner_.leading(output), s, r.counts.data(), r.tokens.size(), not_these))
            return *t;
    return sampler_.choose(logits ? logits : runner_.logits(output), s, r.counts.data(), r.tokens.size(),
                           not_these);
}

void engine::consume(const step_part &p, const outcome &o) {
    request &r = *static_cast<request *>(p.who->owner);
    r.event_text.clear();
    scheduler_.computed(p);
    const auto prompt_done = static_cast<uint64_t>(std::min(r.job.computed, r.prompt_count()));
    if (prompt_done > r.prompt_done) count_prompt(r, prompt_done);
    try {
        if (r.options.score) consume_score(r, p, o.logits);
        else if (p.logits) consume_token(r, o);
    } catch (const error &e) {
        if (e.code != status::numeric) throw;
        finish_with(r, finish::error, e.code);
    }
}

// The logits of position p predict the token at p + 1, whose log-probability is stored in the request until
// that position's event. Positions scored before a preemption get no second event.
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
        if (p + 1 < r.prompt_count())
            r.next_logprob = static_cast<float>(logits[r.tokens[static_cast<size_t>(p + 1)]] - log_sum);
    }
    if (r.job.computed == r.prompt_count()) finish_with(r, finish::scored, status::ok);
}

void engine::consume_token(request &r, const outcome &o) {
    if (r.state == request_state::prompt) {
        r.first = os::seconds();
        r.state = request_state::answer;
    }
    // Budget 0, and the prompt has opened the thought.
    if (r.thought_enough()) return close_thinking(r);
    if (o.status != status::ok) return finish_with(r, finish::error, o.status);
    {
        const std::lock_guard lock(r.text_mutex);
        r.fresh_answer = false;
    }
    const std::vector<token_id> &ends = model_->vocabulary.end_tokens();
    if (!r.options.ignore_end && std::binary_search(ends.begin(), ends.end(), o.token))
        return finish_with(r, finish::stop, status::ok);
    accept(r, o);
}

void engine::accept(request &r, const outcome &o) {
    const uint64_t before = r.produced;
    bool stopped;
    {
        const std::lock_guard lock(r.text_mutex);
        stopped = emit_token(r, o.token, &o);
    }
    count_new(r.produced - before);
    scheduler_.charge(r.job, 1);
    const uint64_t produced = r.produced;
    if (stopped) finish_with(r, finish::stop, status::ok);
    else if (r.options.max_new && produced >= r.options.max_new) finish_with(r, finish::length, status::ok);
    else if (static_cast<int64_t>(r.tokens.size()) >= r.job.max_length)
        finish_with(r, finish::context, status::ok);
    else if (r.thought_enough()) close_thinking(r);
}

// Injected tokens run through the model like a piece of a prompt, before the next choice.
void engine::close_thinking(request &r) {
    const std::vector<token_id> &ending = r.options.think_ending;
    if (static_cast<int64_t>(r.tokens.size() + ending.size()) >= r.job.max_length)
        return finish_with(r, finish::context, status::ok);
    bool stopped = false;
    {
        const std::lock_guard lock(r.text_mutex);
        r.closed = r.fresh_answer = true;
        for (size_t i = 0; i < ending.size() && !stopped; ++i) stopped = emit_token(r, ending[i], nullptr);
    }
    if (stopped) finish_with(r, finish::stop, status::ok);
}

// Appends a token to the request and makes its events: a chosen one, or an injected one if `o` is null. True
// if a stop text is complete. The caller holds the request's lock, so that a fork takes over all of this or
// nothing.
bool engine::emit_token(request &r, token_id t, const outcome *o) {
    const std::string_view bytes = model_->vocabulary.bytes(t, r.options.special);
    r.decoded.clear();
    r.certain.clear();
    r.text.push(bytes, r.decoded);
    const channel_cutter::seen seen = r.channels.push(t, bytes.size(), r.decoded);
    const bool stopped = r.stops.push(r.decoded, r.certain);
    if (seen.opened && r.options.think_budget == 0) o = nullptr;  // a budget of 0 does not even cover the tag
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

// Gives the event the text that became certain, as far as it is in its channel. Text of the other channel
// gets events of its own, before and after it.
void engine::hand_out(request &r, event e) {
    pieces_.clear();
    r.channels.cut(r.certain, pieces_);
    const bool last = e.type == event_type::done;
    if (last && !pieces_.empty()) e.thinking = pieces_.back().thinking;
    const auto mine = std::find_if(pieces_.rbegin(), pieces_.rend(),
                                   [&](const text_piece &p) { return p.thinking == e.thinking; });
    const auto own = mine == pieces_.rend() ? pieces_.size() : static_cast<size_t>(pieces_.rend() - mine) - 1;
    for (size_t i = 0; i < pieces_.size(); ++i) {
        event text = make_event(r, event_type::text);
        text.position = e.position;
        event &to = i == own ? e : text;
        to.thinking = pieces_[i].thinking;
        to.text = {r.event_text.data() + r.event_text.size(), pieces_[i].text.size()};
        r.event_text += pieces_[i].text;
        events_.push_back(to);
    }
    if (own == pieces_.size()) events_.push_back(e);
}

std::span<const token_logprob> engine::top_of(const request &r, const float *logits, double log_sum) {
    const size_t first = top_.size();
    if (r.options.top_logprobs) sampler_.top(logits, log_sum, r.options.top_logprobs, top_);
    return {top_.data() + first, top_.size() - first};  // top_ never grows past its reserve
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
    e.cached_tokens = static_cast<uint64_t>(r.job.cached);
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
    if (f != finish::stop || !r.stops.stopped()) {  // no text follows a stop text
        r.stops.push(r.decoded, r.certain);
        r.stops.finish(r.certain);
    }
    r.ended = true;
    event e = make_event(r, event_type::done);
    const double now = os::seconds(), started = was_running ? r.started : now,
                 first = r.first > 0 ? r.first : now;
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
    mark_done(r);
    publish();
}

}  // namespace ds
