// The automaton over reversed spellings, built breadth first from their sorted list, and the search.
#include "added_tokens.h"

#include <algorithm>
#include <bit>

namespace ds {

void added_tokens::build(std::vector<token> tokens) {
    std::erase_if(tokens, [](const token &t) { return t.spelling.empty(); });
    if (tokens.empty()) return;
    auto const backwards = [](std::string_view s, size_t i) { return uint8_t(s[s.size() - 1 - i]); };
    std::sort(tokens.begin(), tokens.end(), [](const token &a, const token &b) {
        if (a.spelling == b.spelling) return a.id < b.id;
        return std::lexicographical_compare(a.spelling.rbegin(), a.spelling.rend(), b.spelling.rbegin(),
                                            b.spelling.rend(),
                                            [](char x, char y) { return uint8_t(x) < uint8_t(y); });
    });
    tokens.erase(std::unique(tokens.begin(), tokens.end(),
                             [](const token &a, const token &b) { return a.spelling == b.spelling; }),
                 tokens.end());
    size_t states = 1;
    for (size_t i = 0; i < tokens.size(); i++) {
        size_t shared = 0;
        if (i > 0) {
            std::string_view const a = tokens[i - 1].spelling, b = tokens[i].spelling;
            while (shared < a.size() && shared < b.size() && backwards(a, shared) == backwards(b, shared))
                shared++;
        }
        states += tokens[i].spelling.size() - shared;
        found_.push_back({tokens[i].id, uint32_t(tokens[i].spelling.size())});
        longest_ = std::max(longest_, tokens[i].spelling.size());
    }
    first_child_.reserve(states + 1), shorter_.reserve(states), longest_here_.reserve(states),
        byte_.reserve(states);

    // Depth by depth. A state stands for the spellings [from, to), which share the bytes read so far.
    struct range {
        uint32_t from, to;
    };
    std::vector<range> level{{0, uint32_t(tokens.size())}}, next;
    shorter_.push_back(0), byte_.push_back(0);
    uint64_t steps = 0;
    for (uint32_t state = 0, depth = 0; !level.empty(); depth++, level.swap(next), next.clear()) {
        for (range r : level) {
            bool const whole = tokens[r.from].spelling.size() == depth;
            longest_here_.push_back(whole ? r.from + 1 : state == 0 ? 0 : longest_here_[shorter_[state]]);
            first_child_.push_back(uint32_t(byte_.size()));
            for (uint32_t from = r.from + whole, to; from < r.to; from = to) {
                uint8_t const b = backwards(tokens[from].spelling, depth);
                for (to = from + 1; to < r.to && backwards(tokens[to].spelling, depth) == b;) to++;
                next.push_back({from, to});
                if (state == 0) from_root_[b] = uint32_t(byte_.size());
                shorter_.push_back(state == 0 ? 0 : after(shorter_[state], b, steps));
                byte_.push_back(b);
            }
            state++;
        }
    }
    first_child_.push_back(uint32_t(byte_.size()));
}

// 0 if there is none.
uint32_t added_tokens::child(uint32_t state, uint8_t byte, uint64_t &steps) const {
    uint32_t const from = first_child_[state], to = first_child_[state + 1];
    steps += std::bit_width(to - from);
    auto const b = std::lower_bound(byte_.begin() + from, byte_.begin() + to, byte);
    return b != byte_.begin() + to && *b == byte ? uint32_t(b - byte_.begin()) : 0;
}

uint32_t added_tokens::after(uint32_t state, uint8_t byte, uint64_t &steps) const {
    for (; state != 0; state = shorter_[state]) {
        steps++;
        if (uint32_t const c = child(state, byte, steps)) return c;
    }
    steps++;
    return from_root_[byte];
}

constexpr size_t window = 4096;  // positions; 32 KiB of matches

added_search::added_search(std::span<const added_tokens *const> sets, std::string_view text)
    : sets_(sets), text_(text) {}

// Tokens that begin in the window may end after it.
void added_search::scan(size_t from) {
    begin_ = from, end_ = std::min(text_.size(), from + window);
    here_.assign(end_ - begin_, {-1, 0});
    for (const added_tokens *set : sets_) {
        if (set->empty()) continue;
        uint32_t state = 0;
        for (size_t at = std::min(text_.size(), end_ + set->longest() - 1); at-- > begin_;) {
            state = set->after(state, uint8_t(text_[at]), steps_);
            const added_tokens::match *const m = at < end_ ? set->at(state) : nullptr;
            if (!m) continue;
            added_tokens::match &best = here_[at - begin_];
            if (m->bytes > best.bytes || (m->bytes == best.bytes && m->id < best.id)) best = *m;
        }
    }
}

bool added_search::next(size_t from, size_t &at, added_tokens::match &found) {
    if (std::all_of(sets_.begin(), sets_.end(), [](const added_tokens *s) { return s->empty(); }))
        return false;
    for (at = from; at < text_.size(); at++) {
        if (at >= end_) scan(at);
        found = here_[at - begin_];
        if (found.bytes > 0) return true;
    }
    return false;
}

}  // namespace ds
