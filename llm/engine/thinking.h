// Separates thinking from answer in a stream of tokens, even where a tag is spelled in several tokens or
// shares a token with other text.
#pragma once

#include "../text/think_tags.h"

namespace ds {

struct text_piece {
    bool thinking;
    std::string_view text;
};

// Assigns text to channels. Text passes through twice, in the same order: push() reads it token by token, and
// cut() divides it into pieces once it is certain not to be part of a stop text. What may be the beginning of
// the opening tag is held back in between.
class channel_cutter {
public:
    channel_cutter(const think_tags &tags, think_state s) : tags_(tags), state_(s) {}

    struct seen {
        bool thinking;  // the token is, at least in part, thought or tag
        bool opened;    // the token completed the opening tag
    };
    // `text`: what token t completed. If t is a whole tag, its own bytes are the last `own` of it.
    seen push(token_id t, size_t own, std::string_view text);
    void finish(std::string_view text);  // the last text, which belongs to no token
    // Appends the next pieces to `out`, neighbours in different channels. They are valid until the next call.
    void cut(std::string_view text, std::vector<text_piece> &out);
    // Takes over another one's state; reserved memory stays.
    void continue_from(const channel_cutter &o) { *this = o; }
    // Reserves memory for texts of up to `bytes` bytes, so that no other call allocates.
    void reserve(size_t bytes);

    bool thinking() const { return state_ == think_state::thinking; }

private:
    struct run {
        bool thinking;
        size_t bytes;
    };
    void read(std::string_view text);
    // Both return the rest, for the next state to read.
    std::string_view read_start(std::string_view text);
    std::string_view read_thought(std::string_view text);
    void add_run(bool thinking, size_t bytes);

    think_tags tags_;
    think_state state_;
    bool opened_ = false;    // the token being read completed the opening tag
    std::string undecided_;  // in state start: what may become the opening tag
    // In a thought: its last bytes, already assigned to it, which may begin the closing tag.
    std::string tail_;
    std::vector<run> runs_;  // of text that was read but not yet cut
    std::string uncut_;
    size_t cut_ = 0;  // bytes of uncut_ that the last cut() returned
};

}  // namespace ds
