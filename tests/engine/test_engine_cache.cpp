// The engine's pages through the public API: bits are the same with and without prefix hits, after
// preemption, and in forks; no page is lost when requests are cancelled or miss their deadline; a step stops
// when no request needs it.
#include "../support/answers.h"
#include "../support/api.h"

#include "../../ggml-cpu/cpu.h"
#include "../../llm/engine/engine.h"

#include <map>

using namespace golden;

namespace {

// Pages of the same type as the weights, and of other types.
struct kind {
    const char *model;
    ds::format weights;
    ds_kv_type kv;
};
const kind kinds[] = {
    {"tiny-r1", ds::format::i8, DS_KV_INT8},
    {"micro/deepseek-r1", ds::format::f32, DS_KV_F16},
    {"micro/r1", ds::format::i8, DS_KV_INT8},
#if !defined(DS_THREAD_SANITIZER)  // slow, and the others use threads in the same way
    {"tiny-r1", ds::format::q8_0, DS_KV_F16},
    {"tiny-r1", ds::format::f32, DS_KV_F32},
    {"micro/deepseek-r1", ds::format::i8, DS_KV_INT8},
    {"micro/deepseek-v2-lite", ds::format::q8_0, DS_KV_F32},
    {"micro/r1", ds::format::f32, DS_KV_F16},
#endif
};

}  // namespace

TEST_CASE("engine: the same bits with what the prefix cache has as without") {
    for (const kind &k : kinds) {
        CAPTURE(k.model);
        CAPTURE(int(k.kv));
        const data d = load(k.model);
        const model_ptr m = model(k.model, k.weights);
        ds_engine_config c = engine_config();
        c.kv_type = k.kv;
        c.mla_form = DS_MLA_ABSORBED;
        c.threads = 2;
        c.step_tokens = 48;
        const engine_ptr e = engine(m, c), fresh = engine(m, c);
        std::vector<ds_token> prompt(d.ids.begin(), d.ids.begin() + 180);
        const auto check = [&](size_t count, uint64_t least, uint64_t most) {
            CAPTURE(count);
            full_request r = request(prompt);
            r.prompt_count = count;
            r.flags = DS_REQUEST_LOGITS | DS_REQUEST_IGNORE_END;
            r.max_new_tokens = 3;
            const answer with = ask(e, r, d.vocab);
            r.flags |= DS_REQUEST_NO_CACHE;
            const answer without = ask(fresh, r, d.vocab);
            CHECK(without.cached == 0);
            CHECK((with.cached >= least && with.cached <= most));
            CHECK(with.tokens == without.tokens);
            CHECK(same_bits(with.logits, without.logits));
        };
        check(150, 0, 0);
        check(150, 149, 149);  // full pages and part of the last
        check(128, 127, 127);  // only full pages; the last row is computed
        check(129, 128, 128);
        check(64, 63, 63);
        check(1, 0, 0);        // its one row
        check(180, 150, 155);  // continues where others ended
        prompt[100] ^= 1;
        check(170, 100, 100);  // up to there
        prompt[0] ^= 1;
        check(170, 0, 0);
        CHECK(stats_of(e).cached_tokens > 700);
        CHECK(stats_of(e).pages_cached > 0);
        CHECK(stats_of(fresh).pages_cached == 0);

        // Scored prompts use no cached pages, but leave theirs to others.
        const std::vector<float> scored = logits(e, d.ids, d.vocab);
        CHECK(same_bits(scored, logits(fresh, d.ids, d.vocab)));
        prompt.assign(d.ids.begin(), d.ids.begin() + 180);
        check(180, 179, 179);
    }
}

TEST_CASE("engine: what one client left is not used by another") {
    const model_ptr m = bundled();
    const engine_ptr e = engine(m, engine_config());
    const data d = load("tiny-r1");
    full_request r = request(d.ids);
    r.prompt_count = 150;
    r.max_new_tokens = 1;
    CHECK(ask(e, r, d.vocab).cached == 0);
    r.client_id = 7;
    CHECK(ask(e, r, d.vocab).cached == 0);
    CHECK(ask(e, r, d.vocab).cached == 149);
    r.flags = DS_REQUEST_NO_CACHE;
    CHECK(ask(e, r, d.vocab).cached == 0);
    r.flags = 0;
    r.client_id = 8;
    CHECK(ask(e, r, d.vocab).cached == 0);
}

TEST_CASE("engine: requests that make room by preemption continue with the same bits and repeat no event") {
    for (const kind &k : kinds) {
        CAPTURE(k.model);
        CAPTURE(int(k.kv));
        const data d = load(k.model);
        const model_ptr m = model(k.model, k.weights);
        ds_engine_config c = engine_config();
        c.kv_type = k.kv;
        c.mla_form = DS_MLA_ABSORBED;
        c.threads = 2;
        const engine_ptr alone = engine(m, c);
        c.max_requests = 5;
        c.kv_tokens = 8 * 64;
        const engine_ptr crowded = engine(m, c);
        std::vector<full_request> list;
        for (size_t i = 0; i < 6; ++i) {
            full_request r = request(d.ids);
            r.prompt += i;
            r.prompt_count = 20 + 11 * i;
            r.flags = DS_REQUEST_LOGITS | DS_REQUEST_IGNORE_END | (i % 2 ? DS_REQUEST_NO_CACHE : 0u);
            r.max_new_tokens = static_cast<uint32_t>(150 - 10 * i);
            if (i == 4) r.flags = DS_REQUEST_LOGITS | DS_REQUEST_SCORE, r.prompt_count = 150;
            list.push_back(r);
        }
        listener l{d.vocab};
        std::vector<ds_request_id> ids;
        for (const full_request &r : list) ids.push_back(submit(crowded, r));
        l.run(crowded);
        uint64_t preemptions = 0;
        for (size_t i = 0; i < list.size(); ++i) {
            CAPTURE(i);
            full_request r = list[i];
            r.flags |= DS_REQUEST_NO_CACHE;
            const answer expected = ask(alone, r, d.vocab), &got = l.answers[ids[i]];
            CHECK(got.finish == expected.finish);
            CHECK(got.tokens == expected.tokens);
            CHECK(same_bits(got.logits, expected.logits));
            preemptions += got.preemptions;
        }
        CHECK(preemptions > 0);
        const ds_engine_stats s = stats_of(crowded);
        CHECK(s.preemptions == preemptions);
        CHECK((s.pages_free == s.pages_total && s.running == 0 && s.queued == 0));
    }
}

TEST_CASE("engine: a request larger than the pool is refused with the bytes it would need") {
    const model_ptr m = bundled();
    ds_engine_config c = engine_config();
    c.kv_tokens = 256;
    const engine_ptr e = engine(m, c);
    const std::vector<ds_token> prompt(100, 5);
    full_request r = request(prompt);
    ds_request_id id = 0;
    ds_memory_plan plan{};
    plan.struct_size = sizeof plan;
    MUST(ds_engine_plan(m.get(), &c, &plan, &err));
    r.max_new_tokens = 157;
    check_fails(DS_ERR_TOO_LONG, std::to_string(5 * plan.page_bytes),
                [&](ds_error *x) { return ds_engine_submit(e.get(), &r, &id, x); });
    check_fails(DS_ERR_TOO_LONG, std::to_string(4 * plan.page_bytes),
                [&](ds_error *x) { return ds_engine_submit(e.get(), &r, &id, x); });
    r.max_new_tokens = 156;
    CHECK(ask(e, r).finish != DS_FINISH_CONTEXT);
    r.max_new_tokens = 0;  // up to the context's end
    r.flags = DS_REQUEST_IGNORE_END;
    const answer a = ask(e, r);
    CHECK((a.finish == DS_FINISH_CONTEXT && a.tokens.size() == 156));
}

TEST_CASE("engine: forks of a request that waits, reads its prompt or answers equal the same request alone") {
    for (const kind &k : kinds) {
        CAPTURE(k.model);
        CAPTURE(int(k.kv));
        const data d = load(k.model);
        const model_ptr m = model(k.model, k.weights);
        ds_engine_config c = engine_config();
        c.kv_type = k.kv;
        c.mla_form = DS_MLA_ABSORBED;
        c.step_tokens = 50;
        const engine_ptr e = engine(m, c), alone = engine(m, c);
        full_request r = request(d.ids);
        r.prompt_count = 140;
        r.flags = DS_REQUEST_LOGITS | DS_REQUEST_IGNORE_END;
        r.max_new_tokens = 30;
        r.draw.temperature = 2;
        r.draw.seed = 1;
        listener l{d.vocab};
        struct made {
            ds_request_id id;
            std::vector<ds_token> prompt;
            full_request r;
            uint64_t shared;
        };
        std::vector<made> all;
        const ds_request_id first = submit(e, r);
        const auto add = [&](uint64_t seed, const std::vector<ds_token> &so_far, uint64_t shared) {
            full_request f = r;
            f.prompt = nullptr, f.prompt_count = 0;
            f.draw.seed = seed;
            f.max_new_tokens = static_cast<uint32_t>(20 + seed);
            std::vector<ds_token> prompt(d.ids.begin(), d.ids.begin() + 140);
            prompt.insert(prompt.end(), so_far.begin(), so_far.end());
            all.push_back({fork(e, first, f), prompt, f, shared});
        };
        add(2, {}, 139);  // before it starts
        l.step(e);
        add(3, {}, 139);  // while its prompt is processed
        add(1, {}, 139);  // the same again
        l.step(e);
        l.step(e);
        while (l.answers[first].tokens.size() < 7) l.step(e);
        add(4, l.answers[first].tokens, 146);
        add(5, l.answers[first].tokens, 146);
        const ds_request_id of_a_fork = fork(e, all[0].id, all[0].r);
        l.run(e);
        const answer expected = ask(alone, r, d.vocab);
        CHECK(l.answers[first].tokens == expected.tokens);
        CHECK(same_bits(l.answers[first].logits, expected.logits));
        for (const made &f : all) {
            CAPTURE(f.r.draw.seed);
            full_request own = f.r;
            own.prompt = f.prompt.data(), own.prompt_count = f.prompt.size();
            own.flags |= DS_REQUEST_NO_CACHE;
            const answer want = ask(alone, own, d.vocab), &got = l.answers[f.id];
            CHECK(got.first_position == f.prompt.size());
            CHECK(got.tokens == want.tokens);
            CHECK(same_bits(got.logits, want.logits));
            CHECK(got.cached == f.shared);
        }
        CHECK(l.answers[all[0].id].tokens != expected.tokens);
        CHECK(l.answers[all[2].id].tokens ==
              std::vector<ds_token>(expected.tokens.begin(), expected.tokens.begin() + 21));
        CHECK(l.answers[of_a_fork].finish == DS_FINISH_LENGTH);
        const ds_engine_stats s = stats_of(e);
        CHECK((s.pages_free == s.pages_total && s.running == 0));
        ds_request_id id = 0;
        check_argument("done", [&](ds_error *x) { return ds_engine_fork(e.get(), first, &r, &id, x); });
        check_argument("fork", [&](ds_error *x) { return ds_engine_fork(e.get(), first, &r, nullptr, x); });
        check_argument("engine", [&](ds_error *x) { return ds_engine_fork(nullptr, first, &r, &id, x); });
    }
    const model_ptr m = bundled();
    const engine_ptr e = engine(m, engine_config());
    const std::vector<ds_token> prompt(20, 9);
    full_request r = request(prompt);
    r.flags = DS_REQUEST_SCORE;
    const ds_request_id scored = submit(e, r);
    ds_request_id id = 0;
    check_argument("scored", [&](ds_error *x) { return ds_engine_fork(e.get(), scored, nullptr, &id, x); });
}

TEST_CASE(
    "engine: a fork's text goes on where its parent's is, partial characters and held back text included") {
    const model_ptr m = bundled();
    const std::vector<ds_token> prompt = chat_prompt(m, "What is 37 + 85?");
    const engine_ptr e = engine(m, engine_config());
    full_request r = request(prompt);
    const std::string whole = ask(e, r).text;
    const std::string almost = whole.substr(10, 30) + "?";  // held back until it differs from the stop text
    const char *const stops[] = {almost.c_str()};
    for (size_t at = 1; at < 60; at += 3) {
        listener l{512};
        r.stop = stops, r.stop_count = 1;
        const ds_request_id first = submit(e, r);
        while (l.answers[first].tokens.size() < at) l.step(e);
        const std::string so_far = l.answers[first].text;
        full_request f = request({});
        const ds_request_id second = fork(e, first, f);
        l.run(e);
        CHECK(l.answers[first].text == whole);
        CHECK(so_far + l.answers[second].text == whole);
    }
}

TEST_CASE("engine: priorities decide who starts, timeouts who ends") {
    const model_ptr m = bundled();
    ds_engine_config c = engine_config();
    c.max_requests = 1;
    const engine_ptr e = engine(m, c);
    const std::vector<ds_token> prompt(20, 9);
    full_request r = request(prompt);
    r.flags = DS_REQUEST_IGNORE_END;
    r.max_new_tokens = 3;
    std::vector<ds_request_id> ids;
    for (const int32_t priority : {0, -1, 5, 0, 5}) {
        r.priority = priority;
        ids.push_back(submit(e, r));
    }
    std::vector<ds_request_id> ended;
    run(e, [&](const ds_event &event) {
        if (event.type == DS_EVENT_DONE) ended.push_back(event.request);
    });
    CHECK(ended == std::vector<ds_request_id>{ids[2], ids[4], ids[0], ids[3], ids[1]});

    r.priority = 0;
    r.max_new_tokens = 0;
    r.timeout_seconds = 0.05;
    const ds_request_id running = submit(e, r);
    r.timeout_seconds = 1e-9;
    const ds_request_id waiting = submit(e, r);
    r.timeout_seconds = 1e9;
    r.max_new_tokens = 2;
    const ds_request_id patient = submit(e, r);
    listener l;
    l.run(e);
    // the context may end first on a fast machine
    CHECK(
        (l.answers[running].finish == DS_FINISH_DEADLINE || l.answers[running].finish == DS_FINISH_CONTEXT));
    CHECK(l.answers[waiting].finish == DS_FINISH_DEADLINE);
    CHECK(l.answers[patient].finish == DS_FINISH_LENGTH);
    ds_request_id id = 0;
    for (const double v : {-1e-9, 1.1e9, double(INFINITY), double(NAN)}) {
        r.timeout_seconds = v;
        check_argument("timeout_seconds", [&](ds_error *x) { return ds_engine_submit(e.get(), &r, &id, x); });
    }
}

TEST_CASE("engine: trim drops cached pages and releases memory, and later answers are the same") {
    const model_ptr m = bundled();
    const data d = load("tiny-r1");
    ds_engine_config c = engine_config();
    c.kv_tokens = 64 * 1024;  // 160 MiB, several slabs
    const engine_ptr e = engine(m, c);
    full_request r = request(d.ids);
    r.prompt_count = 150;
    r.flags = DS_REQUEST_LOGITS;
    r.max_new_tokens = 3;
    const answer first = ask(e, r, d.vocab);
    ds_engine_stats s = stats_of(e);
    CHECK((s.pages_cached == 3 && s.pages_committed > 3));
    MUST(ds_engine_trim(e.get(), 128, &err));
    CHECK(stats_of(e).pages_cached == 2);
    CHECK(stats_of(e).pages_committed == 2);
    const answer second = ask(e, r, d.vocab);
    CHECK(second.cached == 128);
    MUST(ds_engine_trim(e.get(), 0, &err));
    s = stats_of(e);
    CHECK((s.pages_cached == 0 && s.pages_committed == 0 && s.pages_free == s.pages_total));
    const answer third = ask(e, r, d.vocab);
    CHECK(third.cached == 0);
    for (const answer *a : {&second, &third}) CHECK(same_bits(a->logits, first.logits));
    CHECK(first.logits.size() > 0);

    const ds_request_id id = submit(e, r);  // in the middle of a request
    listener l{d.vocab};
    l.step(e);
    MUST(ds_engine_trim(e.get(), 0, &err));
    l.run(e);
    CHECK(same_bits(l.answers[id].logits, first.logits));
    check_argument("engine", [&](ds_error *x) { return ds_engine_trim(nullptr, 0, x); });
}

TEST_CASE("engine: a trace tells the figures of every step, and they sum up to the statistics") {
    struct sums {
        uint64_t steps = 0, rows = 0, prompt = 0, started = 0, ended = 0, cached = 0;
        bool good = true;
    } sum;
    const model_ptr m = bundled();
    const data d = load("tiny-r1");
    ds_engine_config c = engine_config();
    c.step_tokens = 64;
    c.trace_user = &sum;
    c.trace = [](void *user, const ds_step_trace *t) {
        auto &s = *static_cast<sums *>(user);
        s.good &= t->struct_size == sizeof *t && t->step == ++s.steps &&
                  t->rows == t->prompt_rows + t->answer_rows && t->rows <= 64;
        s.good &= t->seconds >= t->compute_seconds && t->compute_seconds > 0 &&
                  t->pages_used + t->pages_cached + t->pages_unused == 64;
        s.rows += t->rows, s.prompt += t->prompt_rows, s.started += t->started, s.ended += t->ended,
            s.cached += t->cached_tokens;
    };
    const engine_ptr e = engine(m, c);
    full_request r = request(d.ids);
    r.prompt_count = 150;
    r.flags = DS_REQUEST_IGNORE_END;
    r.max_new_tokens = 10;
    listener l{d.vocab};
    for (int i = 0; i < 3; ++i) {
        submit(e, r);
        l.run(e);
    }
    const ds_engine_stats s = stats_of(e);
    CHECK(sum.good);
    CHECK((sum.steps == s.steps && sum.started == 3 && sum.ended == 3));
    CHECK((sum.prompt == s.prompt_tokens && s.prompt_tokens == 150 + 1 + 1 && sum.cached == s.cached_tokens &&
           s.cached_tokens == 2 * 149 && s.lookup_tokens == 450));
    CHECK(sum.rows == s.prompt_tokens + 3 * 9);
    CHECK((s.new_tokens == 30 && s.new_tokens_per_second > 0 && s.prompt_tokens_per_second > 0));
}

// ---- Calls while a step computes

namespace {

// A backend that calls `meanwhile` when a graph begins to run.
struct hooked {
    ds::backend base;
    ds::backend_ptr inner;
    ds::backend_fns fn;
    std::function<void()> *meanwhile;
};
hooked &self(ds::backend *b) { return *reinterpret_cast<hooked *>(b); }
const hooked &self(const ds::backend *b) { return *reinterpret_cast<const hooked *>(b); }

ds::backend_ptr hook(ds::backend_ptr inner, std::function<void()> *meanwhile) {
    auto *h = new hooked{{}, std::move(inner), {}, meanwhile};
    h->fn = *h->inner->fn;
    h->fn.free = [](ds::backend *b) { delete &self(b); };
    h->fn.alloc = [](ds::backend *b, size_t n) { return self(b).inner->fn->alloc(self(b).inner.get(), n); };
    h->fn.release = [](ds::backend *b, void *p, size_t n) {
        self(b).inner->fn->release(self(b).inner.get(), p, n);
    };
    h->fn.variant = [](const ds::backend *b, const ds::node &n) {
        return self(b).inner->fn->variant(self(b).inner.get(), n);
    };
    h->fn.work_bytes = [](const ds::backend *b, const ds::node &n) {
        return self(b).inner->fn->work_bytes(self(b).inner.get(), n);
    };
    h->fn.run = [](ds::backend *b, const ds::graph &g, void *work, const std::atomic<bool> *stop) {
        if (*self(b).meanwhile) (*self(b).meanwhile)();
        return self(b).inner->fn->run(self(b).inner.get(), g, work, stop);
    };
    h->base.fn = &h->fn;
    return ds::backend_ptr(&h->base);
}

}  // namespace

TEST_CASE("engine: a step stops when no request needs it any more, and continues while one does") {
    const auto m = std::make_shared<const ds::model>(
        ds::gguf_file(ds::os::mapping::map_file(bundled_path), "tiny-r1"), ds::model_options{});
    std::function<void()> meanwhile;
    ds::engine_options o;
    o.max_requests = 2;
    uint64_t rows = 0;
    o.trace = [&](const ds::step_trace &t) { rows += t.rows; };
    ds::engine e(m, ds::engine::resolve(*m, o), hook(ds::cpu_backend({}), &meanwhile));
    const ds::engine::turn turn(e);
    ds::request_options r;
    r.prompt.assign(100, 9);
    r.max_new = 4;
    const auto ends = [&](std::span<const ds::event> events) {
        std::map<uint64_t, ds::finish> out;
        for (const ds::event &event : events)
            if (event.type == ds::event_type::done) out[event.request] = event.finish;
        return out;
    };
    const uint64_t alone = e.submit(r);
    meanwhile = [&] { e.cancel(alone), e.cancel(alone); };
    CHECK(ends(e.step(turn)) == std::map<uint64_t, ds::finish>{{alone, ds::finish::cancelled}});
    CHECK(rows == 0);
    CHECK(e.idle());
    CHECK(e.stats().pages_free == e.stats().pages_total);

    const uint64_t one = e.submit(r), two = e.submit(r);
    meanwhile = [&] { e.cancel(one); };
    CHECK(ends(e.step(turn)).empty());
    CHECK(rows == 200);
    meanwhile = [&] { e.cancel(two); };
    CHECK(ends(e.step(turn)) ==
          std::map<uint64_t, ds::finish>{{one, ds::finish::cancelled}, {two, ds::finish::cancelled}});
    CHECK(rows == 200);

    // A fork, a submission and a cancellation during a step take effect in the next one.
    meanwhile = nullptr;
    const uint64_t parent = e.submit(r);
    uint64_t child = 0;
    meanwhile = [&] { child = e.fork(parent, {}), meanwhile = nullptr; };
    std::map<uint64_t, ds::finish> ended;
    while (!e.idle()) ended.merge(ends(e.step(turn)));
    CHECK((ended.size() == 2 && ended[parent] == ds::finish::length && ended.contains(child)));
    CHECK(e.stats().pages_free == e.stats().pages_total);

    // A request submitted and cancelled during a step whose request is cancelled too, after a fork of it.
    const uint64_t running = e.submit(r);
    uint64_t late = 0;
    meanwhile = [&] {
        child = e.fork(running, {}), late = e.submit(r);
        for (const uint64_t id : {late, running, child}) e.cancel(id);
        meanwhile = nullptr;
    };
    ended = ends(e.step(turn));
    CHECK(ended == std::map<uint64_t, ds::finish>{{late, ds::finish::cancelled},
                                                  {running, ds::finish::cancelled},
                                                  {child, ds::finish::cancelled}});
    CHECK((e.idle() && ends(e.step(turn)).empty() && e.stats().queued == 0));

    // Cancelled in the step that ends it: it ends once.
    r.max_new = 1;
    const uint64_t last = e.submit(r);
    r.max_new = 4;
    const uint64_t other = e.submit(r);
    meanwhile = [&] { e.cancel(last), meanwhile = nullptr; };
    CHECK(ends(e.step(turn)) == std::map<uint64_t, ds::finish>{{last, ds::finish::length}});
    CHECK_THROWS_AS(e.cancel(last), ds::error);
    ended.clear();
    while (!e.idle()) ended.merge(ends(e.step(turn)));
    CHECK(ended == std::map<uint64_t, ds::finish>{{other, ds::finish::length}});
    CHECK(e.stats().pages_free == e.stats().pages_total);
}
