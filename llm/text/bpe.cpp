// Byte pair encoding with a heap of candidate pairs over a linked list of symbols: n log n for a piece of n
// bytes. A heap entry is not removed when one of its symbols changes; it is recognised as stale by the ids
// when it is popped.
#include "bpe.h"

#include <algorithm>
#include <bit>
#include <functional>

namespace ds {

merge_table::merge_table(std::vector<merge> merges, size_t vocabulary)
    : merges_(std::move(merges)), first_(vocabulary + 1), entries_(merges_.size()) {
    for (const merge &m : merges_) first_[size_t(m.left) + 1]++;
    for (size_t i = 0; i < vocabulary; i++) first_[i + 1] += first_[i];
    std::vector<uint32_t> next(first_.begin(), first_.end() - 1);
    for (size_t rank = 0; rank < merges_.size(); rank++)
        entries_[next[size_t(merges_[rank].left)]++] = {merges_[rank].right, uint32_t(rank)};
    for (size_t i = 0; i < vocabulary; i++) {
        std::sort(entries_.begin() + first_[i], entries_.begin() + first_[i + 1],
                  [](entry a, entry b) { return a.right != b.right ? a.right < b.right : a.rank < b.rank; });
    }
}

uint32_t merge_table::rank(int32_t left, int32_t right) const {
    auto const from = entries_.begin() + first_[size_t(left)],
               to = entries_.begin() + first_[size_t(left) + 1];
    auto const after = std::upper_bound(from, to, right, [](int32_t r, entry e) { return r < e.right; });
    return after != from && after[-1].right == right ? after[-1].rank : none;
}

void merger::push(uint32_t left) {
    uint32_t const rank = table_.rank(symbols_[left].id, symbols_[symbols_[left].after].id);
    if (rank == merge_table::none) return;
    heap_.push_back(uint64_t(rank) << 32 | left);
    std::push_heap(heap_.begin(), heap_.end(), std::greater<>());
    steps_ += std::bit_width(heap_.size());
}

uint64_t merger::finish(std::vector<int32_t> &out) {
    auto const n = uint32_t(symbols_.size());  // as a link: no symbol after
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

namespace {

// Merges a long piece in place. Each byte has a slot. The slot of a symbol's first byte has the rank of the
// symbol's pair with the next one; the slot after it has the id, unless the symbol is a single byte, which
// implies its id. One bit per slot marks where symbols begin. The minimum ranks of blocks of slots are the
// leaves of a tree of minima, which leads to the leftmost pair of the lowest rank.
class long_piece {
public:
    long_piece(const merge_table &table, std::span<const int32_t, 256> symbols, std::string_view bytes,
               std::vector<int32_t> &out)
        : table_(table), symbols_(symbols), bytes_(bytes), out_(out), base_(out.size()),
          begins_(bytes.size() / 64 + 1) {
        for (size_t n = (bytes.size() + block - 1) / block;; n = (n + 1) / 2) {
            least_.emplace_back(n, merge_table::none);
            if (n == 1) break;
        }
        out.resize(base_ + bytes.size());
    }

    uint64_t merge() {
        size_t const n = bytes_.size();
        for (size_t i = 0; i < n; i++) begins_[i / 64] |= uint64_t(1) << i % 64;
        for (size_t i = 0; i < n; i++) set_rank(i, i + 1);
        for (size_t i = 0; i < n; i += block) update(i);
        steps_ += 2 * n;
        while (least_.back()[0] != merge_table::none) merge_one();
        size_t written = 0;  // never ahead of i, which is still to be read
        for (size_t i = 0; i < n; i = next(i)) out_[base_ + written++] = id(i);
        out_.resize(base_ + written);
        return steps_;
    }

private:
    static constexpr size_t block = 16;  // slots per leaf

    bool begins(size_t i) const { return begins_[i / 64] >> i % 64 & 1; }
    int32_t &slot(size_t i) { return out_[base_ + i]; }
    int32_t id(size_t i) {
        return i + 1 < bytes_.size() && !begins(i + 1) ? slot(i + 1) : symbols_[uint8_t(bytes_[i])];
    }
    uint32_t rank(size_t i) { return uint32_t(slot(i)); }
    void set_rank(size_t i, size_t after) {
        slot(i) = int32_t(after < bytes_.size() ? table_.rank(id(i), id(after)) : merge_table::none);
    }

    // The symbol after the one at i, or the piece's end.
    size_t next(size_t i) {
        for (size_t word = ++i / 64; i < bytes_.size(); i = ++word * 64) {
            steps_++;
            if (uint64_t const rest = begins_[word] >> i % 64) return i + size_t(std::countr_zero(rest));
        }
        return bytes_.size();
    }
    // The symbol before the one at i > 0.
    size_t before(size_t i) {
        for (size_t word = --i / 64;; i = word-- * 64 - 1) {
            steps_++;
            if (uint64_t const rest = begins_[word] << (63 - i % 64))
                return i - size_t(std::countl_zero(rest));
        }
    }

    // Updates the minima above slot i after a change.
    void update(size_t i) {
        size_t at = i / block;
        uint32_t const was = least_[0][at];
        uint32_t now = merge_table::none;
        size_t const from = at * block, to = std::min(from + block, bytes_.size());
        for (size_t k = from; k < to; k++, steps_++)
            if (begins(k)) now = std::min(now, rank(k));
        if (now == was) return;
        least_[0][at] = now;
        for (size_t level = 1; level < least_.size(); level++) {
            const std::vector<uint32_t> &below = least_[level - 1];
            at /= 2;
            steps_++;
            uint32_t const least =
                2 * at + 1 < below.size() ? std::min(below[2 * at], below[2 * at + 1]) : below[2 * at];
            if (least_[level][at] == least) return;
            least_[level][at] = least;
        }
    }

    void merge_one() {
        uint32_t const least = least_.back()[0];
        size_t at = 0;
        for (size_t level = least_.size() - 1; level-- > 0; steps_++)
            at = 2 * at + (least_[level][2 * at] != least);
        for (at *= block; !begins(at) || rank(at) != least; steps_++) at++;
        size_t const right = next(at), after = next(right);
        begins_[right / 64] &= ~(uint64_t(1) << right % 64);
        slot(at + 1) = table_.at(least).result;
        set_rank(at, after);
        size_t const left = at == 0 ? at : before(at);
        if (left != at) set_rank(left, at);
        update(at);
        if (right / block != at / block) update(right);
        if (left / block != at / block) update(left);
    }

    const merge_table &table_;
    std::span<const int32_t, 256> symbols_;
    std::string_view bytes_;
    std::vector<int32_t> &out_;
    size_t base_;
    std::vector<uint64_t> begins_;
    std::vector<std::vector<uint32_t>> least_;  // minima of blocks, of pairs of blocks, and so on
    uint64_t steps_ = 0;
};

}  // namespace

uint64_t merge_long(const merge_table &table, std::span<const int32_t, 256> symbols, std::string_view piece,
                    std::vector<int32_t> &out) {
    return piece.empty() ? 0 : long_piece(table, symbols, piece, out).merge();
}

}  // namespace ds
