// operator new and delete of the whole test program: malloc and free, but for what with_failing asks.
#include "allocations.h"

#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <new>

namespace {

std::atomic<bool> armed{false}, for_ever{false};
std::atomic<int64_t> calls{0}, fail_at{0}, held{0};

void *take(size_t bytes, size_t alignment) {
    if (armed) {
        const int64_t n = ++calls;
        if (fail_at > 0 && (n == fail_at || (for_ever && n > fail_at))) return nullptr;
    }
    if (bytes == 0) bytes = 1;
    held.fetch_add(1, std::memory_order_relaxed);
    return alignment <= alignof(std::max_align_t) ? std::malloc(bytes) : std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
}
void give(void *p) {
    if (p) held.fetch_sub(1, std::memory_order_relaxed);
    std::free(p);
}
void *take_or_throw(size_t bytes, size_t alignment) {
    if (void *p = take(bytes, alignment)) return p;
    throw std::bad_alloc();
}

} // namespace

int64_t ds::test::with_failing(int64_t n, bool ever, const std::function<void()> &f) {
    struct disarm {
        ~disarm() { armed = false; }
    } const at_the_end;
    calls = 0, fail_at = n, for_ever = ever;
    armed = true;
    f();
    return calls;
}

int64_t ds::test::blocks_held() { return held; }

void *operator new(size_t n) { return take_or_throw(n, 0); }
void *operator new[](size_t n) { return take_or_throw(n, 0); }
void *operator new(size_t n, std::align_val_t a) { return take_or_throw(n, static_cast<size_t>(a)); }
void *operator new[](size_t n, std::align_val_t a) { return take_or_throw(n, static_cast<size_t>(a)); }
void *operator new(size_t n, const std::nothrow_t &) noexcept { return take(n, 0); }
void *operator new[](size_t n, const std::nothrow_t &) noexcept { return take(n, 0); }
void *operator new(size_t n, std::align_val_t a, const std::nothrow_t &) noexcept { return take(n, static_cast<size_t>(a)); }
void *operator new[](size_t n, std::align_val_t a, const std::nothrow_t &) noexcept { return take(n, static_cast<size_t>(a)); }
void operator delete(void *p) noexcept { give(p); }
void operator delete[](void *p) noexcept { give(p); }
void operator delete(void *p, size_t) noexcept { give(p); }
void operator delete[](void *p, size_t) noexcept { give(p); }
void operator delete(void *p, std::align_val_t) noexcept { give(p); }
void operator delete[](void *p, std::align_val_t) noexcept { give(p); }
void operator delete(void *p, size_t, std::align_val_t) noexcept { give(p); }
void operator delete[](void *p, size_t, std::align_val_t) noexcept { give(p); }
