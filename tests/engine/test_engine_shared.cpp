// An engine used by several threads at the same time: forks of requests that end meanwhile, waiting for work,
// and the chat call, which needs the engine for itself.
#include "../support/answers.h"
#include "../support/api.h"

#include <atomic>
#include <chrono>
#include <map>
#include <mutex>
#include <thread>

using namespace golden;

namespace {

ds_engine_config shared_config() {
    ds_engine_config c = engine_config();
    c.context_length = 128;
    c.max_requests = 4;
    c.max_queue = 64;
    c.kv_tokens = 4 * 128;
    return c;
}

int append(void *to, const char *text, size_t n) {
    static_cast<std::string *>(to)->append(text, n);
    return 0;
}

// Threads that are joined even when a check ends the case.
struct threads {
    std::vector<std::thread> list;
    ~threads() {
        for (std::thread &t : list) t.join();
    }
};

}  // namespace

TEST_CASE("engine: forks of requests that end meanwhile are whole, or refused") {
    const model_ptr m = bundled();
    const engine_ptr e = engine(m, shared_config());
    const std::vector<ds_token> prompt = chat_prompt(m, "What is 3 + 4?");
    full_request r = request(prompt);
    r.max_new_tokens = 40;
    const char *stop[] = {"qqqq"};  // never generated, but text is held back for it
    r.stop = stop, r.stop_count = 1;
    r.draw.presence_penalty = 0.001f;
    // Stop texts of a fork that take long to copy, so that the other request continues meanwhile.
    std::vector<std::string> long_stops;
    std::vector<const char *> fork_stops = {stop[0]};
    for (int i = 0; i < 60; ++i) long_stops.push_back("qq" + std::string(1000, static_cast<char>('A' + i)));
    for (const std::string &text : long_stops) fork_stops.push_back(text.c_str());

    listener l;
    std::mutex mutex;  // protects what follows
    std::vector<ds_request_id> known;
    struct parentage {
        ds_request_id fork, of;
    };
    std::vector<parentage> forks;
    const int rounds = sanitized ? 12 : 200;
    std::atomic<bool> over{false};
    std::atomic<int> refused{0}, strange{0};
    {
        threads t;
        const struct ender {  // also when a check ends the case
            std::atomic<bool> &over;
            ~ender() { over = true; }
        } at_last{over};
        for (int k = 0; k < 2; ++k)
            t.list.emplace_back([&, k] {
                for (size_t i = static_cast<size_t>(k); !over; ++i) {
                    ds_request_id id = 0, fork = 0;
                    {
                        const std::lock_guard lock(mutex);
                        if (known.empty()) continue;
                        id = known[known.size() - 1 - i % std::min<size_t>(known.size(), 4)];
                    }
                    full_request p = r;
                    p.max_new_tokens = 3;
                    p.stop = fork_stops.data(), p.stop_count = fork_stops.size();
                    const ds_status s = ds_engine_fork(e.get(), id, &p, &fork, nullptr);
                    const std::lock_guard lock(mutex);
                    if (s == DS_OK) forks.push_back({fork, id});
                    else if (s == DS_ERR_ARGUMENT || s == DS_ERR_BUSY || s == DS_ERR_TOO_LONG) ++refused;
                    else ++strange;
                }
            });
        for (int i = 0; i < rounds; ++i) {
            ds_request_id id = 0;
            ds_status submitted;
            // the queue is full of forks
            while ((submitted = ds_engine_submit(e.get(), &r, &id, nullptr)) == DS_ERR_BUSY) l.step(e);
            REQUIRE(submitted == DS_OK);
            {
                const std::lock_guard lock(mutex);
                known.push_back(id);
            }
            for (int s = 0; s < 6; ++s) l.step(e);
            if (i % 3 == 0 && ds_engine_cancel(e.get(), id, nullptr) != DS_OK) ++refused;
            while (stats_of(e).queued > 40) l.step(e);
        }
    }
    l.run(e);
    CHECK(strange == 0);
    CHECK(!forks.empty());
    CHECK(stats_of(e).pages_free == stats_of(e).pages_total);
    // Greedy forks continue as their parents do, so a fork's text is part of the one possible answer.
    const engine_ptr alone = engine(m, shared_config());
    r.max_new_tokens = 60;
    const std::string text = ask(alone, r).text;
    size_t said = 0;
    for (const parentage &f : forks) {
        const std::string &of_fork = l.answers[f.fork].text;
        CAPTURE(of_fork);
        CHECK(text.find(of_fork) != std::string::npos);
        said += of_fork.size();
    }
    CHECK(said > 0);
}

TEST_CASE("engine: waiting for work ends with work, at its timeout, and when it is woken") {
    const model_ptr m = bundled();
    const engine_ptr e = engine(m, shared_config());
    const std::vector<ds_token> prompt = chat_prompt(m, "What is 3 + 4?");
    full_request r = request(prompt);
    r.max_new_tokens = 5;
    int work = 7;
    MUST(ds_engine_wait(e.get(), 0, &work, &err));
    CHECK(work == 0);
    MUST(ds_engine_wait(e.get(), 0.001, &work, &err));
    CHECK(work == 0);
    for (const double bad :
         {-1.0, -1e-9, std::numeric_limits<double>::quiet_NaN(), -std::numeric_limits<double>::infinity()})
        check_argument("timeout_seconds",
                       [&](ds_error *x) { return ds_engine_wait(e.get(), bad, &work, x); });
    check_argument("engine", [&](ds_error *x) { return ds_engine_wait(nullptr, 0, &work, x); });
    check_argument("work", [&](ds_error *x) { return ds_engine_wait(e.get(), 0, nullptr, x); });
    check_argument("engine", [&](ds_error *x) { return ds_engine_wake(nullptr, x); });

    MUST(ds_engine_wake(e.get(), &err));  // no thread waits, so the next wait returns immediately
    MUST(ds_engine_wait(e.get(), INFINITY, &work, &err));
    CHECK(work == 0);

    // One thread steps while there is work and waits when there is none, until it is stopped. Others submit
    // requests.
    std::atomic<bool> over{false};
    std::atomic<int> ended{0}, failed{0};
    {
        threads t;
        t.list.emplace_back([&] {
            while (!over) {
                int some = 0;
                if (ds_engine_wait(e.get(), INFINITY, &some, nullptr) != DS_OK) return void(++failed);
                const ds_event *const *events = nullptr;
                size_t count = 0;
                if (some && ds_engine_step(e.get(), &events, &count, nullptr) != DS_OK) return void(++failed);
                for (size_t i = 0; some && i < count; ++i) ended += events[i]->type == DS_EVENT_DONE;
            }
        });
        for (int i = 0; i < 20; ++i) {
            ds_request_id id;
            MUST(ds_engine_submit(e.get(), &r, &id, &err));
            if (i % 4 == 3) (void)ds_engine_cancel(e.get(), id, nullptr);
            if (i % 5 == 4)
                while (ended <= i) std::this_thread::yield();  // until it waits again
        }
        while (ended < 20 && !failed) std::this_thread::yield();
        over = true;
        MUST(ds_engine_wake(e.get(), &err));
    }
    CHECK((ended == 20 && failed == 0));
}

TEST_CASE("engine: the chat call has the engine for itself, and reports how it ended") {
    const model_ptr m = bundled();
    const engine_ptr e = engine(m, shared_config());
    const std::vector<ds_token> prompt = chat_prompt(m, "What is 3 + 4?");
    const full_request other = request(prompt);
    const ds_message ask = {"user", "What is 37 + 85?"};
    ds_chat_result result{};
    result.struct_size = sizeof result;

    struct scene {
        const engine_ptr *e;
        const full_request *r;
        ds_status submitted = DS_OK, forked = DS_OK;
        int waited = 7, pieces = 0;
        std::string text;
    } s{&e, &other, DS_OK, DS_OK, 7, 0, ""};
    const auto busy = [](void *user, const char *text, size_t n) {
        auto &here = *static_cast<scene *>(user);
        std::thread other_thread([&here] {
            ds_request_id id = 0;
            here.submitted = ds_engine_submit(here.e->get(), here.r, &id, nullptr);
            here.forked = ds_engine_fork(here.e->get(), 1, nullptr, &id, nullptr);
            (void)ds_engine_wait(here.e->get(), 0, &here.waited, nullptr);
        });
        other_thread.join();
        here.text.append(text, n);
        return ++here.pieces == 4 ? 1 : 0;
    };
    MUST(ds_engine_chat(e.get(), &ask, 1, nullptr, busy, &s, &result, &err));
    CHECK((s.submitted == DS_ERR_STATE && s.forked == DS_ERR_STATE && s.waited == 0 && s.pieces == 4));
    CHECK(s.text.starts_with("<think>\n"));
    CHECK((result.finish == DS_FINISH_CANCELLED && result.prompt_tokens > 5 && result.prompt_seconds > 0 &&
           result.answer_tokens + result.thinking_tokens > 0));
    CHECK(stats_of(e).running + stats_of(e).queued == 0);

    std::string text;
    MUST(ds_engine_chat(e.get(), &ask, 1, nullptr, append, &text, &result, &err));
    CHECK((result.finish == DS_FINISH_STOP && result.answer_tokens > 0 && result.thinking_tokens > 0 &&
           result.injected_tokens == 0));
    CHECK(text.starts_with("<think>\n"));
    full_request few;
    few.max_new_tokens = 3;
    text.clear();
    MUST(ds_engine_chat(e.get(), &ask, 1, &few, append, &text, &result, &err));
    CHECK((result.finish == DS_FINISH_LENGTH && result.thinking_tokens + result.answer_tokens == 3));
    few.thought.mode = DS_THINKING_OFF;  // no thought is opened and no tag generated
    text.clear();
    MUST(ds_engine_chat(e.get(), &ask, 1, &few, append, &text, &result, &err));
    CHECK((text.find("think>") == std::string::npos && !text.empty() && result.thinking_tokens == 0));
    result.struct_size = 16;  // an earlier version's size: only the reason fits
    result.prompt_tokens = 99;
    MUST(ds_engine_chat(e.get(), &ask, 1, &few, append, &text, &result, &err));
    CHECK((result.finish == DS_FINISH_LENGTH && result.prompt_tokens == 99));
    result.struct_size = 3;
    check_argument("result.struct_size", [&](ds_error *x) {
        return ds_engine_chat(e.get(), &ask, 1, &few, append, &text, &result, x);
    });
    ds_request_id id = 0;
    MUST(ds_engine_submit(e.get(), &other, &id, &err));  // the engine is free again
    check_fails(DS_ERR_STATE, "other requests", [&](ds_error *x) {
        return ds_engine_chat(e.get(), &ask, 1, &few, append, &text, nullptr, x);
    });
    MUST(ds_engine_cancel(e.get(), id, &err));
}
