// One thought at most, first in the answer. A tag that the vocabulary has as a token is that token alone; else it is found by its text, wherever the
// tokens' borders lie. Tags belong to the thought, so text of a thought is never held back: only what may open one is.
#include "thinking.h"

#include <algorithm>

namespace ds {

static constexpr std::string_view blanks = " \t\r\n";
static bool blank(std::string_view s) { return s.find_first_not_of(blanks) == std::string_view::npos; }

think_tags find_think_tags(const tokenizer &v) {
    const auto find = [&](std::string_view tag) {
        const token_id t = v.find(tag);
        return t >= 0 && v.kind(t) == token_kind::unused ? -1 : t;
    };
    return {find(think_open), find(think_close)};
}

std::vector<token_id> think_ending(const tokenizer &v, std::string_view text) {
    for (const std::string_view tag : {think_open, think_close})
        if (text.find(tag) != std::string_view::npos) throw error(status::argument, "thinking.end_text: has the tag " + std::string(tag) + ", which is added by itself");
    std::vector<token_id> out;
    const token_id close = find_think_tags(v).close;
    if (close < 0) {
        v.encode(std::string(text).append(think_close).append(think_after), {}, out);
        return out;
    }
    v.encode(text, {}, out);
    out.push_back(close);
    v.encode(think_after, {}, out);
    return out;
}

// The text after the last control token that is no tag.
static std::string last_text(const tokenizer &v, std::span<const token_id> prompt) {
    const think_tags tags = find_think_tags(v);
    const auto border = std::find_if(prompt.rbegin(), prompt.rend(), [&](token_id t) { return v.kind(t) == token_kind::control && t != tags.open && t != tags.close; });
    std::string text;
    for (auto t = border.base(); t != prompt.end(); ++t) text += v.bytes(*t, true);
    return text;
}

static think_state state_after(std::string_view text) {
    const size_t open = text.rfind(think_open), close = text.find(think_close);
    if (open == std::string_view::npos && close != std::string_view::npos && blank(text.substr(0, close)) && blank(text.substr(close + think_close.size())))
        return think_state::answer;    // DeepSeek-V3.1 closes a thought that nothing opened
    if (open == std::string_view::npos) return think_state::start;
    const std::string_view before = text.substr(0, open), inside = text.substr(open + think_open.size());
    if (inside.find(think_close) != std::string_view::npos) return think_state::answer;
    return blank(before) || blank(inside) ? think_state::thinking : think_state::start;
}

think_state think_state_after(const tokenizer &v, std::span<const token_id> prompt) { return state_after(last_text(v, prompt)); }

std::string opened_thought(const tokenizer &v, std::span<const token_id> prompt) {
    const std::string text = last_text(v, prompt);
    return state_after(text) == think_state::thinking ? text.substr(text.rfind(think_open)) : "";
}

// ---- Reading

void channel_cutter::know(bool thinking, size_t bytes) {
    if (bytes == 0) return;
    if (runs_.empty() || runs_.back().thinking != thinking) runs_.push_back({thinking, 0});
    runs_.back().bytes += bytes;
}

std::string_view channel_cutter::read_start(std::string_view text) {
    if (undecided_.empty()) {
        const size_t n = std::min(text.find_first_not_of(blanks), text.size());
        know(false, n);
        text.remove_prefix(n);
    }
    for (; tags_.open < 0 && !text.empty() && text.front() == think_open[undecided_.size()]; text.remove_prefix(1)) {
        undecided_ += text.front();
        if (undecided_.size() < think_open.size()) continue;
        know(true, undecided_.size());
        undecided_.clear();
        state_ = think_state::thinking;
        opened_ = true;
        return text.substr(1);
    }
    if (text.empty()) return text;
    know(false, undecided_.size());
    undecided_.clear();
    state_ = think_state::answer;
    return text;
}

std::string_view channel_cutter::read_thought(std::string_view text) {
    const size_t known = tail_.size();
    tail_ += text;
    const size_t at = tags_.close < 0 ? tail_.find(think_close) : std::string::npos;
    if (at == std::string::npos) {
        know(true, text.size());
        tail_.erase(0, tail_.size() - std::min(tail_.size(), think_close.size() - 1));
        return {};
    }
    const size_t mine = at + think_close.size() - known;
    know(true, mine);
    tail_.clear();
    state_ = think_state::answer;
    return text.substr(mine);
}

void channel_cutter::read(std::string_view text) {
    if (state_ == think_state::start) text = read_start(text);
    if (state_ == think_state::thinking) text = read_thought(text);
    if (state_ == think_state::answer) know(false, text.size());
}

channel_cutter::seen channel_cutter::push(token_id t, size_t own, std::string_view text) {
    const bool before = thinking();
    opened_ = false;
    const bool tag = t >= 0 && (t == tags_.open || t == tags_.close);
    const std::string_view last = text.substr(text.size() - (tag ? own : 0));
    read(text.substr(0, text.size() - last.size()));
    if (tag && t == tags_.open && state_ == think_state::start) {
        know(true, last.size());
        state_ = think_state::thinking;
        opened_ = true;
    } else if (tag && t == tags_.close && thinking()) {
        know(true, last.size());
        state_ = think_state::answer;
    } else {
        read(last);
    }
    return {before || opened_, opened_};
}

void channel_cutter::finish(std::string_view text) {
    read(text);
    know(false, undecided_.size());
    undecided_.clear();
}

// ---- Cutting

void channel_cutter::reserve(size_t bytes) {
    undecided_.reserve(think_open.size());
    tail_.reserve(think_close.size() + bytes);
    uncut_.reserve(think_open.size() + bytes);
    runs_.reserve(8);    // there is one thought, with text before and after
}

void channel_cutter::cut(std::string_view text, std::vector<text_piece> &out) {
    uncut_.erase(0, std::exchange(cut_, 0));
    uncut_ += text;
    size_t runs = 0;
    while (runs < runs_.size() && cut_ < uncut_.size()) {
        const size_t n = std::min(runs_[runs].bytes, uncut_.size() - cut_);
        out.push_back({runs_[runs].thinking, std::string_view(uncut_).substr(cut_, n)});
        cut_ += n;
        runs_[runs].bytes -= n;
        if (runs_[runs].bytes == 0) ++runs;
    }
    runs_.erase(runs_.begin(), runs_.begin() + static_cast<ptrdiff_t>(runs));
}

} // namespace ds
