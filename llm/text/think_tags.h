// The marks around a model's thinking, in a vocabulary and in a prompt.
#pragma once

#include "tokenizer.h"

namespace ds {

constexpr std::string_view think_open = "<think>", think_close = "</think>";
constexpr std::string_view white_space = " \t\r\n";
// what every family's template has between a thought and the answer
constexpr std::string_view think_after = "\n\n";

// The tokens of a vocabulary that are a tag as a whole, which then no other spelling is; -1 where a tag is
// spelled in several.
struct think_tags {
    token_id open = -1, close = -1;
};
think_tags find_think_tags(const tokenizer &v);

// The tokens that close a thought: `text` of the caller's, the closing tag, what follows it. Throws
// status::argument when the text holds a tag.
std::vector<token_id> think_ending(const tokenizer &v, std::string_view text);

// An answer has one thought at most, at its beginning: an opening tag counts where nothing but white space
// precedes it, and a closing one in the thought.
enum class think_state { start, thinking, answer };

// Where a prompt leaves the model. Only what follows the last control token counts: the conversation before
// it is over. There an opening tag counts that stands first or last (white space aside); in between somebody
// only speaks of tags.
think_state think_state_after(const tokenizer &v, std::span<const token_id> prompt);

// What the prompt has of that thought, its opening tag first: "<think>\n". Empty where it leaves the model
// elsewhere.
std::string opened_thought(const tokenizer &v, std::span<const token_id> prompt);

}  // namespace ds
