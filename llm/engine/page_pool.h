// The memory of the paged cache: one pool of pages for all requests of an engine. pages.h records who holds
// which page.
#pragma once

#include "../../tensor/backend.h"
#include "../../tensor/os.h"
#include "pages.h"

namespace ds {

// Bytes of a pool. Throws status::memory if they cannot be addressed.
size_t pool_bytes(size_t page_bytes, int64_t pages);

// Address space for all pages is reserved at construction; memory is committed in slabs as pages are first
// used, and returned by uncommit(). A host's allocator cannot grow memory in place, so with one the whole
// pool is allocated at construction and retained. The same holds for a backend whose memory is not the
// host's.
class page_pool {
public:
    // `device`: the backend that holds the pages; null: the host.
    page_pool(const ds::host &host, size_t page_bytes, int64_t pages,
              std::shared_ptr<backend> device = nullptr);

    int64_t pages() const { return pages_; }
    int64_t committed() const { return committed_; }
    bool grows() const { return !block_.data() && !device_memory_.data(); }
    size_t page_bytes() const { return page_bytes_; }
    void *data() const;
    // An address in the backend's memory.
    char *page(int32_t i) const { return static_cast<char *>(data()) + static_cast<size_t>(i) * page_bytes_; }
    bool on_device() const { return device_memory_.data(); }  // the pages are not in the host's memory
    // the page's bytes, in place or, from a device, in `scratch`
    const void *read(int32_t i, void *scratch) const;
    void write(int32_t i, const void *from) const;  // does nothing if `from` is the page itself

    void commit(int64_t pages);    // at least the first `pages`. Throws status::memory
    void uncommit(int64_t pages);  // returns the memory after the first `pages`, which must be unused
    void copy(int32_t from, int32_t to) const;

private:
    size_t page_bytes_;
    int64_t pages_, committed_ = 0;
    os::reserved_memory reserved_;
    block block_;
    std::shared_ptr<backend> device_;
    backend_memory device_memory_;
};

}  // namespace ds
