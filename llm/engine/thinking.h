// The model's thinking in its stream of tokens: which text is thought and which is answer, also where a tag
// is spelled in several tokens or shares one with other text; and the tokens that bring a thought to its end.
#pragma once

#include "../text/think_tags.h"

namespace ds {

struct text_piece {
    bool thinking;
    std::string_view text;
};

// Gives text its channel. Text comes twice, both times in order: to be read, token by token; and to be cut
// into pieces, when it is certain that it is text of the answer at all (no part of a stop text). What may be
// the beginning of the opening tag is held back in between.
class channel_cutter {
public:
    channel_cutter(const think_tags &tags, think_state s) : tags_(tags), state_(s) {}

    struct seen {
        bool thinking;  // part of the token at least is thought or tag
        bool opened;    // it completed the opening tag
    };
    // `text` became complete with token t, whose own bytes, where t is a whole tag, are the last `own` of it.
    seen push(token_id t, size_t own, std::string_view text);
    void finish(std::string_view text);  // the last text, of no token
    // Appends the next pieces to `out`, neighbours being of different channels. They live until the next
    // call.
    void cut(std::string_view text, std::vector<text_piece> &out);
    // from where another one stands; what was reserved stays
    void go_on(const channel_cutter &o) { *this = o; }
    // of text that is read or cut at once: no other call allocates then
    void reserve(size_t bytes);

    bool thinking() const { return state_ == think_state::thinking; }

private:
    struct run {
        bool thinking;
        size_t bytes;
    };
    void read(std::string_view text);
    // both give the rest, which the next state is to read
    std::string_view read_start(std::string_view text);
    std::string_view read_thought(std::string_view text);
    void know(bool thinking, size_t bytes);

    think_tags tags_;
    think_state state_;
    bool opened_ = false;    // by the token being read
    std::string undecided_;  // at the start: what may become the opening tag
    // in the thought: its last bytes, known to be thought, which may be the beginning of the closing tag
    std::string tail_;
    std::vector<run> runs_;  // of text that was read and not yet cut
    std::string uncut_;
    size_t cut_ = 0;  // bytes of uncut_ that the last call gave out
};

}  // namespace ds
