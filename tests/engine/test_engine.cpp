// The engine through the public API: the same request gives the same bits whatever else runs, requests end
// for the right reason, and threads may submit and cancel.
#include "../support/answers.h"
#include "../support/float_mode.h"
#include "../support/golden.h"

#include "../../ggml-cpu/cpu.h"

#include <atomic>
#include <cfenv>
#include <set>
#include <thread>

using namespace golden;

namespace {

// All of `list`, or under a sanitizer those that cover each kind of attention.
std::vector<const char *> models(std::vector<const char *> list) {
    if (sanitized)
        std::erase_if(list, [](std::string_view name) {
            return name != "micro/qwen2" && name != "micro/deepseek-r1" && name != "micro/r1";
        });
    return list;
}

}  // namespace

TEST_CASE(
    "engine: the same bits with 1 and 2 threads, alone and among others, in chunks of 1, 7, 64 and at once") {
    for (const char *name : models({"micro/llama", "micro/qwen2", "micro/qwen3", "micro/deepseek-v2-lite",
                                    "micro/deepseek-r1", "micro/r1", "micro/r1-zero", "tiny-r1"}))
        for (const ds::format type : {ds::format::f32, ds::format::bf16, ds::format::q8_0})
            for (const ds_kv_type kv : {DS_KV_F32, DS_KV_F16}) {
                if (kv == DS_KV_F32 && type == ds::format::bf16) continue;
                CAPTURE(name);
                CAPTURE(ds::info(type).text);
                const data d = load(name);
                const model_ptr m = model(name, type);
                full_request r = request(d.ids);
                r.flags = DS_REQUEST_LOGITS | DS_REQUEST_IGNORE_END;
                r.prompt_count = 150;
                r.max_new_tokens = 4;
                std::vector<full_request> eight(8, r);
                for (size_t i = 0; i < eight.size(); ++i)
                    if (i != 3) eight[i].prompt = d.ids.data() + 5 * i, eight[i].prompt_count = 20 + 17 * i;
                std::vector<float> expected;
                for (const uint32_t threads : {1u, 2u, 3u})
                    for (const uint32_t chunk : {1u, 7u, 64u, 512u}) {
                        if (sanitized && chunk == 1) continue;  // takes longest
                        CAPTURE(threads);
                        CAPTURE(chunk);
                        ds_engine_config c = engine_config();
                        c.threads = threads;
                        c.step_tokens = chunk;
                        c.max_requests = 1;
                        c.kv_type = kv;
                        c.mla_form = DS_MLA_ABSORBED;
                        const std::vector<float> alone = ask(engine(m, c), r, d.vocab).logits;
                        REQUIRE(alone.size() == 4 * d.vocab);
                        if (expected.empty()) expected = alone;
                        CHECK(same_bits(alone, expected));
                        if (chunk < 7 || threads == 3) continue;
                        c.max_requests = 8;
                        c.step_tokens = std::max(chunk, 8u);
                        CHECK(same_bits(ask_all(engine(m, c), eight, d.vocab)[3].logits, expected));
                    }
            }
}

TEST_CASE("engine: the same bits on every instruction set of the machine") {
    for (const char *name : {"micro/llama3", "micro/deepseek-v2", "micro/r1", "tiny-r1"})
        for (const ds::format type : {ds::format::f16, ds::format::q8_0}) {
            const data d = load(name);
            const model_ptr m = model(name, type);
            std::vector<float> expected;
            for (const char *isa : ds::cpu_isas()) {
                CAPTURE(isa);
                ds_engine_config c = engine_config();
                c.isa = isa;
                const std::vector<float> l = logits(engine(m, c), d.ids, d.vocab);
                if (expected.empty()) expected = l;
                CHECK(same_bits(l, expected));
            }
        }
}

// numerics.h promises this for I8 weights with I8 pages: for every instruction set, thread count, set of
// other requests and chunk size.
TEST_CASE("engine: I8 models give the same bits everywhere") {
    for (const char *name :
         models({"micro/llama", "micro/qwen2", "micro/qwen3", "micro/deepseek-v2-lite", "micro/deepseek-v2",
                 "micro/deepseek-r1", "micro/r1", "micro/r1-zero", "tiny-r1"})) {
        CAPTURE(name);
        const data d = load(name);
        const model_ptr m = model(name, ds::format::i8);
        full_request r = request(d.ids);
        r.flags = DS_REQUEST_LOGITS | DS_REQUEST_IGNORE_END;
        r.prompt_count = 150;
        r.max_new_tokens = 4;
        std::vector<full_request> eight(8, r);
        for (size_t i = 0; i < eight.size(); ++i)
            if (i != 3) eight[i].prompt = d.ids.data() + 5 * i, eight[i].prompt_count = 20 + 17 * i;
        std::vector<float> expected;
        for (const char *isa : ds::cpu_isas())
            for (const uint32_t threads : {1u, 2u, 3u})
                for (const uint32_t chunk : {1u, 7u, 64u, 512u}) {
                    // slow, and its threads run the same code as the others
                    if ((threads > 1 || chunk == 1) && std::string(isa) == "scalar") continue;
                    // a device does not know of them
                    if (golden::device_asked() && (threads != 2 || isa != ds::cpu_isas().front())) continue;
                    CAPTURE(isa);
                    CAPTURE(threads);
                    CAPTURE(chunk);
                    ds_engine_config c = engine_config();
                    c.isa = isa;
                    c.threads = threads;
                    c.step_tokens = chunk;
                    c.max_requests = 1;
                    c.kv_type = DS_KV_DEFAULT;
                    const std::vector<float> alone = ask(engine(m, c), r, d.vocab).logits;
                    REQUIRE(alone.size() == 4 * d.vocab);
                    if (expected.empty()) expected = alone;
                    CHECK(same_bits(alone, expected));
                    if (chunk != 64 || threads != 2) continue;
                    c.max_requests = 8;
                    CHECK(same_bits(ask_all(engine(m, c), eight, d.vocab)[3].logits, expected));
                }
    }
}

// Rounding upward and flushing denormals, set by the host before its calls, with threads of the engine's own
// and with the host's.
TEST_CASE("engine: a host's floating-point mode changes nothing in an I8 model, and is left as it was") {
    const data d = load("micro/qwen3");
    const model_ptr m = model("micro/qwen3", ds::format::i8);
    full_request r = request(d.ids);
    r.flags = DS_REQUEST_LOGITS | DS_REQUEST_IGNORE_END;
    r.prompt_count = 100;
    r.max_new_tokens = 3;
    for (const uint32_t threads : {1u, 3u}) {
        ds_engine_config c = engine_config();
        c.threads = threads;
        c.kv_type = DS_KV_DEFAULT;
        const std::vector<float> expected = ask(engine(m, c), r, d.vocab).logits;
        const uint64_t usual = ds::test::float_control();
        std::fesetround(FE_UPWARD);
        const uint64_t odd = ds::test::float_control() | ds::test::flushing;
        ds::test::set_float_control(odd);
        const std::vector<float> got = ask(engine(m, c), r, d.vocab).logits;
        const uint64_t after = ds::test::float_control();
        std::fesetround(FE_TONEAREST);
        ds::test::set_float_control(usual);
        CHECK(after == odd);
        CHECK(same_bits(got, expected));
    }
}

TEST_CASE("engine: ends by token, by length, by context, by stop text") {
    const model_ptr m = bundled();
    const std::vector<ds_token> prompt = chat_prompt(m, "What is 37 + 85?");
    full_request r = request(prompt);
    {
        const answer a = ask(engine(m, engine_config()), r);
        CHECK(a.finish == DS_FINISH_STOP);
        CHECK(a.text.find("</think>") != std::string::npos);
        CHECK(a.text.substr(a.text.size() - 13) == "37 + 85 = 122");
        CHECK(a.thinking_tokens > 0);
        CHECK(a.answer_tokens > 0);
        CHECK(a.thinking_tokens + a.answer_tokens == a.tokens.size());
    }
    {
        r.max_new_tokens = 3;
        const answer a = ask(engine(m, engine_config()), r);
        CHECK(a.finish == DS_FINISH_LENGTH);
        CHECK(a.tokens.size() == 3);
        r.max_new_tokens = 0;
    }
    {
        ds_engine_config c = engine_config();
        c.context_length = static_cast<uint32_t>(prompt.size()) + 5;
        const answer a = ask(engine(m, c), r);
        CHECK(a.finish == DS_FINISH_CONTEXT);
        CHECK(a.tokens.size() == 5);
    }
    {
        const std::string whole = ask(engine(m, engine_config()), r).text;
        const char *const stops[] = {"never seen", "write 2"};
        r.stop = stops;
        r.stop_count = 2;
        const answer a = ask(engine(m, engine_config()), r);
        CHECK(a.finish == DS_FINISH_STOP);
        CHECK(a.text == whole.substr(0, whole.find("write 2")));
    }
}

TEST_CASE("engine: text held back for a stop text comes out when the answer ends otherwise") {
    const model_ptr m = bundled();
    const std::vector<ds_token> prompt = chat_prompt(m, "What is 37 + 85?");
    full_request r = request(prompt);
    const std::string whole = ask(engine(m, engine_config()), r).text;
    const std::string almost = whole.substr(whole.size() - 6) + "?";
    const char *const stops[] = {almost.c_str()};
    r.stop = stops;
    r.stop_count = 1;
    CHECK(ask(engine(m, engine_config()), r).text == whole);
}

TEST_CASE("engine: cancelled while queued, while running, twice, and by a thread that does not step") {
    const model_ptr m = bundled();
    const std::vector<ds_token> prompt = chat_prompt(m, "What is 22 * 43?");
    ds_engine_config c = engine_config();
    c.max_requests = 1;
    const engine_ptr e = engine(m, c);
    full_request r = request(prompt);
    r.flags = DS_REQUEST_IGNORE_END;
    ds_request_id first, second;
    MUST(ds_engine_submit(e.get(), &r, &first, &err));
    MUST(ds_engine_submit(e.get(), &r, &second, &err));
    std::thread([&] { MUST(ds_engine_cancel(e.get(), second, &err)); }).join();
    MUST(ds_engine_cancel(e.get(), second, &err));
    int tokens = 0;
    std::set<ds_request_id> cancelled;
    run(e, [&](const ds_event &event) {
        if (event.type == DS_EVENT_TOKEN && ++tokens == 5) MUST(ds_engine_cancel(e.get(), first, &err));
        if (event.type == DS_EVENT_DONE) {
            CHECK(event.finish == DS_FINISH_CANCELLED);
            cancelled.insert(event.request);
        }
    });
    CHECK(tokens == 5);
    CHECK(cancelled == std::set<ds_request_id>{first, second});
    CHECK(ds_engine_cancel(e.get(), first, nullptr) == DS_ERR_ARGUMENT);
    ds_engine_stats s{};
    s.struct_size = sizeof s;
    MUST(ds_engine_get_stats(e.get(), &s, &err));
    CHECK(s.pages_free == s.pages_total);
    CHECK(s.running + s.queued == 0);
    ds_request_status status{};
    status.struct_size = sizeof status;
    MUST(ds_engine_request_status(e.get(), first, &status, &err));
    CHECK(status.state == DS_STATE_DONE);
}

TEST_CASE("engine: a small pool serves many requests in order, and refuses what can never fit") {
    const model_ptr m = bundled();
    const std::vector<ds_token> prompt = chat_prompt(m, "What is 37 + 85?");
    ds_engine_config c = engine_config();
    c.max_requests = 4;
    c.kv_tokens = 256;
    c.max_queue = 3;
    const engine_ptr e = engine(m, c);
    full_request r = request(prompt);
    r.max_new_tokens = 100;
    const answer alone = ask(engine(m, engine_config()), r);
    const std::vector<answer> all = ask_all(e, {r, r, r});
    for (const answer &a : all) CHECK(a.tokens == alone.tokens);

    ds_request_id id;
    for (int i = 0; i < 3; ++i) MUST(ds_engine_submit(e.get(), &r, &id, &err));
    ds_error full;
    CHECK(ds_engine_submit(e.get(), &r, &id, &full) == DS_ERR_BUSY);
    CHECK(std::string(full.message).find("3 requests") != std::string::npos);
    run(e, [](const ds_event &) {});
    MUST(ds_engine_submit(e.get(), &r, &id, &err));
    run(e, [](const ds_event &) {});

    const std::vector<ds_token> long_prompt(300, 5);
    const full_request too_long = request(long_prompt);
    CHECK(ds_engine_submit(e.get(), &too_long, &id, nullptr) == DS_ERR_TOO_LONG);
    c.context_length = 100;
    c.kv_tokens = 0;
    CHECK(ds_engine_submit(engine(m, c).get(), &too_long, &id, nullptr) == DS_ERR_TOO_LONG);
}

TEST_CASE("engine: a draw depends on seed and position only") {
    const model_ptr m = bundled();
    const std::vector<ds_token> prompt = chat_prompt(m, "What is 37 + 85?");
    full_request r = request(prompt);
    r.draw.temperature = 3.0f;
    r.max_new_tokens = 20;
    r.draw.seed = 7;
    const engine_ptr e = engine(m, engine_config());
    const answer one = ask(e, r);
    std::vector<full_request> many(5, r);
    many[0].draw.seed = 8;
    many[1].draw.seed = 9;
    const std::vector<answer> all = ask_all(e, many);
    for (const size_t i : {2, 3, 4}) CHECK(all[i].tokens == one.tokens);
    CHECK(all[0].tokens != one.tokens);
    CHECK(all[0].tokens != all[1].tokens);
    r.draw.top_k = 1;
    full_request greedy = r;
    greedy.draw.temperature = 0;
    CHECK(ask(e, r).tokens == ask(e, greedy).tokens);
    r.draw.top_k = 0;
    r.draw.top_p = 1e-6f;
    CHECK(ask(e, r).tokens == ask(e, greedy).tokens);
    r.draw.top_p = 0;
    r.draw.min_p = 1;
    CHECK(ask(e, r).tokens == ask(e, greedy).tokens);
}

TEST_CASE("engine: bias and penalties") {
    const model_ptr m = bundled();
    const std::vector<ds_token> prompt = chat_prompt(m, "What is 37 + 85?");
    full_request r = request(prompt);
    r.max_new_tokens = 30;
    r.flags = DS_REQUEST_IGNORE_END;
    const engine_ptr e = engine(m, engine_config());
    const answer plain = ask(e, r);
    const ds_logit_bias forbid = {plain.tokens[0], -INFINITY}, force = {300, 1e4f};
    r.draw.logit_bias = &forbid;
    r.draw.logit_bias_count = 1;
    const answer without = ask(e, r);
    CHECK(std::count(without.tokens.begin(), without.tokens.end(), plain.tokens[0]) == 0);
    r.draw.logit_bias = &force;
    for (const ds_token t : ask(e, r).tokens) CHECK(t == 300);
    // larger than the differences among the other logits, smaller than the bias
    r.draw.presence_penalty = 1000;
    for (const ds_token t : ask(e, r).tokens) CHECK(t == 300);
    r.draw.logit_bias_count = 0;
    const answer fresh = ask(e, r);  // no token twice, and none of the prompt
    CHECK(std::set<ds_token>(fresh.tokens.begin(), fresh.tokens.end()).size() == fresh.tokens.size());
    for (const ds_token t : fresh.tokens) CHECK(std::count(prompt.begin(), prompt.end(), t) == 0);
}

TEST_CASE("engine: log-probabilities against double arithmetic on the logits") {
    const model_ptr m = bundled();
    const data d = load("tiny-r1");
    const engine_ptr e = engine(m, engine_config());
    const std::vector<float> all = logits(e, d.ids, d.vocab);
    full_request r = request(d.ids);
    r.flags = DS_REQUEST_SCORE;
    r.top_logprobs = 5;
    ds_request_id id;
    MUST(ds_engine_submit(e.get(), &r, &id, &err));
    size_t seen = 0;
    run(e, [&](const ds_event &event) {
        if (event.type != DS_EVENT_SCORE) return;
        CHECK(event.position == seen);
        CHECK(event.token == d.ids[seen]);
        if (seen > 0) {
            const float *row = &all[(seen - 1) * d.vocab];
            CHECK(event.logprob == doctest::Approx(row[event.token] - log_sum(row, d.vocab)).epsilon(1e-5));
        } else {
            CHECK(event.logprob == 0);
        }
        REQUIRE(event.top_count == 5);
        const float *row = &all[seen * d.vocab];
        CHECK(event.top[0].logprob ==
              doctest::Approx(*std::max_element(row, row + d.vocab) - log_sum(row, d.vocab)).epsilon(1e-5));
        for (size_t i = 1; i < 5; ++i) CHECK(event.top[i].logprob <= event.top[i - 1].logprob);
        ++seen;
    });
    CHECK(seen == d.ids.size());
}

TEST_CASE("engine: four threads submit and cancel while one steps") {
    const model_ptr m = bundled();
    const std::vector<ds_token> prompt = chat_prompt(m, "What is 3 + 4?");
    ds_engine_config c = engine_config();
    c.threads = 2;
    c.max_requests = 3;
    const engine_ptr e = engine(m, c);
    full_request r = request(prompt);
    r.max_new_tokens = 12;
    const std::vector<ds_token> expected = ask(e, r).tokens;
    std::atomic<int> submitted{0}, left{4};
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t)
        threads.emplace_back([&, t] {
            for (int i = 0; i < 25; ++i) {
                ds_request_id id;
                if (ds_engine_submit(e.get(), &r, &id, nullptr) != DS_OK) continue;
                ++submitted;
                if ((i + t) % 3 == 0) ds_engine_cancel(e.get(), id, nullptr);
                ds_request_status s{};
                s.struct_size = sizeof s;
                ds_engine_request_status(e.get(), id, &s, nullptr);
            }
            --left;
        });
    std::unordered_map<ds_request_id, std::vector<ds_token>> tokens;
    int done = 0;
    while (left > 0 || done < submitted)
        run(e, [&](const ds_event &event) {
            if (event.type == DS_EVENT_TOKEN) tokens[event.request].push_back(event.token);
            if (event.type != DS_EVENT_DONE) return;
            ++done;
            if (event.finish != DS_FINISH_CANCELLED) CHECK(tokens[event.request] == expected);
        });
    for (std::thread &t : threads) t.join();
    CHECK(done == submitted);
    CHECK(done == 100);
}

TEST_CASE("engine: the chat call streams, stops when its callback says so, and leaves the engine free") {
    const model_ptr m = bundled();
    const engine_ptr e = engine(m, engine_config());
    const ds_message ask = {"user", "What is 37 + 85?"};
    struct heard {
        std::string text;
        size_t most;
    } h{"", 1u << 20};
    const ds_text_fn hear = [](void *user, const char *text, size_t n) {
        auto *to = static_cast<heard *>(user);
        to->text.append(text, n);
        return to->text.size() >= to->most ? 1 : 0;
    };
    MUST(ds_engine_chat(e.get(), &ask, 1, nullptr, hear, &h, nullptr, &err));
    CHECK(h.text.substr(h.text.size() - 13) == "37 + 85 = 122");
    h = {"", 10};
    MUST(ds_engine_chat(e.get(), &ask, 1, nullptr, hear, &h, nullptr, &err));
    CHECK(h.text.size() >= 10);
    CHECK(h.text.size() < 30);
    const std::vector<ds_token> prompt = chat_prompt(m, "What is 3 + 4?");
    const full_request r = request(prompt);
    ds_request_id id;
    MUST(ds_engine_submit(e.get(), &r, &id, &err));
    CHECK(ds_engine_chat(e.get(), &ask, 1, nullptr, hear, &h, nullptr, nullptr) == DS_ERR_STATE);
}

TEST_CASE("engine: a vocabulary-only model makes no engine, an engine outlives its model's handle") {
    ds_engine *e = nullptr;
    CHECK(ds_engine_new(bundled(DS_LOAD_VOCAB_ONLY).get(), nullptr, &e, nullptr) == DS_ERR_STATE);
    model_ptr m = bundled(DS_LOAD_READ);
    const std::vector<ds_token> prompt = chat_prompt(m, "What is 3 + 4?");
    const engine_ptr remaining = engine(m, engine_config());
    m.reset();
    CHECK(ask(remaining, request(prompt)).text.find("3 + 4 = 7") != std::string::npos);
}

TEST_CASE("engine: an engine allocates what its memory plan says") {
    struct counted {
        uint64_t now = 0, most = 0;
    } count;
    const model_ptr m = bundled();
    ds_engine_config c = engine_config();
    ds_host host{};
    host.struct_size = sizeof host;
    host.alloc_user = &count;
    host.alloc = [](void *user, size_t bytes, size_t alignment) {
        auto *n = static_cast<counted *>(user);
        n->most = std::max(n->most, n->now += bytes);
        return std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
    };
    host.free = [](void *user, void *p, size_t bytes, size_t) {
        static_cast<counted *>(user)->now -= bytes;
        std::free(p);
    };
    c.host = &host;
    ds_memory_plan plan{};
    plan.struct_size = sizeof plan;
    MUST(ds_engine_plan(m.get(), &c, &plan, &err));
    CHECK(count.now == 0);
    CHECK(plan.total == plan.weights + plan.pages + plan.activations + plan.work + plan.tables);
    {
        const engine_ptr e = engine(m, c);
        const uint64_t taken = count.now;
        CHECK(taken >= plan.pages + plan.activations + plan.work);
        CHECK(taken <= plan.total - plan.weights);
        const std::vector<ds_token> prompt = chat_prompt(m, "What is 37 + 85?");
        ask(e, request(prompt));
        CHECK(count.most == taken);  // nothing more while it runs
    }
    CHECK(count.now == 0);
}

TEST_CASE("engine: every failing allocation is a status, and nothing leaks") {
    struct failing {
        int calls = 0, fail_at = 0;
        long live = 0;
    } f;
    ds_host host{};
    host.struct_size = sizeof host;
    host.alloc_user = &f;
    host.alloc = [](void *user, size_t bytes, size_t alignment) -> void * {
        auto *n = static_cast<failing *>(user);
        if (++n->calls == n->fail_at) return nullptr;
        ++n->live;
        return std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
    };
    host.free = [](void *user, void *p, size_t, size_t) {
        --static_cast<failing *>(user)->live;
        std::free(p);
    };
    bool succeeded = false;
    for (f.fail_at = 1; !succeeded; ++f.fail_at) {
        REQUIRE(f.fail_at < 100);
        f.calls = 0;
        ds_model_config mc{};
        mc.struct_size = sizeof mc;
        mc.flags = DS_LOAD_READ;
        mc.host = &host;
        ds_engine_config ec = engine_config();
        ec.host = &host;
        ds_model *m = nullptr;
        ds_engine *e = nullptr;
        ds_status s = ds_model_load(DS_SOURCE_DIR "/models/tiny-r1.gguf", &mc, &m, nullptr);
        if (s == DS_OK) s = ds_engine_new(m, &ec, &e, nullptr);
        succeeded = s == DS_OK;
        CHECK((succeeded || s == DS_ERR_MEMORY));
        ds_engine_free(e);
        ds_model_free(m);
        CHECK(f.live == 0);
    }
    CHECK(f.fail_at > 4);
}
