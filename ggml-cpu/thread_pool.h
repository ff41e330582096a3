// A pool of threads that run numbered tasks. The caller of `run` is one of them, so a pool of one has no
// thread of its own.
#pragma once

#include "../tensor/base.h"

#include <atomic>
#include <thread>
#include <vector>

namespace ds {

class thread_pool {
public:
    static constexpr unsigned max_threads = 1024;

    // 1 to max_threads. Throws status::io if the system refuses a thread. Not started, the pool reports the
    // same size, and the caller alone runs everything.
    explicit thread_pool(unsigned threads, bool started = true);
    thread_pool(const thread_pool &) = delete;
    ~thread_pool();
    unsigned size() const { return static_cast<unsigned>(counters_.size()); }

    // f(task, worker) for every task in [0, tasks), each once, in any order, by any worker in [0, size());
    // returns when all are done. A worker's tasks are mostly consecutive. One run at a time. f must not
    // throw.
    template <class F> void run(size_t tasks, const F &f) {
        if (tasks <= 1 || threads_.empty()) {
            for (size_t i = 0; i < tasks; ++i) f(i, 0u);
            return;
        }
        share({[](const void *context, size_t task, unsigned worker) {
                   (*static_cast<const F *>(context))(task, worker);
               },
               &f, tasks});
    }

private:
    struct job {
        void (*fn)(const void *context, size_t task, unsigned worker);
        const void *context;
        size_t tasks;
    };
    void share(const job &j);
    void work(unsigned worker);
    void serve(unsigned worker);
    void end();

    std::vector<std::thread> threads_;
    // written while the door is shut and no worker is inside
    job job_ = {};
    struct alignas(64) counter {
        std::atomic<size_t> next = 0;
    };
    size_t range_end(size_t range) const { return job_.tasks * (range + 1) / counters_.size(); }
    // one range of tasks per worker; `next` is the first that nobody has taken
    std::vector<counter> counters_;
    // open_bit while there are tasks to take; the bits below count the workers inside
    alignas(64) std::atomic<uint32_t> door_ = 0;
    // counts jobs; idle workers watch it, then sleep on it
    alignas(64) std::atomic<uint32_t> bell_ = 0;
    std::atomic<bool> quit_ = false;
};

}  // namespace ds
