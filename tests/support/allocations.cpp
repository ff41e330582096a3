// operator new and delete of the whole test program: malloc and free, unless with_failing or most_bytes is
// active.
#include "allocations.h"

#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <new>

#include <malloc.h>

namespace {

std::atomic<bool> armed{false}, all_later{false};
std::atomic<int64_t> calls{0}, fail_at{0}, held{0}, bytes{0}, most{0};

void *counted(void *p) {
    if (!p) return p;
    held.fetch_add(1, std::memory_order_relaxed);
    const auto n = static_cast<int64_t>(malloc_usable_size(p));
    const int64_t now = bytes.fetch_add(n, std::memory_order_relaxed) + n;
    for (int64_t was = most; now > was && !most.compare_exchange_weak(was, now);) {}
    return p;
}

void *take(size_t n, size_t alignment) {
    if (armed) {
        const int64_t call = ++calls;
        if (fail_at > 0 && (call == fail_at || (all_later && call > fail_at))) return nullptr;
    }
    if (n == 0) n = 1;
    return counted(alignment <= alignof(std::max_align_t)
                       ? std::malloc(n)
                       : std::aligned_alloc(alignment, (n + alignment - 1) / alignment * alignment));
}
void release(void *p) {
    if (p) {
        held.fetch_sub(1, std::memory_order_relaxed);
        bytes.fetch_sub(static_cast<int64_t>(malloc_usable_size(p)), std::memory_order_relaxed);
    }
    std::free(p);
}
void *take_or_throw(size_t n, size_t alignment) {
    if (void *p = take(n, alignment)) return p;
    throw std::bad_alloc();
}

}  // namespace

int64_t ds::test::with_failing(int64_t n, bool ever, const std::function<void()> &f) {
    struct disarm {
        ~disarm() { armed = false; }
    } const at_the_end;
    calls = 0, fail_at = n, all_later = ever;
    armed = true;
    f();
    return calls;
}

int64_t ds::test::blocks_held() { return held; }

int64_t ds::test::most_bytes(const std::function<void()> &f) {
    const int64_t before = bytes;
    most = before;
    f();
    return most - before;
}

void *operator new(size_t n) { return take_or_throw(n, 0); }
void *operator new[](size_t n) { return take_or_throw(n, 0); }
void *operator new(size_t n, std::align_val_t a) { return take_or_throw(n, static_cast<size_t>(a)); }
void *operator new[](size_t n, std::align_val_t a) { return take_or_throw(n, static_cast<size_t>(a)); }
void *operator new(size_t n, const std::nothrow_t &) noexcept { return take(n, 0); }
void *operator new[](size_t n, const std::nothrow_t &) noexcept { return take(n, 0); }
void *operator new(size_t n, std::align_val_t a, const std::nothrow_t &) noexcept {
    return take(n, static_cast<size_t>(a));
}
void *operator new[](size_t n, std::align_val_t a, const std::nothrow_t &) noexcept {
    return take(n, static_cast<size_t>(a));
}
void operator delete(void *p) noexcept { release(p); }
void operator delete[](void *p) noexcept { release(p); }
void operator delete(void *p, size_t) noexcept { release(p); }
void operator delete[](void *p, size_t) noexcept { release(p); }
void operator delete(void *p, std::align_val_t) noexcept { release(p); }
void operator delete[](void *p, std::align_val_t) noexcept { release(p); }
void operator delete(void *p, size_t, std::align_val_t) noexcept { release(p); }
void operator delete[](void *p, size_t, std::align_val_t) noexcept { release(p); }
