// Finds added tokens (control and user-defined) in a text: the longest one at the leftmost position, then on
// after it. Uses the automaton of Aho and Corasick (CACM 18(6), 1975) over the reversed spellings: reading a
// text from its end, it knows at every position the longest spelling that begins there, in a bounded number
// of steps per byte, whatever prefixes the spellings share.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace ds {

class added_tokens {
public:
    // Most bytes in all spellings of a set. Each byte takes 13 in memory.
    static constexpr size_t max_bytes = size_t(2) << 20;

    struct token {
        std::string_view spelling;
        int32_t id;
    };

    // Of equal spellings the lowest id counts; empty ones are ignored. At most max_bytes.
    void build(std::vector<token> tokens);
    bool empty() const { return found_.empty(); }
    size_t longest() const { return longest_; }

    // The state after reading one more byte backwards. The automaton begins in state 0.
    uint32_t after(uint32_t state, uint8_t byte, uint64_t &steps) const;
    // The longest spelling that begins at the byte read last, or null.
    struct match {
        int32_t id;
        uint32_t bytes;
    };
    const match *at(uint32_t state) const {
        return longest_here_[state] == 0 ? nullptr : &found_[longest_here_[state] - 1];
    }

private:
    uint32_t child(uint32_t state, uint8_t byte, uint64_t &steps) const;
    // States are numbered by depth, so that the children of each are adjacent, sorted by byte. [states + 1];
    // a state's children end where the next state's begin.
    std::vector<uint32_t> first_child_;
    std::vector<uint32_t> shorter_;       // the automaton's failure links
    std::vector<uint32_t> longest_here_;  // 1 + index into found_
    std::vector<uint8_t> byte_;
    uint32_t from_root_[256] = {};
    std::vector<match> found_;
    size_t longest_ = 0;
};

// Searches a text window by window, so that the matches per position take little memory.
class added_search {
public:
    // Finds the tokens of all `sets`.
    added_search(std::span<const added_tokens *const> sets, std::string_view text);
    // The first token at or after `from`, which must not decrease between calls; false if there is none.
    bool next(size_t from, size_t &at, added_tokens::match &found);
    uint64_t steps() const { return steps_; }

private:
    void scan(size_t from);
    std::span<const added_tokens *const> sets_;
    std::string_view text_;
    size_t begin_ = 0, end_ = 0;             // the window
    std::vector<added_tokens::match> here_;  // [end_ - begin_]; bytes 0: no token begins there
    uint64_t steps_ = 0;
};

}  // namespace ds
