// The thread pool: one door, one bell. A job opens the door and rings the bell. Workers that come in take
// tasks, first from a range of their own, then from the others'. The caller takes tasks too, shuts the door
// when none is left, and waits only for those inside. After a job a worker watches the bell for a moment
// before it sleeps.
// Invariant: a worker that sleeps, or that the system does not run just now, is never waited for. So the pool
// stays quick with fewer free processors than threads.

#include "thread_pool.h"

#include "../tensor/os.h"

#include <cassert>
#include <system_error>

namespace ds {

namespace {

constexpr uint32_t open_bit = 1u << 31;
constexpr double watch_seconds = 40e-6;  // about twice the cost of a futex wake
constexpr int pauses_a_look = 16;

inline void pause() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb");  // `yield` does nothing on most of these processors
#else
    std::this_thread::yield();
#endif
}

// Waits until `word` is no longer `value`: awake at first, then asleep.
void wait_while(const std::atomic<uint32_t> &word, uint32_t value) {
    const double until = os::seconds() + watch_seconds;
    do {
        for (int i = 0; i < pauses_a_look; ++i) {
            if (word.load(std::memory_order_acquire) != value) return;
            pause();
        }
    } while (os::seconds() < until);
    word.wait(value, std::memory_order_acquire);
}

}  // namespace

thread_pool::thread_pool(unsigned threads, bool started) : counters_(threads) {
    assert(threads >= 1 && threads <= max_threads);
    if (!started) return;
    threads_.reserve(threads - 1);
    try {
        for (unsigned i = 1; i < threads; ++i) threads_.push_back(os::start_thread([this, i] { serve(i); }));
    } catch (const std::system_error &e) {
        const size_t running = threads_.size();
        end();
        throw error(status::io, format_text("only %zu of %u threads could be started: %s", running + 1,
                                            threads, e.what()));
    } catch (...) {  // memory for one could not be allocated
        end();
        throw;
    }
}

thread_pool::~thread_pool() { end(); }

void thread_pool::end() {
    quit_.store(true);
    bell_.fetch_add(1);
    bell_.notify_all();
    for (std::thread &t : threads_) t.join();
}

void thread_pool::work(unsigned worker) {
    for (size_t i = 0; i < counters_.size(); ++i) {
        const size_t range = (worker + i) % counters_.size(), end = range_end(range);
        std::atomic<size_t> &next = counters_[range].next;
        while (next.load(std::memory_order_relaxed) < end) {
            const size_t task = next.fetch_add(1, std::memory_order_relaxed);
            if (task < end) job_.fn(job_.context, task, worker);
        }
    }
}

void thread_pool::share(const job &j) {
    job_ = j;
    for (size_t i = 0, begin = 0; i < counters_.size(); begin = range_end(i++))
        counters_[i].next.store(begin, std::memory_order_relaxed);
    door_.store(open_bit, std::memory_order_release);
    bell_.fetch_add(1);
    bell_.notify_all();
    work(0);
    uint32_t inside = door_.fetch_and(~open_bit) & ~open_bit;
    while (inside != 0) {
        wait_while(door_, inside);
        inside = door_.load(std::memory_order_acquire);
    }
}

void thread_pool::serve(unsigned worker) {
    const os::default_float_mode mode;
    uint32_t heard = 0;
    for (;;) {
        wait_while(bell_, heard);
        heard = bell_.load(std::memory_order_acquire);
        if (quit_.load()) return;
        uint32_t door = door_.load(std::memory_order_relaxed);
        while ((door & open_bit) != 0 &&
               !door_.compare_exchange_weak(door, door + 1, std::memory_order_acquire,
                                            std::memory_order_relaxed)) {}
        if ((door & open_bit) == 0) continue;
        work(worker);
        door_.fetch_sub(1, std::memory_order_release);
        door_.notify_all();
    }
}

}  // namespace ds
