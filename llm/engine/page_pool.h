// The memory of the paged cache: one pool of pages for all requests of an engine. Who has which page is told
// in pages.h.
#pragma once

#include "../../tensor/backend.h"
#include "../../tensor/os.h"
#include "pages.h"

namespace ds {

// Bytes of a pool; throws status::memory when they are more than can be addressed.
size_t pool_bytes(size_t page_bytes, int64_t pages);

// Address space for all pages is reserved at once; memory is taken in slabs as pages are first used, and goes
// back when asked. A host's allocator cannot grow memory in place, so with one the whole pool is taken at
// once, and kept. So it is on a backend whose memory is not the host's.
class page_pool {
public:
    // null: the host
    page_pool(const ds::host &host, size_t page_bytes, int64_t pages,
              std::shared_ptr<backend> place = nullptr);

    int64_t pages() const { return pages_; }
    int64_t committed() const { return committed_; }
    bool grows() const { return !block_.data() && !far_.data(); }
    size_t page_bytes() const { return page_bytes_; }
    void *data() const;
    // in the backend's memory
    char *page(int32_t i) const { return static_cast<char *>(data()) + static_cast<size_t>(i) * page_bytes_; }
    bool far() const { return far_.data(); }           // that is not the host's
    const void *read(int32_t i, void *scratch) const;  // a page's bytes where they are, or else in `scratch`
    // page i becomes what is at `from`, unless that is where it is
    void written(int32_t i, const void *from) const;

    void commit(int64_t pages);    // the first of them, and more. Throws status::memory
    void uncommit(int64_t pages);  // those behind the first `pages` are used no more
    void copy(int32_t from, int32_t to) const;

private:
    size_t page_bytes_;
    int64_t pages_, committed_ = 0;
    os::reserved_memory reserved_;
    block block_;
    std::shared_ptr<backend> place_;
    backend_memory far_;
};

}  // namespace ds
