// An answer has at most one thought, at its beginning. If a tag is a token of the vocabulary, only that token
// counts; otherwise it is recognised by its text, wherever the token boundaries are. Tags belong to the
// thought, so a thought's text is never held back, only what may open one.
#include "thinking.h"

#include <algorithm>

namespace ds {

// ---- Reading

void channel_cutter::add_run(bool thinking, size_t bytes) {
    if (bytes == 0) return;
    if (runs_.empty() || runs_.back().thinking != thinking) runs_.push_back({thinking, 0});
    runs_.back().bytes += bytes;
}

std::string_view channel_cutter::read_start(std::string_view text) {
    if (undecided_.empty()) {
        const size_t n = std::min(text.find_first_not_of(white_space), text.size());
        add_run(false, n);
        text.remove_prefix(n);
    }
    for (; tags_.open < 0 && !text.empty() && text.front() == think_open[undecided_.size()];
         text.remove_prefix(1)) {
        undecided_ += text.front();
        if (undecided_.size() < think_open.size()) continue;
        add_run(true, undecided_.size());
        undecided_.clear();
        state_ = think_state::thinking;
        opened_ = true;
        return text.substr(1);
    }
    if (text.empty()) return text;
    add_run(false, undecided_.size());
    undecided_.clear();
    state_ = think_state::answer;
    return text;
}

std::string_view channel_cutter::read_thought(std::string_view text) {
    const size_t known = tail_.size();
    tail_ += text;
    const size_t at = tags_.close < 0 ? tail_.find(think_close) : std::string::npos;
    if (at == std::string::npos) {
        add_run(true, text.size());
        tail_.erase(0, tail_.size() - std::min(tail_.size(), think_close.size() - 1));
        return {};
    }
    const size_t mine = at + think_close.size() - known;
    add_run(true, mine);
    tail_.clear();
    state_ = think_state::answer;
    return text.substr(mine);
}

void channel_cutter::read(std::string_view text) {
    if (state_ == think_state::start) text = read_start(text);
    if (state_ == think_state::thinking) text = read_thought(text);
    if (state_ == think_state::answer) add_run(false, text.size());
}

channel_cutter::seen channel_cutter::push(token_id t, size_t own, std::string_view text) {
    const bool before = thinking();
    opened_ = false;
    const bool tag = t >= 0 && (t == tags_.open || t == tags_.close);
    const std::string_view last = text.substr(text.size() - (tag ? own : 0));
    read(text.substr(0, text.size() - last.size()));
    if (tag && t == tags_.open && state_ == think_state::start) {
        add_run(true, last.size());
        state_ = think_state::thinking;
        opened_ = true;
    } else if (tag && t == tags_.close && thinking()) {
        add_run(true, last.size());
        state_ = think_state::answer;
    } else {
        read(last);
    }
    return {before || opened_, opened_};
}

void channel_cutter::finish(std::string_view text) {
    read(text);
    add_run(false, undecided_.size());
    undecided_.clear();
}

// ---- Cutting

void channel_cutter::reserve(size_t bytes) {
    undecided_.reserve(think_open.size());
    tail_.reserve(think_close.size() + bytes);
    uncut_.reserve(think_open.size() + bytes);
    runs_.reserve(8);  // at most three: one thought, with text before and after
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

}  // namespace ds
