// The thread pool: every task runs once, sleeping workers wake up, and no thread is left running.
#include "../../ggml-cpu/thread_pool.h"
#include "../support/sanitizers.h"

#include <chrono>
#include <doctest/doctest.h>
#include <set>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

using ds::thread_pool;

TEST_CASE("every task runs once, by a worker of the pool") {
    for (unsigned threads : {1u, 2u, 3u, 8u}) {
        thread_pool pool(threads);
        CHECK(pool.size() == threads);
        for (size_t tasks : {0, 1, 2, 7, 100}) {
            // each is written by one task: a data race if that ran twice at the same time
            std::vector<int> runs(tasks, 0);
            std::atomic<unsigned> strangers = 0;
            pool.run(tasks, [&](size_t task, unsigned worker) {
                ++runs[task];
                if (worker >= threads) ++strangers;
            });
            CHECK(strangers == 0);
            CHECK(runs == std::vector<int>(tasks, 1));
        }
    }
}

TEST_CASE("what tasks write is visible after each run") {
    thread_pool pool(3);
    std::vector<long> sum(16, 0);
    for (long round = 0; round < 3000; ++round) {
        pool.run(sum.size(), [&](size_t task, unsigned) { sum[task] += round; });
        long all = 0;
        for (long s : sum) all += s;
        REQUIRE(all == static_cast<long>(sum.size()) * (round * (round + 1) / 2));
    }
}

TEST_CASE("sleeping workers wake up") {
    thread_pool pool(2);
    std::atomic<int> inside = 0;
    for (int round = 0; round < 3; ++round) {
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
        inside = 0;
        // Each task waits for the other, so both threads must take part.
        pool.run(2, [&](size_t, unsigned) {
            ++inside;
            while (inside.load() < 2) std::this_thread::yield();
        });
        CHECK(inside == 2);
    }
}

TEST_CASE("one worker's index belongs to one thread at a time") {
    thread_pool pool(4);
    std::vector<std::atomic<int>> busy(4);
    std::atomic<int> clashes = 0;
    for (int round = 0; round < 200; ++round)
        pool.run(50, [&](size_t, unsigned worker) {
            if (busy[worker].fetch_add(1) != 0) ++clashes;
            busy[worker].fetch_sub(1);
        });
    CHECK(clashes == 0);
}

TEST_CASE("a pool of one uses the caller's thread") {
    thread_pool pool(1);
    std::set<std::thread::id> ids;
    pool.run(10, [&](size_t, unsigned) { ids.insert(std::this_thread::get_id()); });
    CHECK(ids == std::set<std::thread::id>{std::this_thread::get_id()});
}

#if !defined(DS_ADDRESS_SANITIZER) && !defined(DS_THREAD_SANITIZER)
// A child process with little address space cannot create the threads. The pool must report that and leave
// none running.
TEST_CASE("threads that the system refuses are a status") {
    const pid_t child = fork();
    if (child == 0) {
        const rlimit little = {64u << 20, 64u << 20};
        setrlimit(RLIMIT_AS, &little);
        int code = 1;
        try {
            thread_pool pool(1000);
        } catch (const ds::error &e) {
            code = e.code == ds::status::io && e.text.find("of 1000 threads") != std::string::npos ? 0 : 2;
        } catch (...) {
            code = 3;
        }
        _exit(code);
    }
    int state = 0;
    REQUIRE(waitpid(child, &state, 0) == child);
    CHECK(WIFEXITED(state));
    CHECK(WEXITSTATUS(state) == 0);
}
#endif
