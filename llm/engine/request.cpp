// Requests reserve what they will need when they are made, so that a step does not.
#include "request.h"

#include <algorithm>

namespace ds {

static size_t longest(const std::vector<std::string> &list) {
    size_t n = 0;
    for (const std::string &s : list) n = std::max(n, s.size());
    return n;
}

stop_matcher::stop_matcher(const std::vector<std::string> &stops, size_t held_bytes) : stops_(stops) {
    held_.reserve(held_bytes);
}

request::request(request_options o, int64_t max_positions, channel_cutter channels, size_t token_bytes,
                 size_t step_bytes)
    : options(std::move(o)), stops(options.stop, longest(options.stop) + token_bytes),
      channels(std::move(channels)) {
    const size_t held = longest(options.stop) + 2 * think_open.size();  // by stops, by channels
    tokens.reserve(static_cast<size_t>(max_positions));
    tokens = options.prompt;
    decoded.reserve(token_bytes);
    certain.reserve(held + 2 * token_bytes);
    this->channels.reserve(held + 2 * token_bytes);
    said.reserve(held + step_bytes);
    job.client = options.client;
    job.priority = options.priority;
    job.tokens = tokens.data();
    job.length = prompt_count();
    job.max_length = max_positions;
    job.all_logits = options.score;
    job.uses_cache = options.use_cache;
    job.owner = this;
}

// Room is made for it, since it may come out at once.
void request::hold(std::string_view text) {
    stops.hold(text);
    for (std::string *s : {&certain, &said}) s->reserve(s->capacity() + text.size());
    channels.reserve(certain.capacity());
}

void request::append(token_id t) {
    tokens.push_back(t);
    ++job.length;
    if (!counts.empty()) ++counts[static_cast<size_t>(t)];
    produced.store(thinking_tokens + answer_tokens, std::memory_order_relaxed);
}

// The longest end of `text` that begins some stop text.
static size_t possible_stop(std::string_view text, const std::vector<std::string> &stops) {
    size_t longest = 0;
    for (const std::string &s : stops)
        for (size_t n = std::min(text.size(), s.size() - 1); n > longest; --n)
            if (text.substr(text.size() - n) == std::string_view(s).substr(0, n)) longest = n;
    return longest;
}

bool stop_matcher::push(std::string_view piece, std::string &out) {
    held_ += piece;
    if (stops_.empty()) {  // something is held even so, where another one's text goes on
        finish(out);
        return false;
    }
    size_t first = std::string::npos;
    for (const std::string &s : stops_) first = std::min(first, held_.find(s));
    stopped_ = first != std::string::npos;
    const size_t sure = stopped_ ? first : held_.size() - possible_stop(held_, stops_);
    out.append(held_, 0, sure);
    held_.erase(0, stopped_ ? std::string::npos : sure);
    return stopped_;
}

void stop_matcher::hold(std::string_view text) {
    held_.reserve(held_.capacity() + text.size());
    held_ = text;
}

void stop_matcher::finish(std::string &out) {
    out += held_;
    held_.clear();
}

}  // namespace ds
