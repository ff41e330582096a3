// A pool's memory: reserved address space, a block of the host's allocator, or a device's memory.
#include "page_pool.h"

#include <algorithm>

namespace ds {

size_t pool_bytes(size_t page_bytes, int64_t pages) {
    uint64_t bytes;
    if (!mul_ok(page_bytes, static_cast<uint64_t>(pages), &bytes) || bytes > PTRDIFF_MAX)
        throw error(status::memory,
                    format_text("kv_tokens: %lld pages of %zu bytes are more than can be addressed",
                                static_cast<long long>(pages), page_bytes));
    return bytes;
}

page_pool::page_pool(const ds::host &host, size_t page_bytes, int64_t pages, std::shared_ptr<backend> device)
    : page_bytes_(page_bytes), pages_(pages) {
    if (device && !device->fn->host_memory) {
        device_ = std::move(device);
        device_memory_ = backend_memory(device_, pool_bytes(page_bytes, pages));
        committed_ = pages;
    } else if (host.alloc_fn) {
        block_ = block(host, pool_bytes(page_bytes, pages));
        committed_ = pages;
    } else {
        reserved_ = os::reserved_memory(pool_bytes(page_bytes, pages));
    }
}

void *page_pool::data() const {
    return device_memory_.data() ? device_memory_.data() : block_.data() ? block_.data() : reserved_.data();
}

const void *page_pool::read(int32_t i, void *scratch) const {
    if (!on_device()) return page(i);
    device_->fn->download(device_.get(), scratch, page(i), page_bytes_);
    return scratch;
}

void page_pool::write(int32_t i, const void *from) const {
    if (from == page(i)) return;
    if (on_device()) device_->fn->upload(device_.get(), page(i), from, page_bytes_);
    else std::memcpy(page(i), from, page_bytes_);
}

void page_pool::copy(int32_t from, int32_t to) const {
    if (on_device()) device_->fn->copy(device_.get(), page(to), page(from), page_bytes_);
    else std::memcpy(page(to), page(from), page_bytes_);
}

// Memory is committed in slabs of 32 MiB (or one page, if larger), so that growth is rare.
void page_pool::commit(int64_t pages) {
    if (pages <= committed_) return;
    const int64_t slab = std::max<int64_t>(1, static_cast<int64_t>((size_t{32} << 20) / page_bytes_));
    const int64_t want = std::min(pages_, (pages + slab - 1) / slab * slab);
    reserved_.commit(static_cast<size_t>(want) * page_bytes_);
    committed_ = want;
}

void page_pool::uncommit(int64_t pages) {
    if (!grows() || pages >= committed_) return;
    reserved_.uncommit(static_cast<size_t>(pages) * page_bytes_);
    committed_ = pages;
}

}  // namespace ds
