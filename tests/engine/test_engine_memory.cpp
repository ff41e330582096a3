// The engine and memory: a step allocates nothing; every failing allocation of submit, fork and cancel leaves
// the engine unchanged; and the soak test, many small requests on a tiny pool with random cancellations,
// forks and preemptions.
#include "../support/adapter_file.h"
#include "../support/allocations.h"
#include "../support/answers.h"
#include "../support/api.h"

#include <atomic>
#include <fstream>
#include <map>
#include <random>
#include <thread>

using namespace golden;
using ds::test::with_failing;

TEST_CASE("engine: a step allocates nothing") {
    for (const char *name : {"tiny-r1", "micro/deepseek-r1", "micro/r1"})
        for (const ds::format type : {ds::format::i8, ds::format::q8_0, ds::format::f32}) {
            CAPTURE(name);
            CAPTURE(ds::info(type).text);
            const model_ptr m = model(name, type);
            const data d = load(name);
            ds_engine_config c = engine_config();
            c.kv_type = type == ds::format::i8 ? DS_KV_INT8 : type == ds::format::f32 ? DS_KV_F32 : DS_KV_F16;
            c.threads = 2;
            c.max_requests = 5;
            c.kv_tokens = 12 * 64;
            c.step_tokens = 60;
            c.max_adapter_rank = device_asked() ? 0 : 5;
            const engine_ptr e = engine(m, c);
            adapter_ptr adapter;
            if (c.max_adapter_rank) {
                const temp_file file;
                ds_model_info info{};
                info.struct_size = sizeof info;
                MUST(ds_model_get_info(m.get(), &info, &err));
                const std::string made = random_adapter(micro_file(name), info.architecture, 5, 5, 1).bytes();
                std::ofstream(file.path, std::ios::binary) << made;
                adapter = load_adapter(m, file.path);
            }
            const char *const stops[] = {"never to be seen", "nor this"};
            const ds_logit_bias bias = {3, 0.5f};
            std::vector<ds_request_id> ids;
            for (uint32_t i = 0; i < 8; ++i) {
                full_request r = request(d.ids);
                r.prompt += i / 3;
                r.prompt_count = 30 + 20 * i;
                r.flags = DS_REQUEST_LOGPROBS | DS_REQUEST_IGNORE_END | (i == 2 ? DS_REQUEST_NO_CACHE : 0u);
                r.max_new_tokens = 60 + i;
                r.top_logprobs = i;
                r.stop = stops, r.stop_count = i % 3;
                r.draw.temperature = static_cast<float>(i % 2) * 1.5f;
                r.draw.top_k = i % 4 * 10, r.draw.top_p = i % 3 == 1 ? 0.9f : 0;
                r.draw.presence_penalty = i == 4 ? 0.5f : 0;
                r.draw.logit_bias = &bias, r.draw.logit_bias_count = i == 5;
                r.thought.max_tokens = 5, r.thought.end_text = i % 2 ? "\nEnough.\n" : nullptr;
                r.client_id = i % 3, r.priority = static_cast<int32_t>(i % 2);
                r.timeout_seconds = i == 6 ? 1e6 : 0;
                if (i % 2) r.adapter = adapter.get(), r.adapter_scale = 0.1f;
                if (i == 7) r.flags = DS_REQUEST_SCORE | DS_REQUEST_LOGITS;
                ids.push_back(0);
                MUST(ds_engine_submit(e.get(), &r, &ids.back(), &err));
            }
            size_t done = 0, tokens = 0, steps = 0;
            int64_t in_steps = 0;
            ds_status status = DS_OK;
            while (done < ids.size() && status == DS_OK) {
                const ds_event *const *events = nullptr;
                size_t count = 0;
                // Every allocation would fail.
                in_steps += with_failing(1, true,
                                         [&] { status = ds_engine_step(e.get(), &events, &count, nullptr); });
                for (size_t i = 0; i < count; ++i)
                    done += events[i]->type == DS_EVENT_DONE, tokens += events[i]->type == DS_EVENT_TOKEN;
                if (++steps == 12) {
                    ds_request_id id = 0;
                    MUST(ds_engine_fork(e.get(), ids[0], nullptr, &id, &err));
                    ids.push_back(id);
                    MUST(ds_engine_cancel(e.get(), ids[3], &err));
                }
            }
            CHECK(status == DS_OK);
            CHECK(in_steps == 0);
            CHECK(tokens > 200);
            CHECK(stats_of(e).pages_free == stats_of(e).pages_total);
        }
}

TEST_CASE("engine: every failing allocation of submit, fork, cancel and step leaves the engine unchanged") {
    const model_ptr m = bundled();
    const std::vector<ds_token> prompt = chat_prompt(m, "What is 37 + 85?");
    ds_engine_config c = engine_config();
    c.max_requests = 3;
    c.kv_tokens = 10 * 64;
    const char *const stops[] = {"never", "at all"};
    full_request r = request(prompt);
    r.stop = stops, r.stop_count = 2;
    r.draw.presence_penalty = 0.01f;
    r.timeout_seconds = 1e6;
    r.thought.max_tokens = 20, r.thought.end_text = "Enough.";
    const std::string expected = ask(engine(m, c), r).text;
    for (const bool ever : {false, true}) {
        const engine_ptr e = engine(m, c);
        std::map<ds_request_id, std::string> texts, before;
        const auto hear = [&](const ds_event &event) {
            texts[event.request].append(event.text, event.text_size);
        };
        const auto step = [&](int64_t n) {
            const ds_event *const *events = nullptr;
            size_t count = 0;
            ds_status status = DS_OK;
            with_failing(n, ever, [&] { status = ds_engine_step(e.get(), &events, &count, nullptr); });
            CHECK(status == DS_OK);
            for (size_t i = 0; i < count; ++i) hear(*events[i]);
        };
        int64_t submitted = 0, forked = 0;
        for (int64_t n = 1;; ++n) {  // until it makes fewer than n allocations
            REQUIRE(n < 200);
            ds_request_id one = 0, two = 0;
            ds_status status = DS_OK;
            const int64_t took =
                with_failing(n, ever, [&] { status = ds_engine_submit(e.get(), &r, &one, nullptr); });
            CHECK(status == (took < n ? DS_OK : DS_ERR_MEMORY));
            if (status != DS_OK) {
                CHECK((one == 0 && stats_of(e).queued == 0));
                continue;
            }
            submitted = took;
            step(n);
            step(1);
            for (int64_t k = 1;; ++k) {
                REQUIRE(k < 200);
                const int64_t forks =
                    with_failing(k, ever, [&] { status = ds_engine_fork(e.get(), one, &r, &two, nullptr); });
                CHECK(status == (forks < k ? DS_OK : DS_ERR_MEMORY));
                forked = forks;
                if (status == DS_OK) break;
                CHECK(two == 0);
            }
            before = texts;
            run(e, hear);
            CHECK(texts[one] == expected);
            CHECK(texts[two].size() > 0);
            MUST(ds_engine_submit(e.get(), &r, &one, &err));
            with_failing(1, ever, [&] { status = ds_engine_cancel(e.get(), one, nullptr); });
            CHECK(status == DS_OK);
            step(1);
            break;
        }
        CHECK((submitted > 5 && forked > 5));
        const ds_engine_stats s = stats_of(e);
        CHECK((s.pages_free == s.pages_total && s.running == 0 && s.queued == 0));
        CHECK(ask(e, r).text == expected);
    }
}

// ---- The soak

namespace {

uint64_t resident_bytes() {
    std::ifstream in("/proc/self/status");
    for (std::string line; std::getline(in, line);)
        if (line.rfind("VmRSS:", 0) == 0) return std::stoull(line.substr(6)) * 1024;
    return 0;
}

// tokens, text: so far
struct asked {
    size_t question;
    uint64_t seed;
    uint32_t tokens;
    std::string so_far, text;
    bool cancelled;
};

}  // namespace

// DS_SOAK_REQUESTS sets the number of requests.
TEST_CASE("engine: soak: random requests, cancels and forks on a tiny pool: none is lost, each answers as it "
          "does alone, and memory does not grow") {
    const char *wish = std::getenv("DS_SOAK_REQUESTS");
#if defined(DS_THREAD_SANITIZER) || defined(DS_ADDRESS_SANITIZER)
    constexpr size_t usual = 100;
#else
    constexpr size_t usual = 1500;
#endif
    const size_t total = wish ? std::strtoull(wish, nullptr, 10) : usual;
    const model_ptr m = bundled();
    ds_engine_config c = engine_config();
    c.kv_type = DS_KV_DEFAULT;
    c.threads = 2;
    const engine_ptr alone = engine(m, c);
    c.max_requests = 6;
    c.kv_tokens = 7 * 64;
    c.max_queue = 12;
    const engine_ptr e = engine(m, c);

    constexpr uint32_t most_new = 120;
    const char *const stops[] = {"= 1", "write 9"};
    std::vector<std::vector<ds_token>> prompts;
    for (const char *q : {"What is 37 + 85?", "What is 37 + 86?", "What is 22 * 43?", "What is 3 + 4?",
                          "What is 90 - 17?", "What is 12 * 12?"})
        prompts.push_back(chat_prompt(m, q));
    for (size_t i = 0; i < 3; ++i) {  // longer ones, over a page's end and a page long
        prompts.push_back(prompts[i]);
        prompts.back().insert(prompts.back().begin() + 1, i == 2 ? 64 - prompts[i].size() : 70, 9);
    }
    const auto make = [&](size_t question, uint64_t seed) {
        full_request r = request(prompts[question]);
        r.draw.seed = seed;
        r.draw.temperature = seed ? 1.2f : 0;
        r.max_new_tokens = most_new;
        r.stop = stops, r.stop_count = question % 3;
        return r;
    };
    std::map<std::pair<size_t, uint64_t>, std::string> expected;
    const auto expect = [&](size_t question, uint64_t seed) -> const std::string & {
        std::string &text = expected[{question, seed}];
        if (text.empty()) {
            full_request r = make(question, seed);
            r.flags = DS_REQUEST_NO_CACHE;
            text = ask(alone, r).text;
        }
        return text;
    };
    for (size_t q = 0; q < prompts.size(); ++q)
        for (uint64_t seed = 0; seed < 4; ++seed) REQUIRE(!expect(q, seed).empty());

    std::mt19937_64 random(1);
    std::map<ds_request_id, asked> live;
    size_t submitted = 0, forked = 0, ended = 0, cancelled = 0, wrong = 0, idles = 0;
    uint64_t early = 0;
    while (submitted < total || !live.empty()) {
        const bool pause = random() % 400 == 0;  // sometimes until no request is left
        while (submitted < total && live.size() < 16 && !pause && random() % 4) {
            ds_request_id id = 0;
            if (!live.empty() && random() % 4 == 0) {
                auto at = live.begin();
                std::advance(at, static_cast<ptrdiff_t>(random() % live.size()));
                const asked of = at->second;
                const uint32_t left = most_new - of.tokens;
                // another seed only before the first draw
                full_request f = make(of.question, of.tokens || random() % 2 ? of.seed : random() % 4);
                f.max_new_tokens = left;
                f.priority = static_cast<int32_t>(random() % 3);
                if (left == 0 || ds_engine_fork(e.get(), at->first, &f, &id, nullptr) != DS_OK) break;
                live[id] = {of.question, f.draw.seed, of.tokens, of.so_far + of.text, "", false};
                ++forked;
            } else {
                const size_t q = random() % prompts.size();
                full_request r = make(q, random() % 4);
                r.priority = static_cast<int32_t>(random() % 3);
                r.flags = random() % 8 ? 0 : DS_REQUEST_NO_CACHE;
                if (ds_engine_submit(e.get(), &r, &id, nullptr) != DS_OK) break;  // the queue is full
                live[id] = {q, r.draw.seed, 0, "", "", false};
            }
            ++submitted;
        }
        if (!live.empty() && random() % 16 == 0) {
            auto at = live.begin();
            std::advance(at, static_cast<ptrdiff_t>(random() % live.size()));
            if (ds_engine_cancel(e.get(), at->first, nullptr) == DS_OK) at->second.cancelled = true;
        }
        do {
            step(e, [&](const ds_event &event) {
                asked &a = live.at(event.request);
                a.text.append(event.text, event.text_size);
                a.tokens += event.type == DS_EVENT_TOKEN;
                if (event.type != DS_EVENT_DONE) return;
                ++ended;
                cancelled += event.finish == DS_FINISH_CANCELLED;
                if (event.finish == DS_FINISH_CANCELLED) wrong += !a.cancelled;
                else wrong += a.so_far + a.text != expect(a.question, a.seed);
                live.erase(event.request);
            });
        } while (pause && !live.empty());
        if (live.empty()) {
            const ds_engine_stats s = stats_of(e);
            CHECK((s.pages_free == s.pages_total && s.running == 0 && s.queued == 0));
            ++idles;
        }
        if (early == 0 && submitted >= total / 4) early = resident_bytes();
    }
    const uint64_t late = resident_bytes();
    const ds_engine_stats s = stats_of(e);
    CHECK(wrong == 0);
    CHECK(ended == submitted);
    CHECK((idles > 0 && forked > total / 50 && cancelled > total / 50 && s.cached_tokens > 0));
    CHECK((s.preemptions > 0 || total < 1000));  // about one in a hundred is preempted
#if !defined(DS_THREAD_SANITIZER) && !defined(DS_ADDRESS_SANITIZER)
    CHECK(late < early + (4u << 20));
#endif
    MESSAGE(submitted << " requests, " << forked << " of them forks, " << cancelled << " cancelled; "
                      << s.preemptions << " preemptions, " << s.cached_tokens << " of " << s.lookup_tokens
                      << " prompt tokens found; resident " << (early >> 10) << " KiB after a quarter, "
                      << (late >> 10) << " KiB at the end; idle " << idles << " times");
}

TEST_CASE("engine: four threads submit, fork and cancel on a tiny pool while one steps") {
    const model_ptr m = bundled();
    const std::vector<ds_token> prompt = chat_prompt(m, "What is 3 + 4?");
    ds_engine_config c = engine_config();
    c.threads = 2;
    c.max_requests = 4;
    c.kv_tokens = 7 * 64;
    const engine_ptr e = engine(m, c);
    full_request r = request(prompt);
    r.max_new_tokens = 40;
    r.flags = DS_REQUEST_IGNORE_END;
    const std::string expected = ask(e, r).text;
    std::atomic<int> submitted{0}, left{4};
    std::vector<std::thread> threads;
    for (uint32_t t = 0; t < 4; ++t)
        threads.emplace_back([&, t] {
            full_request mine = request(prompt);
            mine.max_new_tokens = 40;
            mine.flags = DS_REQUEST_IGNORE_END;
            mine.client_id = t % 2;
            for (uint32_t i = 0; i < 15; ++i) {
                ds_request_id id = 0, other = 0;
                mine.priority = static_cast<int32_t>(i % 3);
                if (ds_engine_submit(e.get(), &mine, &id, nullptr) != DS_OK) continue;
                ++submitted;
                if ((i + t) % 3 == 0 && ds_engine_fork(e.get(), id, &mine, &other, nullptr) == DS_OK)
                    ++submitted;
                if ((i + t) % 4 == 0) ds_engine_cancel(e.get(), id, nullptr);
                ds_request_status s{};
                s.struct_size = sizeof s;
                ds_engine_request_status(e.get(), id, &s, nullptr);
                ds_engine_stats stats{};
                stats.struct_size = sizeof stats;
                ds_engine_get_stats(e.get(), &stats, nullptr);
            }
            --left;
        });
    std::map<ds_request_id, std::string> texts;
    int done = 0, whole = 0;
    while (left > 0 || done < submitted)
        run(e, [&](const ds_event &event) {
            texts[event.request].append(event.text, event.text_size);
            if (event.type != DS_EVENT_DONE) return;
            ++done;
            const std::string &text = texts[event.request];
            if (event.finish != DS_FINISH_CANCELLED) whole += text == expected;
        });
    for (std::thread &t : threads) t.join();
    CHECK(done == submitted);
    CHECK(whole > 10);
    const ds_engine_stats s = stats_of(e);
    CHECK((s.pages_free == s.pages_total && s.running == 0 && s.queued == 0));
}
