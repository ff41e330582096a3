// Byte pair encoding over token ids: the table of merges, and the merging of one piece. Merges are applied
// lowest rank first, leftmost first among equals (Sennrich et al., arXiv 1508.07909).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace ds {

class merge_table {
public:
    struct merge {
        int32_t left, right, result;
    };

    merge_table() = default;
    // `merges` in rank order; ids below `vocabulary`. Of two merges of the same pair the later counts, as in
    // the published tokenizers.
    merge_table(std::vector<merge> merges, size_t vocabulary);

    static constexpr uint32_t none = UINT32_MAX;
    uint32_t rank(int32_t left, int32_t right) const;  // none if the pair does not merge
    const merge &at(uint32_t rank) const { return merges_[rank]; }

private:
    struct entry {
        int32_t right;
        uint32_t rank;
    };
    std::vector<merge> merges_;
    std::vector<uint32_t> first_;  // [vocabulary + 1] index of a left id's first entry
    // Those of a left id are sorted by right id. Not a hash table, so no file can make look-ups slow.
    std::vector<entry> entries_;
};

// Merges a piece's symbols. Its buffers are reused from piece to piece; they take up to 40 bytes per symbol.
class merger {
public:
    explicit merger(const merge_table &table) : table_(table) {}
    void add(int32_t id) { symbols_.push_back({id, 0}); }
    // Appends the merged symbols to `out`, removes all that were added, and returns the number of steps.
    uint64_t finish(std::vector<int32_t> &out);

private:
    struct symbol {
        int32_t id;  // -1: merged into an earlier one
        uint32_t before;
        uint32_t after = 0;
    };
    void push(uint32_t left);

    const merge_table &table_;
    std::vector<symbol> symbols_;
    std::vector<uint64_t> heap_;  // rank << 32 | index of the left symbol; a min-heap
    uint64_t steps_ = 0;
};

// The same for a piece of any length, a little slower, in 5 bytes per byte of the piece, 4 of which are the
// memory that `out` needs for the ids anyway. `symbols`: the ids of the 256 bytes.
uint64_t merge_long(const merge_table &table, std::span<const int32_t, 256> symbols, std::string_view piece,
                    std::vector<int32_t> &out);

}  // namespace ds
