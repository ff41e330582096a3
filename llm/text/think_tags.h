// The tags around a model's thinking, in a vocabulary and in a prompt.
#pragma once

#include "tokenizer.h"

namespace ds {

constexpr std::string_view think_open = "<think>", think_close = "</think>";
constexpr std::string_view white_space = " \t\r\n";
// Every family's template has this between a thought and the answer.
constexpr std::string_view think_after = "\n\n";

// The vocabulary's single-token tags, else -1. If a tag is a token, no other spelling of it counts.
struct think_tags {
    token_id open = -1, close = -1;
};
think_tags find_think_tags(const tokenizer &v);

// The tokens that close a thought: the caller's `text`, the closing tag, and think_after. Throws
// status::argument if the text contains a tag.
std::vector<token_id> think_ending(const tokenizer &v, std::string_view text);

// An answer has at most one thought, at its beginning: an opening tag counts only if nothing but white space
// precedes it, a closing tag only within the thought.
enum class think_state { start, thinking, answer };

// The state in which a prompt leaves the model. Only the text after the last control token counts, since the
// messages before it are complete. There an opening tag counts at the beginning or the end, white space
// aside; anywhere else it is a mention of the tag.
think_state think_state_after(const tokenizer &v, std::span<const token_id> prompt);

// The prompt's part of an open thought, from its opening tag on: "<think>\n". Empty if no thought is open.
std::string opened_thought(const tokenizer &v, std::span<const token_id> prompt);

}  // namespace ds
