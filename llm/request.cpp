// Requests reserve what they will need when they are made, so that a step does not.
#include "request.h"

#include <algorithm>

namespace ds {

request::request(uint64_t id, request_options o, int64_t max_positions, channel_cutter channels)
    : id(id), options(std::move(o)), max_positions(max_positions), stops(options.stop), channels(std::move(channels)) {
    tokens.reserve(static_cast<size_t>(max_positions));
    tokens = options.prompt;
}

void request::append(token_id t) {
    tokens.push_back(t);
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
    if (stops_.empty()) {
        out += piece;
        return false;
    }
    held_ += piece;
    size_t first = std::string::npos;
    for (const std::string &s : stops_) first = std::min(first, held_.find(s));
    stopped_ = first != std::string::npos;
    const size_t sure = stopped_ ? first : held_.size() - possible_stop(held_, stops_);
    out.append(held_, 0, sure);
    held_.erase(0, stopped_ ? std::string::npos : sure);
    return stopped_;
}

void stop_matcher::finish(std::string &out) {
    out += held_;
    held_.clear();
}

} // namespace ds
