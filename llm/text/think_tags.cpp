// Whether a prompt leaves the model in a thought. If a tag is a token of the vocabulary, only that token
// counts.
#include "think_tags.h"

#include <algorithm>

namespace ds {

static bool blank(std::string_view s) { return s.find_first_not_of(white_space) == std::string_view::npos; }

think_tags find_think_tags(const tokenizer &v) {
    const auto find = [&](std::string_view tag) {
        const token_id t = v.find(tag);
        return t >= 0 && v.kind(t) == token_kind::unused ? -1 : t;
    };
    return {find(think_open), find(think_close)};
}

std::vector<token_id> think_ending(const tokenizer &v, std::string_view text) {
    for (const std::string_view tag : {think_open, think_close})
        if (text.find(tag) != std::string_view::npos)
            throw error(status::argument,
                        "thinking.end_text: has the tag " + std::string(tag) + ", which is added by itself");
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

// The text after the last control token that is not a tag.
static std::string last_text(const tokenizer &v, std::span<const token_id> prompt) {
    const think_tags tags = find_think_tags(v);
    const auto border = std::find_if(prompt.rbegin(), prompt.rend(), [&](token_id t) {
        return v.kind(t) == token_kind::control && t != tags.open && t != tags.close;
    });
    std::string text;
    for (auto t = border.base(); t != prompt.end(); ++t) text += v.bytes(*t, true);
    return text;
}

static think_state state_after(std::string_view text) {
    const size_t open = text.rfind(think_open), close = text.find(think_close);
    if (open == std::string_view::npos && close != std::string_view::npos && blank(text.substr(0, close)) &&
        blank(text.substr(close + think_close.size())))
        return think_state::answer;  // DeepSeek-V3.1 closes a thought that nothing opened
    if (open == std::string_view::npos) return think_state::start;
    const std::string_view before = text.substr(0, open), inside = text.substr(open + think_open.size());
    if (inside.find(think_close) != std::string_view::npos) return think_state::answer;
    return blank(before) || blank(inside) ? think_state::thinking : think_state::start;
}

think_state think_state_after(const tokenizer &v, std::span<const token_id> prompt) {
    return state_after(last_text(v, prompt));
}

std::string opened_thought(const tokenizer &v, std::span<const token_id> prompt) {
    const std::string text = last_text(v, prompt);
    return state_after(text) == think_state::thinking ? text.substr(text.rfind(think_open)) : "";
}

}  // namespace ds
