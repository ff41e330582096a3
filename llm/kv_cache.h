// The paged cache of keys and values: one pool of pages for all requests of an engine. A page holds 64 positions of every layer.
#pragma once

#include "arch.h"

namespace ds {

struct page_layout {
    std::vector<kv_layout> layer;
    size_t page_bytes = 0;
};
page_layout make_page_layout(const arch &a, const hparams &h, format type);

// Bytes of a pool; throws status::memory when they are more than can be addressed.
size_t pool_bytes(size_t page_bytes, int64_t pages);

// Pages by number. Address space for all of them is reserved at once; memory is taken in slabs as pages are first used, between steps only.
// A host's allocator cannot grow memory in place, so with one the whole pool is taken at once.
class page_pool {
public:
    page_pool(const ds::host &host, size_t page_bytes, int64_t pages);

    int64_t pages() const { return pages_; }
    int64_t free_pages() const { return static_cast<int64_t>(free_.size()); }
    int64_t committed() const { return committed_; }
    void *data() const;

    bool take(int64_t n, std::vector<int32_t> &out);   // appends n pages, or none and false
    void give(std::vector<int32_t> &pages);            // takes them back and empties the list

private:
    void grow(int64_t pages);
    size_t page_bytes_;
    int64_t pages_, committed_ = 0;
    os::reserved_memory reserved_;
    block block_;
    std::vector<int32_t> free_;    // the next one to take is last
};

inline int64_t pages_for(int64_t positions) { return (positions + page_positions - 1) / page_positions; }

} // namespace ds
