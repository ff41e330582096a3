// The merges of byte pair encoding with a heap of candidate pairs over a linked list of symbols: n log n for a piece of n bytes.
// An entry of the heap is not removed when one of its symbols changes; it is recognised as stale by the ids when it comes up.
#include "bpe.h"

#include <algorithm>
#include <bit>
#include <functional>

namespace ds {

merge_table::merge_table(std::vector<merge> merges, size_t vocabulary) : merges_(std::move(merges)), first_(vocabulary + 1), entries_(merges_.size()) {
    for (const merge &m : merges_) first_[size_t(m.left) + 1]++;
    for (size_t i = 0; i < vocabulary; i++) first_[i + 1] += first_[i];
    std::vector<uint32_t> next(first_.begin(), first_.end() - 1);
    for (size_t rank = 0; rank < merges_.size(); rank++) entries_[next[size_t(merges_[rank].left)]++] = {merges_[rank].right, uint32_t(rank)};
    for (size_t i = 0; i < vocabulary; i++) {
        std::sort(entries_.begin() + first_[i], entries_.begin() + first_[i + 1],
                  [](entry a, entry b) { return a.right != b.right ? a.right < b.right : a.rank < b.rank; });
    }
}

uint32_t merge_table::rank(int32_t left, int32_t right) const {
    auto const from = entries_.begin() + first_[size_t(left)], to = entries_.begin() + first_[size_t(left) + 1];
    auto const behind = std::upper_bound(from, to, right, [](int32_t r, entry e) { return r < e.right; });
    return behind != from && behind[-1].right == right ? behind[-1].rank : none;
}

void merger::push(uint32_t left) {
    uint32_t const rank = table_.rank(symbols_[left].id, symbols_[symbols_[left].after].id);
    if (rank == merge_table::none) return;
    heap_.push_back(uint64_t(rank) << 32 | left);
    std::push_heap(heap_.begin(), heap_.end(), std::greater<>());
    steps_ += std::bit_width(heap_.size());
}

uint64_t merger::finish(std::vector<int32_t> &out) {
    auto const n = uint32_t(symbols_.size());    // also stands for "no symbol after"
    steps_ = n;
    for (uint32_t i = 0; i < n; i++) symbols_[i].before = i - 1, symbols_[i].after = i + 1;
    for (uint32_t i = 0; i + 1 < n; i++) push(i);
    while (!heap_.empty()) {
        steps_ += std::bit_width(heap_.size());
        std::pop_heap(heap_.begin(), heap_.end(), std::greater<>());
        const merge_table::merge &m = table_.at(uint32_t(heap_.back() >> 32));
        auto const left = uint32_t(heap_.back());
        heap_.pop_back();
        symbol &l = symbols_[left];
        if (l.id != m.left || l.after == n || symbols_[l.after].id != m.right) continue;
        symbol &r = symbols_[l.after];
        l.id = m.result;
        r.id = -1;
        l.after = r.after;
        if (l.after != n) {
            symbols_[l.after].before = left;
            push(left);
        }
        if (left != 0) push(l.before);
    }
    for (uint32_t i = 0; i < n; i = symbols_[i].after) out.push_back(symbols_[i].id);
    symbols_.clear();
    return steps_;
}

} // namespace ds
