// The model's thinking in its stream of tokens: which text is thought and which is answer, also where a tag is spelled in several tokens or shares one
// with other text; and the tokens that bring a thought to its end.
#pragma once

#include "tokenizer.h"

namespace ds {

constexpr std::string_view think_open = "<think>", think_close = "</think>";
constexpr std::string_view think_after = "\n\n";    // what every family's template has between a thought and the answer

// The tokens of a vocabulary that are a tag as a whole, which then no other spelling is; -1 where a tag is spelled in several.
struct think_tags {
    token_id open = -1, close = -1;
};
think_tags find_think_tags(const tokenizer &v);

// The tokens that close a thought: `text` of the caller's, the closing tag, what follows it. Throws status::argument when the text holds a tag.
std::vector<token_id> think_ending(const tokenizer &v, std::string_view text);

// An answer has one thought at most, at its beginning: an opening tag counts where nothing but white space precedes it, and a closing one in the thought.
enum class think_state { start, thinking, answer };

// Where a prompt leaves the model. Only what follows the last control token counts: the conversation before it is over. There an opening tag counts
// that stands first or last (white space aside); in between somebody only speaks of tags.
think_state think_state_after(const tokenizer &v, std::span<const token_id> prompt);

// What the prompt has of that thought, its opening tag first: "<think>\n". Empty where it leaves the model elsewhere.
std::string opened_thought(const tokenizer &v, std::span<const token_id> prompt);

struct text_piece {
    bool thinking;
    std::string_view text;
};

// Gives text its channel. Text comes twice, both times in order: to be read, token by token; and to be cut into pieces, when it is certain that it is
// text of the answer at all (no part of a stop text). What may be the beginning of the opening tag is held back in between.
class channel_cutter {
public:
    channel_cutter(const think_tags &tags, think_state s) : tags_(tags), state_(s) {}

    struct seen {
        bool thinking;    // part of the token at least is thought or tag
        bool opened;      // it completed the opening tag
    };
    // `text` became complete with token t, whose own bytes, where t is a whole tag, are the last `own` of it.
    seen push(token_id t, size_t own, std::string_view text);
    void finish(std::string_view text);    // the last text, of no token
    // Appends the next pieces to `out`, neighbours being of different channels. They live until the next call.
    void cut(std::string_view text, std::vector<text_piece> &out);
    void go_on(const channel_cutter &o) { *this = o; }    // from where another one stands; what was reserved stays
    void reserve(size_t bytes);            // of text that is read or cut at once: no other call allocates then

    bool thinking() const { return state_ == think_state::thinking; }

private:
    struct run {
        bool thinking;
        size_t bytes;
    };
    void read(std::string_view text);
    std::string_view read_start(std::string_view text);      // both give the rest, which the next state is to read
    std::string_view read_thought(std::string_view text);
    void know(bool thinking, size_t bytes);

    think_tags tags_;
    think_state state_;
    bool opened_ = false;        // by the token being read
    std::string undecided_;      // at the start: what may become the opening tag
    std::string tail_;           // in the thought: its last bytes, known to be thought, which may be the beginning of the closing tag
    std::vector<run> runs_;      // of text that was read and not yet cut
    std::string uncut_;
    size_t cut_ = 0;             // bytes of uncut_ that the last call gave out
};

} // namespace ds
