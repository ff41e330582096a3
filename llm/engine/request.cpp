// A request reserves all the memory that it will need at construction, so that a step allocates none.
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

request::request(request_options o, int64_t max_positions, channel_cutter cutter, size_t token_bytes,
                 size_t step_bytes)
    : options(std::move(o)), stops(options.stop, longest(options.stop) + token_bytes),
      channels(std::move(cutter)) {
    const size_t held = longest(options.stop) + 2 * think_open.size();  // held back by stops and channels
    tokens.reserve(static_cast<size_t>(max_positions));
    tokens = options.prompt;
    decoded.reserve(token_bytes);
    certain.reserve(held + 2 * token_bytes);
    channels.reserve(held + 2 * token_bytes);
    event_text.reserve(held + step_bytes);
    job.client = options.client;
    job.adapter = options.adapter ? options.adapter->key(options.adapter_scale) : 0;
    job.priority = options.priority;
    job.tokens = tokens.data();
    job.length = prompt_count();
    job.max_length = max_positions;
    job.all_logits = options.score;
    job.uses_cache = options.use_cache;
    job.owner = this;
}

// The held text may become certain in a single step, in addition to the step's own.
void request::continue_from(std::string_view held) {
    stops.continue_from(held);
    for (std::string *s : {&certain, &event_text}) s->reserve(s->capacity() + held.size());
    channels.reserve(certain.capacity());
}

void request::append(token_id t) {
    tokens.push_back(t);
    ++job.length;
    if (!counts.empty()) ++counts[static_cast<size_t>(t)];
    produced.store(thinking_tokens + answer_tokens, std::memory_order_relaxed);
}

// The length of the longest suffix of `text` that is a proper prefix of a stop text.
static size_t possible_stop(std::string_view text, const std::vector<std::string> &stops) {
    size_t longest = 0;
    for (const std::string &s : stops)
        for (size_t n = std::min(text.size(), s.size() - 1); n > longest; --n)
            if (text.substr(text.size() - n) == std::string_view(s).substr(0, n)) longest = n;
    return longest;
}

bool stop_matcher::push(std::string_view piece, std::string &out) {
    held_ += piece;
    if (stops_.empty()) {  // after continue_from, text is held even so
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

void stop_matcher::continue_from(std::string_view held) {
    held_.reserve(held_.capacity() + held.size());
    held_ = held;
}

void stop_matcher::finish(std::string &out) {
    out += held_;
    held_.clear();
}

}  // namespace ds
