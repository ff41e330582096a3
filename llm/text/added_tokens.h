// Where added tokens (control and user-defined ones) stand in a text: at the leftmost place the longest one,
// then on behind it. The automaton of Aho and Corasick (CACM 18(6), 1975) over the spellings read backwards:
// it goes over a text from its end to its beginning and knows at every place the longest spelling that begins
// there, in a bounded number of steps a byte, whatever the spellings have in common.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace ds {

class added_tokens {
public:
    // of all spellings of a set, 13 bytes each in memory
    static constexpr size_t max_bytes = size_t(2) << 20;

    struct token {
        std::string_view spelling;
        int32_t id;
    };

    // Of equal spellings the lowest id counts; empty ones are never found. At most max_bytes.
    void build(std::vector<token> tokens);
    bool empty() const { return found_.empty(); }
    size_t longest() const { return longest_; }

    // Reads one more byte backwards; the automaton begins with state 0.
    uint32_t after(uint32_t state, uint8_t byte, uint64_t &steps) const;
    // The longest spelling that begins where the state has come to; null when there is none.
    struct match {
        int32_t id;
        uint32_t bytes;
    };
    const match *at(uint32_t state) const {
        return longest_here_[state] == 0 ? nullptr : &found_[longest_here_[state] - 1];
    }

private:
    uint32_t child(uint32_t state, uint8_t byte, uint64_t &steps) const;
    // States in order of their depth, so that the children of one lie together, sorted by byte.
    // [states + 1]; those of a state end where those of the next begin
    std::vector<uint32_t> first_child_;
    std::vector<uint32_t> shorter_;       // the longest other state that what has been read begins with
    std::vector<uint32_t> longest_here_;  // 1 + index into found_
    std::vector<uint8_t> byte_;
    uint32_t from_root_[256] = {};
    std::vector<match> found_;
    size_t longest_ = 0;
};

// Goes over a text by pieces, so that what it knows of places takes little memory.
class added_search {
public:
    // The text's tokens are those of all `sets`.
    added_search(std::span<const added_tokens *const> sets, std::string_view text);
    // The first token at or behind `from`, which never goes back; false when there is none.
    bool next(size_t from, size_t &at, added_tokens::match &found);
    uint64_t steps() const { return steps_; }

private:
    void look(size_t from);
    std::span<const added_tokens *const> sets_;
    std::string_view text_;
    size_t begin_ = 0, end_ = 0;             // what here_ tells of
    std::vector<added_tokens::match> here_;  // bytes 0: no token begins there
    uint64_t steps_ = 0;
};

}  // namespace ds
