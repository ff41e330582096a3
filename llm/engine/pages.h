// The page book: who holds which page of the pool, which pages nobody holds are kept for what they contain,
// and how these are found again. Logic on integers: the pages' memory is elsewhere (page_pool.h).
#pragma once

#include "../../tensor/ops.h"  // page_positions

#include <cstdint>
#include <span>
#include <vector>

namespace ds {

inline int64_t pages_for(int64_t positions) { return (positions + page_positions - 1) / page_positions; }

// Where pages get their memory from: makes `pages` of them usable, counted from the first, or more; gives how
// many are, which is fewer when memory cannot be had.
struct page_source {
    void *user = nullptr;
    int64_t (*more)(void *user, int64_t pages) = nullptr;  // null: all pages have memory from the beginning
};

// A page is free, or held by one or more owners, or kept: held by nobody, but known by its contents. What a
// page contains is known by its tokens, by the page before it (down to the first, which has none) and by a
// client: pages are never found under another client than the one they were entered with. A page that was
// entered is never written again until it is free.
class page_book {
public:
    // fewer bits, so that a test sees hashes agree
    page_book(int64_t pages, page_source source, uint64_t hash_mask = ~uint64_t{0});
    static size_t bytes(int64_t pages);

    int64_t pages() const { return total_; }
    // have memory
    int64_t usable() const { return static_cast<int64_t>(pages_.size()); }
    int64_t free() const { return static_cast<int64_t>(free_.size()) + total_ - usable(); }
    int64_t kept() const { return kept_; }
    // for who takes one
    int64_t available() const { return free() + kept_; }

    // A page held once, whose contents are unknown: the lowest that is free, or the one kept that was unused
    // for longest. -1 when there is none.
    int32_t take();
    void hold(int32_t page);  // once more; a kept page is held again
    // once less each; what nobody holds then is kept if it was entered, else free
    void drop(std::span<const int32_t> list);

    // What `page`, held by the caller, contains from now on: `tokens`, after those of `before` (-1: it is a
    // sequence's first), which is entered and held, too. When a page with the same contents is known already,
    // that one is given, and `page` is not entered. Fewer tokens than a page's are for `match` alone.
    int32_t enter(int32_t page, uint64_t client, int32_t before, std::span<const int32_t> tokens);
    // The page that contains exactly `tokens`, as many as fill it; -1 when none is known. Contents are
    // compared, never hashes alone.
    int32_t find(uint64_t client, int32_t before, const int32_t *tokens) const;
    // The pages known of a sequence, from its first; as many as can be had without a gap.
    std::vector<int32_t> find_all(uint64_t client, std::span<const int32_t> tokens) const;
    // The page that begins with most of `tokens`, and how many of them; {-1, 0} when none does. `before` is
    // held by the caller.
    struct part {
        int32_t page;
        int64_t count;
    };
    part match(uint64_t client, int32_t before, std::span<const int32_t> tokens);

    // frees kept pages, least recently used first, until `keep` are left; gives how many it freed
    int64_t forget(int64_t keep);
    // Frees what is kept of a sequence: pages that contain nothing but a piece of `tokens`, the last first,
    // as far as no other entered page follows them.
    int64_t forget(uint64_t client, std::span<const int32_t> tokens);
    // the highest usable pages, as far as they are free, become unusable; gives how many are left
    int64_t shrink();

    // For those who check.
    int32_t holders(int32_t page) const { return of(page).holders; }
    bool entered(int32_t page) const { return of(page).count > 0; }
    // changes whenever the page is taken
    uint32_t generation(int32_t page) const { return of(page).generation; }

private:
    struct state {
        int32_t holders = 0, count = 0;  // count: tokens that it was entered with
        uint32_t generation = 0, before_generation = 0;
        int32_t before = -1;
        int32_t older = -1, newer = -1;  // among those kept
        int32_t next_hash = -1;          // in its bucket
        // entered after it, the latest first; its neighbours among such
        int32_t child = -1, next_child = -1, last_child = -1;
        uint64_t client = 0, hash = 0;
    };
    state &of(int32_t p) { return pages_[static_cast<size_t>(p)]; }
    const state &of(int32_t p) const { return pages_[static_cast<size_t>(p)]; }
    int32_t *tokens(int32_t p) { return &tokens_[static_cast<size_t>(p * page_positions)]; }
    const int32_t *tokens(int32_t p) const { return &tokens_[static_cast<size_t>(p * page_positions)]; }
    uint64_t hash_of(uint64_t client, int32_t before, const int32_t *tokens) const;
    bool follows(int32_t page, uint64_t client, int32_t before) const;
    int32_t &bucket(uint64_t hash) { return buckets_[hash & (buckets_.size() - 1)]; }
    int32_t &first_child(uint64_t client, int32_t before);
    int64_t forget_beginnings(uint64_t client, int32_t before, std::span<const int32_t> tokens);
    void extend(int64_t usable);
    void rehash();
    void keep(int32_t page);
    void unkeep(int32_t page);
    void forget_page(int32_t page);
    void add_free(int32_t page);

    page_source source_;
    uint64_t hash_mask_;
    int64_t total_, kept_ = 0;
    std::vector<state> pages_;           // of those usable
    std::vector<int32_t> tokens_;        // [usable][page_positions]
    std::vector<int32_t> free_;          // a heap, the lowest first
    std::vector<int32_t> buckets_;       // a power of two of them, at least as many as there are usable pages
    std::vector<int32_t> roots_;         // first children of no page, by a hash of the client
    int32_t oldest_ = -1, newest_ = -1;  // of those kept
    uint32_t taken_ = 0;                 // how often any was
};

}  // namespace ds
