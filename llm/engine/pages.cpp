// Whoever holds a page also holds those before it, and drops them after it. So a page never stays cached
// longer than its predecessor, and no cached page follows the least recently used one. All vectors reserve
// their full size at construction; the memory is touched only as pages become usable.
#include "pages.h"

#include <algorithm>
#include <cassert>

namespace ds {

static constexpr size_t root_lists = 256;
static constexpr int most_matched = 64;  // pages that `match` compares, which bounds its time

static uint64_t mixed(uint64_t a, uint64_t b) {
    const unsigned __int128 p =
        static_cast<unsigned __int128>(a ^ 0x9e3779b97f4a7c15ull) * (b ^ 0xd1342543de82ef95ull);
    return static_cast<uint64_t>(p) ^ static_cast<uint64_t>(p >> 64);
}

static size_t buckets_for(int64_t pages) {
    size_t n = 64;
    while (n < static_cast<size_t>(pages)) n *= 2;
    return n;
}

size_t page_book::bytes(int64_t pages) {
    const auto n = static_cast<size_t>(pages);
    return n * (sizeof(state) + page_positions * sizeof(int32_t) + sizeof(int32_t)) +
           (buckets_for(pages) + root_lists) * sizeof(int32_t);
}

page_book::page_book(int64_t pages, page_source source, uint64_t hash_mask)
    : source_(source), hash_mask_(hash_mask), total_(pages), roots_(root_lists, -1) {
    const auto n = static_cast<size_t>(pages);
    pages_.reserve(n);
    tokens_.reserve(n * page_positions);
    free_.reserve(n);
    buckets_.reserve(buckets_for(pages));
    if (!source.more) extend(pages);
}

// ---- Free, held, cached

void page_book::add_free(int32_t page) {
    free_.push_back(page);
    std::push_heap(free_.begin(), free_.end(), std::greater<>());
}

void page_book::extend(int64_t usable) {
    const int64_t before = this->usable();
    if (usable <= before) return;
    pages_.resize(static_cast<size_t>(usable));
    tokens_.resize(static_cast<size_t>(usable * page_positions));
    for (int64_t p = before; p < usable; ++p) add_free(static_cast<int32_t>(p));
    if (buckets_for(usable) > buckets_.size()) rehash();
}

int32_t page_book::take() {
    if (free_.empty() && usable() < total_)
        extend(std::min(total_, source_.more(source_.user, usable() + 1)));
    int32_t page = oldest_;
    if (!free_.empty()) {
        std::pop_heap(free_.begin(), free_.end(), std::greater<>());
        page = free_.back();
        free_.pop_back();
    } else if (page < 0) {
        return -1;
    } else {
        forget_page(page);
    }
    state &s = of(page);
    s.holders = 1;
    s.generation = ++taken_;
    return page;
}

void page_book::hold(int32_t page) {
    if (of(page).holders++ == 0) remove_cached(page);
}

void page_book::drop(std::span<const int32_t> list) {
    for (size_t i = list.size(); i-- > 0;) {
        state &s = of(list[i]);
        assert(s.holders > 0);
        if (--s.holders > 0) continue;
        if (s.count > 0) add_cached(list[i]);
        else add_free(list[i]);
    }
}

void page_book::add_cached(int32_t page) {
    state &s = of(page);
    s.older = newest_;
    s.newer = -1;
    (newest_ >= 0 ? of(newest_).newer : oldest_) = page;
    newest_ = page;
    ++cached_;
}

void page_book::remove_cached(int32_t page) {
    const state &s = of(page);
    (s.older >= 0 ? of(s.older).newer : oldest_) = s.newer;
    (s.newer >= 0 ? of(s.newer).older : newest_) = s.older;
    --cached_;
}

int64_t page_book::forget(int64_t keep) {
    int64_t n = 0;
    for (; cached_ > keep; ++n) {
        const int32_t page = oldest_;
        forget_page(page);
        add_free(page);
    }
    return n;
}

// Frees the cached pages after `before` that contain a prefix of `tokens` and that no page follows.
int64_t page_book::forget_beginnings(page_owner owner, int32_t before, std::span<const int32_t> tokens) {
    int64_t n = 0;
    for (int32_t p = first_child(owner, before), next; p >= 0; p = next) {
        const state &s = of(p);
        next = s.next_child;
        if (s.holders > 0 || s.child >= 0 || !follows(p, owner, before) ||
            s.count > static_cast<int64_t>(tokens.size()))
            continue;
        if (!std::equal(tokens.begin(), tokens.begin() + s.count, this->tokens(p))) continue;
        forget_page(p);
        add_free(p);
        ++n;
    }
    return n;
}

int64_t page_book::forget(page_owner owner, std::span<const int32_t> tokens) {
    std::vector<int32_t> list = find_all(owner, tokens);
    int64_t n = 0;
    for (size_t i = list.size() + 1; i-- > 0;)
        n += forget_beginnings(owner, i ? list[i - 1] : -1, tokens.subspan(i * page_positions));
    return n;
}

int64_t page_book::shrink() {
    int64_t n = usable();
    if (!source_.more) return n;
    while (n > 0 && pages_[static_cast<size_t>(n - 1)].holders == 0 &&
           pages_[static_cast<size_t>(n - 1)].count == 0)
        --n;
    std::erase_if(free_, [n](int32_t p) { return p >= n; });
    std::make_heap(free_.begin(), free_.end(), std::greater<>());
    pages_.resize(static_cast<size_t>(n));
    tokens_.resize(static_cast<size_t>(n * page_positions));
    return n;
}

// ---- Contents

static uint64_t hash_of(page_owner o) { return mixed(mixed(o.client, o.client), o.adapter); }

uint64_t page_book::hash_of(page_owner owner, int32_t before, const int32_t *tokens) const {
    uint64_t h = mixed(ds::hash_of(owner), before < 0 ? 1
                                                      : (static_cast<uint64_t>(of(before).generation) << 32) +
                                                            static_cast<uint64_t>(before) + 2);
    for (int64_t i = 0; i < page_positions; i += 2)
        h = mixed(h, static_cast<uint32_t>(tokens[i]) |
                         static_cast<uint64_t>(static_cast<uint32_t>(tokens[i + 1])) << 32);
    return h & hash_mask_;
}

bool page_book::follows(int32_t page, page_owner owner, int32_t before) const {
    const state &s = of(page);
    return s.owner == owner && s.before == before &&
           (before < 0 || s.before_generation == of(before).generation);
}

int32_t &page_book::first_child(page_owner owner, int32_t before) {
    return before < 0 ? roots_[(ds::hash_of(owner) & hash_mask_) % root_lists] : of(before).child;
}

int32_t page_book::find(page_owner owner, int32_t before, const int32_t *tokens) const {
    if (buckets_.empty()) return -1;
    const uint64_t h = hash_of(owner, before, tokens);
    for (int32_t p = buckets_[h & (buckets_.size() - 1)]; p >= 0; p = of(p).next_hash)
        if (of(p).hash == h && follows(p, owner, before) &&
            std::equal(tokens, tokens + page_positions, this->tokens(p)))
            return p;
    return -1;
}

std::vector<int32_t> page_book::find_all(page_owner owner, std::span<const int32_t> tokens) const {
    std::vector<int32_t> list;
    for (size_t i = 0; i + page_positions <= tokens.size(); i += page_positions) {
        const int32_t page = find(owner, list.empty() ? -1 : list.back(), tokens.data() + i);
        if (page < 0) break;
        list.push_back(page);
    }
    return list;
}

page_book::part page_book::match(page_owner owner, int32_t before, std::span<const int32_t> tokens) {
    part best = {-1, 0};
    int looked = 0;
    for (int32_t p = first_child(owner, before); p >= 0 && looked < most_matched;
         p = of(p).next_child, ++looked) {
        if (!follows(p, owner, before)) continue;  // another client's
        const int64_t most = std::min<int64_t>(of(p).count, static_cast<int64_t>(tokens.size()));
        const int64_t n =
            std::mismatch(tokens.begin(), tokens.begin() + most, this->tokens(p)).first - tokens.begin();
        if (n > best.count) best = {p, n};
    }
    if (best.page >= 0 && of(best.page).holders == 0) {  // becomes the most recently used
        remove_cached(best.page);
        add_cached(best.page);
    }
    return best;
}

int32_t page_book::enter(int32_t page, page_owner owner, int32_t before, std::span<const int32_t> tokens) {
    const auto count = static_cast<int64_t>(tokens.size());
    const bool full = count == page_positions;
    if (full) {
        if (const int32_t known = find(owner, before, tokens.data()); known >= 0) return known;
    } else if (const part known = match(owner, before, tokens); known.count == count) {
        return known.page;
    }
    state &s = of(page);
    assert(s.count == 0 && s.holders > 0);
    s.count = static_cast<int32_t>(count);
    s.owner = owner;
    s.before = before;
    s.before_generation = before < 0 ? 0 : of(before).generation;
    std::copy(tokens.begin(), tokens.end(), this->tokens(page));
    int32_t &first = first_child(owner, before);
    s.last_child = -1;
    s.next_child = first;
    if (first >= 0) of(first).last_child = page;
    first = page;
    s.child = -1;
    if (!full) return page;
    s.hash = hash_of(owner, before, tokens.data());
    s.next_hash = bucket(s.hash);
    bucket(s.hash) = page;
    return page;
}

// The page must be cached, and no entered page may follow it.
void page_book::forget_page(int32_t page) {
    remove_cached(page);
    state &s = of(page);
    assert(s.child < 0);
    (s.last_child >= 0 ? of(s.last_child).next_child : first_child(s.owner, s.before)) = s.next_child;
    if (s.next_child >= 0) of(s.next_child).last_child = s.last_child;
    if (s.count == page_positions) {
        int32_t *link = &bucket(s.hash);
        while (*link != page) link = &of(*link).next_hash;
        *link = s.next_hash;
    }
    s.count = 0;
}

void page_book::rehash() {
    buckets_.assign(buckets_for(usable()), -1);
    for (int32_t p = 0; p < usable(); ++p) {
        state &s = of(p);
        if (s.count < page_positions) continue;
        s.next_hash = bucket(s.hash);
        bucket(s.hash) = p;
    }
}

}  // namespace ds
