// The page book: which pages of the pool are held, which are cached for their contents, and how those are
// looked up. Logic on integers; the pages' memory is in page_pool.h.
#pragma once

#include "../../tensor/ops.h"  // page_positions

#include <cstdint>
#include <span>
#include <vector>

namespace ds {

inline int64_t pages_for(int64_t positions) { return (positions + page_positions - 1) / page_positions; }

// Allocates memory for pages. `more` makes at least the first `pages` pages usable and returns how many are
// usable then: fewer if memory cannot be allocated.
struct page_source {
    void *user = nullptr;
    int64_t (*more)(void *user, int64_t pages) = nullptr;  // null: all pages have memory from the start
};

// Whose contents a page has: a client's, computed with an adapter (adapter::key), or without (0).
struct page_owner {
    uint64_t client = 0, adapter = 0;
    page_owner(uint64_t of_client = 0, uint64_t with_adapter = 0)
        : client(of_client), adapter(with_adapter) {}
    bool operator==(const page_owner &) const = default;
};

// A page is free, held by one or more owners, or cached: held by none, but entered with its contents.
// Contents are identified by the page's tokens, the page before it (the first has none) and their owner, so a
// page is never found for another client or adapter. An entered page is not written again until it is free.
class page_book {
public:
    // Tests pass a mask of few bits, so that hashes collide.
    page_book(int64_t pages, page_source source, uint64_t hash_mask = ~uint64_t{0});
    static size_t bytes(int64_t pages);

    int64_t pages() const { return total_; }
    // Pages that have memory.
    int64_t usable() const { return static_cast<int64_t>(pages_.size()); }
    int64_t free() const { return static_cast<int64_t>(free_.size()) + total_ - usable(); }
    int64_t cached() const { return cached_; }
    // Pages that `take` can still return.
    int64_t available() const { return free() + cached_; }

    // Returns a page held once and without contents: the lowest free one, else the least recently used cached
    // one. -1 if there is none.
    int32_t take();
    void hold(int32_t page);  // adds a holder; a cached page becomes held
    // Removes a holder of each page. A page without holders is cached if it was entered, else free.
    void drop(std::span<const int32_t> list);

    // Enters the contents of `page`, which the caller holds: `tokens`, after those of `before` (-1: the
    // sequence's first page), which must be entered and held too. Returns `page`, or the page already entered
    // with the same contents, in which case `page` is not entered. A partial page is found by `match` only.
    int32_t enter(int32_t page, page_owner owner, int32_t before, std::span<const int32_t> tokens);
    // The page that contains exactly `tokens` (page_positions of them), or -1. Contents are compared, never
    // hashes alone.
    int32_t find(page_owner owner, int32_t before, const int32_t *tokens) const;
    // A sequence's entered pages, from the first up to the first missing one.
    std::vector<int32_t> find_all(page_owner owner, std::span<const int32_t> tokens) const;
    // The page whose beginning has the longest prefix of `tokens`, and that prefix's length; {-1, 0} if none.
    // The caller holds `before`.
    struct part {
        int32_t page;
        int64_t count;
    };
    part match(page_owner owner, int32_t before, std::span<const int32_t> tokens);

    // Frees cached pages, least recently used first, until `keep` are left. Returns how many it freed.
    int64_t forget(int64_t keep);
    // Frees a sequence's cached pages, the last first: those that contain only tokens of the sequence and
    // that no other entered page follows.
    int64_t forget(page_owner owner, std::span<const int32_t> tokens);
    // Makes the highest usable pages unusable, as far as they are free. Returns how many stay usable.
    int64_t shrink();

    // For tests.
    int32_t holders(int32_t page) const { return of(page).holders; }
    bool entered(int32_t page) const { return of(page).count > 0; }
    // changes whenever the page is taken
    uint32_t generation(int32_t page) const { return of(page).generation; }

private:
    struct state {
        int32_t holders = 0, count = 0;  // count: of the tokens it was entered with
        uint32_t generation = 0, before_generation = 0;
        int32_t before = -1;
        int32_t older = -1, newer = -1;  // neighbours among the cached pages
        int32_t next_hash = -1;          // in its bucket
        // The most recently entered page that follows this one; neighbours in such a list.
        int32_t child = -1, next_child = -1, last_child = -1;
        page_owner owner;
        uint64_t hash = 0;
    };
    state &of(int32_t p) { return pages_[static_cast<size_t>(p)]; }
    const state &of(int32_t p) const { return pages_[static_cast<size_t>(p)]; }
    int32_t *tokens(int32_t p) { return &tokens_[static_cast<size_t>(p * page_positions)]; }
    const int32_t *tokens(int32_t p) const { return &tokens_[static_cast<size_t>(p * page_positions)]; }
    uint64_t hash_of(page_owner owner, int32_t before, const int32_t *tokens) const;
    bool follows(int32_t page, page_owner owner, int32_t before) const;
    int32_t &bucket(uint64_t hash) { return buckets_[hash & (buckets_.size() - 1)]; }
    int32_t &first_child(page_owner owner, int32_t before);
    int64_t forget_beginnings(page_owner owner, int32_t before, std::span<const int32_t> tokens);
    void extend(int64_t usable);
    void rehash();
    void add_cached(int32_t page);
    void remove_cached(int32_t page);
    void forget_page(int32_t page);
    void add_free(int32_t page);

    page_source source_;
    uint64_t hash_mask_;
    int64_t total_, cached_ = 0;
    std::vector<state> pages_;           // [usable]
    std::vector<int32_t> tokens_;        // [usable, page_positions]
    std::vector<int32_t> free_;          // a heap, lowest page first
    std::vector<int32_t> buckets_;       // a power of two, at least the number of usable pages
    std::vector<int32_t> roots_;         // lists of first pages, by a hash of the owner
    int32_t oldest_ = -1, newest_ = -1;  // ends of the list of cached pages
    uint32_t taken_ = 0;                 // calls of take() that returned a page
};

}  // namespace ds
