// The contract of deepseek.h for engines and requests: every field at its limits and beyond, outputs of
// refused calls, fields of events, and how the chat call ends.
#include "../support/answers.h"
#include "../support/api.h"
#include "../support/skip.h"

#include <limits>
#include <stdexcept>
#include <sys/resource.h>

using namespace golden;

namespace {

constexpr float inf = std::numeric_limits<float>::infinity();
const float nan_f32 = std::numeric_limits<float>::quiet_NaN();

ds_memory_plan plan_of(const model_ptr &m, const ds_engine_config &c) {
    ds_memory_plan p{};
    p.struct_size = sizeof p;
    MUST(ds_engine_plan(m.get(), &c, &p, &err));
    return p;
}

// Sets an enum field to any value, as a C program can.
template <class E> void set_number(E &field, int v) { std::memcpy(&field, &v, sizeof v); }

struct heard {
    std::string text;
    std::function<int()> each;
};
int hear(void *user, const char *text, size_t n) {
    auto *h = static_cast<heard *>(user);
    CHECK(n > 0);
    h->text.append(text, n);
    return h->each ? h->each() : 0;
}

const ds_message question = {"user", "What is 37 + 85?"};

}  // namespace

TEST_CASE("api: engine calls with NULL, and with structures of a wrong size") {
    const model_ptr m = bundled();
    const engine_ptr e = engine(m, engine_config());
    ds_engine *out = nullptr;
    ds_request_id id = 77;
    const ds_event *const *events = nullptr;
    size_t count = 5;
    const ds_token token = 3;
    full_request r = request({token});
    r.prompt = &token;
    ds_memory_plan plan{};
    ds_engine_stats stats{};
    ds_request_status status{};
    heard h;
    check_argument("model", [&](ds_error *x) { return ds_engine_plan(nullptr, nullptr, &plan, x); });
    check_argument("plan", [&](ds_error *x) { return ds_engine_plan(m.get(), nullptr, nullptr, x); });
    check_argument("model", [&](ds_error *x) { return ds_engine_new(nullptr, nullptr, &out, x); });
    check_argument("out", [&](ds_error *x) { return ds_engine_new(m.get(), nullptr, nullptr, x); });
    check_argument("engine", [&](ds_error *x) { return ds_engine_submit(nullptr, &r, &id, x); });
    check_argument("request", [&](ds_error *x) { return ds_engine_submit(e.get(), nullptr, &id, x); });
    check_argument("id", [&](ds_error *x) { return ds_engine_submit(e.get(), &r, nullptr, x); });
    check_argument("engine", [&](ds_error *x) { return ds_engine_cancel(nullptr, 1, x); });
    check_argument("engine", [&](ds_error *x) { return ds_engine_request_status(nullptr, 1, &status, x); });
    check_argument("status", [&](ds_error *x) { return ds_engine_request_status(e.get(), 1, nullptr, x); });
    check_argument("engine", [&](ds_error *x) { return ds_engine_step(nullptr, &events, &count, x); });
    check_argument("events", [&](ds_error *x) { return ds_engine_step(e.get(), nullptr, &count, x); });
    check_argument("count", [&](ds_error *x) { return ds_engine_step(e.get(), &events, nullptr, x); });
    check_argument("engine", [&](ds_error *x) { return ds_engine_get_stats(nullptr, &stats, x); });
    check_argument("stats", [&](ds_error *x) { return ds_engine_get_stats(e.get(), nullptr, x); });
    check_argument("engine", [&](ds_error *x) {
        return ds_engine_chat(nullptr, &question, 1, nullptr, hear, &h, nullptr, x);
    });
    check_argument("messages", [&](ds_error *x) {
        return ds_engine_chat(e.get(), nullptr, 1, nullptr, hear, &h, nullptr, x);
    });
    check_argument("messages", [&](ds_error *x) {
        return ds_engine_chat(e.get(), &question, 0, nullptr, hear, &h, nullptr, x);
    });
    check_argument("text", [&](ds_error *x) {
        return ds_engine_chat(e.get(), &question, 1, nullptr, nullptr, nullptr, nullptr, x);
    });
    ds_engine_free(nullptr);

    for (const size_t size : {size_t{0}, size_t{12}, size_t{65537}}) {
        ds_engine_config c = engine_config();
        c.struct_size = r.struct_size = plan.struct_size = stats.struct_size = status.struct_size = size;
        check_argument("config.struct_size",
                       [&](ds_error *x) { return ds_engine_new(m.get(), &c, &out, x); });
        check_argument("plan.struct_size",
                       [&](ds_error *x) { return ds_engine_plan(m.get(), nullptr, &plan, x); });
        check_argument("request.struct_size",
                       [&](ds_error *x) { return ds_engine_submit(e.get(), &r, &id, x); });
        check_argument("parameters.struct_size", [&](ds_error *x) {
            return ds_engine_chat(e.get(), &question, 1, &r, hear, &h, nullptr, x);
        });
        check_argument("status.struct_size",
                       [&](ds_error *x) { return ds_engine_request_status(e.get(), 1, &status, x); });
        check_argument("stats.struct_size",
                       [&](ds_error *x) { return ds_engine_get_stats(e.get(), &stats, x); });
    }
    struct longer {
        ds_request r;
        char tail[16];
    } l{};
    l.r = r;
    l.r.prompt = &token;
    l.r.struct_size = sizeof l;
    l.tail[15] = 1;
    check_argument("byte", [&](ds_error *x) { return ds_engine_submit(e.get(), &l.r, &id, x); });
    CHECK(
        (out == nullptr && id == 77 && events == nullptr && count == 5 && h.text.empty() && plan.total == 0));
    CHECK(stats_of(e).queued == 0);
    l.tail[15] = 0;
    MUST(ds_engine_submit(e.get(), &l.r, &id, &err));
}

TEST_CASE("api: ranges of an engine's configuration") {
    const model_ptr m = bundled();
    ds_engine_config c{};
    ds_engine *out = nullptr;
    ds_memory_plan plan{};
    plan.struct_size = sizeof plan;
    const auto bad = [&](const char *field, const std::function<void()> &set) {
        c = engine_config();
        set();
        check_argument(field, [&](ds_error *x) { return ds_engine_new(m.get(), &c, &out, x); });
        check_argument(field, [&](ds_error *x) { return ds_engine_plan(m.get(), &c, &plan, x); });
        CHECK(out == nullptr);
    };
    const auto good = [&](const std::function<void()> &set) {
        c = engine_config();
        set();
        MUST(ds_engine_plan(m.get(), &c, &plan, &err));
    };
    for (const uint32_t v : {1025u, 1u << 31, UINT32_MAX}) bad("threads", [&] { c.threads = v; });
    for (const uint32_t v : {0u, 1u, 64u}) good([&] { c.threads = v; });
    for (const uint32_t v : {4097u, UINT32_MAX}) bad("max_requests", [&] { c.max_requests = v; });
    for (const uint32_t v : {1u, 4096u}) good([&] { c.max_requests = v; });
    for (const uint32_t v : {(1u << 20) + 1, UINT32_MAX}) bad("max_queue", [&] { c.max_queue = v; });
    for (const uint32_t v : {1u, 1u << 20}) good([&] { c.max_queue = v; });
    for (const uint32_t v : {513u, 1u << 30, UINT32_MAX})
        bad("context_length", [&] { c.context_length = v; });
    for (const uint32_t v : {1u, 512u}) good([&] { c.context_length = v; });
    // at least max_requests, by default 8
    for (const uint32_t v : {1u, 7u, 65537u, UINT32_MAX}) bad("step_tokens", [&] { c.step_tokens = v; });
    for (const uint32_t v : {8u, 65536u}) good([&] { c.step_tokens = v; });
    good([&] { c.step_tokens = 1, c.max_requests = 1; });
    for (const uint32_t v : {513u, UINT32_MAX}) bad("logit_rows", [&] { c.logit_rows = v; });
    for (const uint32_t v : {1u, 512u}) good([&] { c.logit_rows = v; });
    good([&] { c.logit_rows = c.step_tokens = 65536; });
    for (const uint64_t v : {(uint64_t{1} << 31) + 1, uint64_t{1} << 63, UINT64_MAX})
        bad("kv_tokens", [&] { c.kv_tokens = v; });
    for (const uint64_t v : {uint64_t{1}, uint64_t{64}, uint64_t{1} << 31}) {
        good([&] { c.kv_tokens = v; });
        CHECK(plan.pages == (v + 63) / 64 * plan.page_bytes);
    }
    for (const int v : {-1, 4, INT32_MAX}) bad("kv_type", [&] { set_number(c.kv_type, v); });
    for (const int v : {-1, 2, INT32_MAX}) bad("mla_form", [&] { set_number(c.mla_form, v); });
    for (const ds_mla_form v : {DS_MLA_AUTO, DS_MLA_ABSORBED}) good([&] { c.mla_form = v; });
    for (const uint32_t v : {1025u, UINT32_MAX}) bad("max_adapter_rank", [&] { c.max_adapter_rank = v; });
    for (const uint32_t v : {1u, 1024u}) good([&] { c.max_adapter_rank = v; });
    bad("reserved", [&] { c.reserved = 1; });
    for (const char *isa : {"", "AVX2", "mmx"}) bad("scalar", [&] { c.isa = isa; });
    ds_host host{};
    host.struct_size = sizeof host;
    host.alloc = [](void *, size_t, size_t) -> void * { return nullptr; };
    bad("alloc", [&] { c.host = &host; });

    const model_ptr vocabulary = bundled(DS_LOAD_VOCAB_ONLY);
    check_fails(DS_ERR_STATE, "vocabulary",
                [&](ds_error *x) { return ds_engine_new(vocabulary.get(), nullptr, &out, x); });
    check_fails(DS_ERR_STATE, "vocabulary",
                [&](ds_error *x) { return ds_engine_plan(vocabulary.get(), nullptr, &plan, x); });
}

TEST_CASE("api: the memory plan counts as the header says") {
    const model_ptr m = bundled();
    ds_engine_config c = engine_config();
    const ds_memory_plan p = plan_of(m, c);
    // positions, layers, heads, head size, K and V, bytes of F32
    CHECK(p.page_bytes == 64 * 4 * 5 * 32 * 2 * 4);
    CHECK(p.pages == 8 * 8 * p.page_bytes);  // 8 requests of 512 positions
    CHECK(p.total == p.weights + p.pages + p.activations + p.work + p.tables);
    c.kv_type = DS_KV_F16;
    CHECK(plan_of(m, c).page_bytes == p.page_bytes / 2);
    c.kv_type = DS_KV_DEFAULT;
    CHECK(plan_of(m, c).page_bytes == p.page_bytes / 2);
    // the normed rows and gate and up apart, which fused products have in their work; the ranks' rows
    const ds_memory_plan without = plan_of(m, c);
    c.max_adapter_rank = 8;
    CHECK(plan_of(m, c).activations > without.activations);
    CHECK(plan_of(m, c).weights == without.weights);
    c.max_adapter_rank = 0;
    c.step_tokens = 1024;
    CHECK(plan_of(m, c).activations > p.activations);
}

TEST_CASE("api: an engine at the limits of its configuration works, or reports that memory is lacking") {
    const model_ptr m = bundled();
    const std::vector<ds_token> prompt = {477, 10, 20};
    const std::vector<ds_token> expected = greedy(engine(m, engine_config()), prompt, 5);
    const auto works = [&](const std::function<void(ds_engine_config &)> &set) {
        ds_engine_config c = engine_config();
        set(c);
        ds_engine *e = nullptr;
        ds_error err;
        const ds_status s = ds_engine_new(m.get(), &c, &e, &err);
        CAPTURE(err.message);
        CHECK((s == DS_OK || (s == DS_ERR_MEMORY && e == nullptr)));
        if (s == DS_OK) CHECK(greedy(engine_ptr(e), prompt, 5) == expected);
    };
    works([](ds_engine_config &c) {
        c.max_requests = c.max_queue = c.step_tokens = c.logit_rows = 1;
        c.kv_tokens = 1;
    });
    works([](ds_engine_config &c) { c.max_requests = 4096, c.kv_tokens = 64, c.context_length = 64; });
    works([](ds_engine_config &c) { c.kv_tokens = uint64_t{1} << 31; });
    works([](ds_engine_config &c) { c.max_queue = 1 << 20, c.logit_rows = 512; });
    ds_model_config mc = model_config();
    mc.context_length = 1u << 30;
    ds_model *far = nullptr;
    MUST(ds_model_load(bundled_path, &mc, &far, &err));
    const model_ptr far_model(far);
    ds_engine_config c = engine_config();
    c.context_length = 1u << 30;
    c.max_requests = 1;
    ds_engine *e = nullptr;
    const ds_status s = ds_engine_new(far, &c, &e, nullptr);
    ds_engine_free(e);
    CHECK((s == DS_OK || s == DS_ERR_MEMORY));
    c.max_requests = 4096;
    check_argument("kv_tokens", [&](ds_error *x) { return ds_engine_new(far, &c, &e, x); });
    ds_host host{};
    host.struct_size = sizeof host;
    host.alloc = [](void *, size_t, size_t) -> void * { return nullptr; };
    host.free = [](void *, void *, size_t, size_t) {};
    c.host = &host;
    c.max_requests = 1;
    e = nullptr;
    check_fails(DS_ERR_MEMORY, "bytes", [&](ds_error *x) { return ds_engine_new(far, &c, &e, x); });
    CHECK(e == nullptr);
}

TEST_CASE("api: ranges of a request") {
    const model_ptr m = bundled();
    const engine_ptr e = engine(m, engine_config());
    const std::vector<ds_token> prompt = {477, 10};
    full_request r{};
    ds_request_id id = 0;
    heard h;
    const auto bad_with = [&](ds_status status, const char *field, const std::function<void()> &set) {
        r = request(prompt);
        set();
        check_fails(status, field, [&](ds_error *x) { return ds_engine_submit(e.get(), &r, &id, x); });
        CHECK(id == 0);
    };
    const auto bad = [&](const char *field, const std::function<void()> &set) {
        bad_with(DS_ERR_ARGUMENT, field, set);
        check_argument(field, [&](ds_error *x) {
            return ds_engine_chat(e.get(), &question, 1, &r, hear, &h, nullptr, x);
        });
    };
    const auto good = [&](const std::function<void()> &set) {
        r = request(prompt);
        r.max_new_tokens = 1;
        set();
        CHECK(ask(e, r).status == DS_OK);
    };
    const auto real = [&](const char *field, float ds_sampling::*at, std::initializer_list<float> within,
                          std::initializer_list<float> outside) {
        for (const float v : within) good([&] { r.draw.*at = v; });
        for (const float v : outside) bad(field, [&] { r.draw.*at = v; });
        for (const float v : {nan_f32, inf, -inf}) bad(field, [&] { r.draw.*at = v; });
    };
    real("sampling.temperature", &ds_sampling::temperature, {0, -0.0f, 1e-45f, 1, 100}, {-1e-9f, 100.1f});
    real("sampling.top_p", &ds_sampling::top_p, {0, 1e-9f, 1}, {-0.1f, 1.0001f});
    real("sampling.min_p", &ds_sampling::min_p, {0, 1}, {-0.1f, 1.0001f});
    real("sampling.repetition_penalty", &ds_sampling::repetition_penalty, {0, 0.01f, 1, 1000},
         {-0.1f, 1000.1f});
    real("sampling.presence_penalty", &ds_sampling::presence_penalty, {-1000, 1000}, {-1000.1f, 1000.1f});
    real("sampling.frequency_penalty", &ds_sampling::frequency_penalty, {-1000, 1000}, {-1000.1f, 1000.1f});
    for (const uint32_t v : {0u, 1u, 64u}) good([&] { r.top_logprobs = v; });
    for (const uint32_t v : {65u, UINT32_MAX}) bad("top_logprobs", [&] { r.top_logprobs = v; });
    for (const uint32_t v : {0u, 1u, 1000u, UINT32_MAX})
        good([&] { r.draw.top_k = v, r.draw.temperature = 1; });
    for (const uint32_t v : {64u, 0x80000000u}) bad("flags", [&] { r.flags = v; });
    good([&] {
        r.flags = DS_REQUEST_SCORE | DS_REQUEST_LOGITS | DS_REQUEST_LOGPROBS | DS_REQUEST_IGNORE_END |
                  DS_REQUEST_SPECIAL | DS_REQUEST_NO_CACHE;
    });
    for (const uint32_t v : {2u, 0x80000000u}) bad("thinking.flags", [&] { r.thought.flags = v; });
    bad("thinking.reserved", [&] { r.thought.reserved = 1; });
    bad("request.reserved", [&] { r.reserved = 1; });
    bad("sampling.reserved", [&] { r.draw.reserved = 1; });
    bad("sampling.struct_size", [&] { r.draw.struct_size = 12; });
    bad("thinking.struct_size", [&] { r.thought.struct_size = 7; });
    good([&] { r.sampling = nullptr, r.thinking = nullptr; });
    for (const uint32_t v : {1u, UINT32_MAX}) good([&] { r.thought.max_tokens = v; });
    for (const int v : {-1, 3}) bad("thinking.mode", [&] { set_number(r.thought.mode, v); });

    std::vector<ds_logit_bias> bias(513, ds_logit_bias{1, 0.5f});
    const auto with_bias = [&](ds_token t, float b, size_t n = 1) {
        return [&, t, b, n] {
            bias[0] = {t, b}, r.draw.logit_bias = bias.data(), r.draw.logit_bias_count = n;
        };
    };
    for (const ds_token t : {-1, 512, INT32_MIN, INT32_MAX}) bad("logit_bias", with_bias(t, 1));
    for (const float b : {nan_f32, inf}) bad("logit_bias", with_bias(1, b));
    bad("logit_bias_count", with_bias(1, 1, 513));
    bad("logit_bias", [&] { r.draw.logit_bias_count = 1; });
    good(with_bias(511, -inf));
    good(with_bias(0, 3, 512));

    const std::string just(1024, 'x'), over(1025, 'x');
    std::vector<const char *> stops(65, "stop");
    const auto with_stop = [&](const char *s, size_t n = 1) {
        return [&, s, n] { stops[n - 1] = s, r.stop = stops.data(), r.stop_count = n; };
    };
    for (const char *s : {static_cast<const char *>(nullptr), "", over.c_str(), "\xff", "a\xc3", "\x80x"})
        bad("stop", with_stop(s));
    bad("stop_count", with_stop("x", 65));
    bad("stop", [&] { r.stop_count = 1; });
    good(with_stop(just.c_str()));
    good(with_stop("é", 64));

    bad_with(DS_ERR_ARGUMENT, "prompt", [&] { r.prompt = nullptr; });
    bad_with(DS_ERR_ARGUMENT, "prompt", [&] { r.prompt_count = 0; });
    for (const ds_token t : {-1, 512, INT32_MIN, INT32_MAX}) {
        const std::vector<ds_token> odd = {0, t};
        bad_with(DS_ERR_ARGUMENT, "prompt[1]", [&] { r.prompt = odd.data(); });
    }
    // refused before any token is read
    for (const size_t n : {size_t{512}, size_t{1} << 31, SIZE_MAX / 4, SIZE_MAX}) {
        bad_with(DS_ERR_TOO_LONG, "prompt", [&] { r.prompt_count = n; });
        if (n > 512)
            bad_with(DS_ERR_TOO_LONG, "prompt", [&] { r.prompt_count = n, r.flags = DS_REQUEST_SCORE; });
    }
    const std::vector<ds_token> longest(511, 9), scored(512, 9);
    good([&] { r.prompt = longest.data(), r.prompt_count = 511, r.max_new_tokens = 0; });
    good([&] { r.prompt = scored.data(), r.prompt_count = 512, r.flags = DS_REQUEST_SCORE; });
    CHECK(h.text.empty());
    const ds_engine_stats s = stats_of(e);
    CHECK((s.queued == 0 && s.running == 0 && s.pages_free == s.pages_total));
}

TEST_CASE("api: the data that a request points to is copied") {
    const model_ptr m = bundled();
    const engine_ptr e = engine(m, engine_config());
    const auto tokens = [&](bool change) {
        std::vector<ds_token> prompt = {477, 10, 20};
        std::string stop = "zzzz";
        const char *stops[] = {stop.c_str()};
        ds_logit_bias bias = {11, -inf};
        full_request r = request(prompt);
        r.stop = stops, r.stop_count = 1, r.draw.logit_bias = &bias, r.draw.logit_bias_count = 1,
        r.max_new_tokens = 20;
        const ds_request_id id = submit(e, r);
        if (change) {
            prompt.assign(3, 1);
            stop = " ";
            stops[0] = nullptr;
            bias = {10, inf};
            std::memset(static_cast<ds_request *>(&r), 0xff, sizeof(ds_request)),
                std::memset(&r.draw, 0xff, sizeof r.draw), std::memset(&r.thought, 0xff, sizeof r.thought);
        }
        listener l;
        l.run(e);
        return l.answers[id].tokens;
    };
    CHECK(tokens(true) == tokens(false));
}

TEST_CASE("api: unknown request identifiers") {
    const model_ptr m = bundled();
    const engine_ptr e = engine(m, engine_config());
    for (const ds_request_id id : {ds_request_id{0}, ds_request_id{1}, UINT64_MAX}) {
        check_argument("unknown", [&](ds_error *x) { return ds_engine_cancel(e.get(), id, x); });
        ds_request_status s{};
        s.struct_size = sizeof s;
        MUST(ds_engine_request_status(e.get(), id, &s, &err));
        CHECK((s.state == DS_STATE_DONE && s.prompt_tokens == 0 && s.prompt_tokens_done == 0 &&
               s.new_tokens == 0));
    }
    const ds_event *const *events = nullptr;
    size_t count = 5;
    MUST(ds_engine_step(e.get(), &events, &count, &err));  // with nothing to do
    CHECK(count == 0);
    CHECK(stats_of(e).steps == 0);
}

TEST_CASE("api: fields of events, and a request's status at each stage") {
    const model_ptr m = bundled();
    ds_engine_config c = engine_config();
    c.step_tokens = 8;
    const engine_ptr e = engine(m, c);
    std::vector<ds_token> prompt(20, 9);
    int mark = 0;
    for (const uint32_t flags : {0u, DS_REQUEST_LOGITS, DS_REQUEST_LOGPROBS}) {
        full_request r = request(prompt);
        // without cached pages, so each computes its prompt
        r.flags = flags | DS_REQUEST_IGNORE_END | DS_REQUEST_NO_CACHE;
        r.max_new_tokens = 3;
        r.top_logprobs = flags == DS_REQUEST_LOGPROBS ? 2 : 0;
        r.user = &mark;
        ds_request_id id = 0;
        MUST(ds_engine_submit(e.get(), &r, &id, &err));
        ds_request_status s{};
        s.struct_size = sizeof s;
        const auto check_status = [&](ds_request_state state, uint64_t done, uint64_t produced) {
            MUST(ds_engine_request_status(e.get(), id, &s, &err));
            CHECK((s.state == state && s.prompt_tokens == (state == DS_STATE_DONE && done == 0 ? 0 : 20) &&
                   s.prompt_tokens_done == done && s.new_tokens == produced));
        };
        check_status(DS_STATE_QUEUED, 0, 0);
        const ds_event *const *events = nullptr;
        size_t count = 0;
        const auto step = [&] { MUST(ds_engine_step(e.get(), &events, &count, &err)); };
        step();
        CHECK(count == 0);
        check_status(DS_STATE_PROMPT, 8, 0);
        step();
        check_status(DS_STATE_PROMPT, 16, 0);
        for (uint64_t i = 0; i < 3; ++i) {
            step();
            REQUIRE(count == (i == 2 ? 2 : 1));
            const ds_event &t = *events[0];
            CHECK((t.request == id && t.user == &mark && t.type == DS_EVENT_TOKEN && t.position == 20 + i &&
                   t.token >= 0 && t.text));
            CHECK((t.logits != nullptr) == (flags == DS_REQUEST_LOGITS));
            CHECK((t.logprob < 0) == (flags == DS_REQUEST_LOGPROBS));
            CHECK(t.top_count == (flags == DS_REQUEST_LOGPROBS ? 2 : 0));
            if (t.top_count) CHECK((t.top[0].token == t.token && t.top[0].logprob == t.logprob));
            CHECK((t.finish == DS_FINISH_NONE && t.status == DS_OK && t.prompt_tokens == 20 &&
                   t.thinking_tokens + t.answer_tokens == i + 1));
            check_status(i == 2 ? DS_STATE_DONE : DS_STATE_ANSWER, 20, i + 1);
        }
        const ds_event &last = *events[1];
        CHECK((last.request == id && last.user == &mark && last.type == DS_EVENT_DONE && last.token == -1 &&
               last.finish == DS_FINISH_LENGTH && last.text));
        CHECK((last.queue_seconds >= 0 && last.prompt_seconds >= 0 && last.answer_seconds >= 0 &&
               last.logits == nullptr));
        step();
        CHECK(count == 0);
        check_status(DS_STATE_DONE, 0, 0);
    }
}

TEST_CASE("api: the chat call ends in every way, and leaves the engine free") {
    const model_ptr m = bundled();
    const engine_ptr e = engine(m, engine_config());
    heard whole;
    MUST(ds_engine_chat(e.get(), &question, 1, nullptr, hear, &whole, nullptr, &err));
    CHECK(whole.text.find("37 + 85 = 122") != std::string::npos);
    const auto check_free = [&] {
        const ds_engine_stats s = stats_of(e);
        CHECK((s.running == 0 && s.queued == 0 && s.pages_free == s.pages_total));
        heard again;
        MUST(ds_engine_chat(e.get(), &question, 1, nullptr, hear, &again, nullptr, &err));
        CHECK(again.text == whole.text);
        const ds_event *const *events = nullptr;
        size_t count = 5;
        MUST(ds_engine_step(e.get(), &events, &count, &err));
        CHECK(count == 0);  // no event of the chat is left
    };
    heard first;  // the callback stops
    first.each = [] { return 1; };
    MUST(ds_engine_chat(e.get(), &question, 1, nullptr, hear, &first, nullptr, &err));
    CHECK(whole.text.find(first.text) == 0);
    CHECK(first.text.size() < whole.text.size());
    check_free();
    heard throwing;  // an error of a C++ host
    throwing.each = []() -> int { throw std::runtime_error("host"); };
    check_fails(DS_ERR_INTERNAL, "host", [&](ds_error *x) {
        return ds_engine_chat(e.get(), &question, 1, nullptr, hear, &throwing, nullptr, x);
    });
    check_free();
    heard inner;  // the callback runs during a step
    ds_status nested[2] = {DS_OK, DS_OK};
    inner.each = [&] {
        const ds_event *const *events;
        size_t count;
        heard none;
        nested[0] = ds_engine_step(e.get(), &events, &count, nullptr);
        nested[1] = ds_engine_chat(e.get(), &question, 1, nullptr, hear, &none, nullptr, nullptr);
        return 0;
    };
    MUST(ds_engine_chat(e.get(), &question, 1, nullptr, hear, &inner, nullptr, &err));
    CHECK((nested[0] == DS_ERR_STATE && nested[1] == DS_ERR_STATE && inner.text == whole.text));
    full_request r = request({});
    r.flags = DS_REQUEST_SCORE;  // ignored
    heard scored;
    MUST(ds_engine_chat(e.get(), &question, 1, &r, hear, &scored, nullptr, &err));
    CHECK(scored.text == whole.text);
    const std::string long_text(4000, '7');
    const ds_message endless = {"user", long_text.c_str()}, odd = {"wizard", "x"};
    check_fails(DS_ERR_TOO_LONG, "prompt", [&](ds_error *x) {
        return ds_engine_chat(e.get(), &endless, 1, nullptr, hear, &scored, nullptr, x);
    });
    check_argument("wizard", [&](ds_error *x) {
        return ds_engine_chat(e.get(), &odd, 1, nullptr, hear, &scored, nullptr, x);
    });
    check_free();

    model_file f = read_model_file(bundled_path);
    f.find("output_norm.weight").f32()[0] = nan_f32;
    const held_model broken = hold(f);
    const engine_ptr b = engine(broken.model, engine_config());
    for (int again = 0; again < 2; ++again) {
        heard none;
        check_fails(DS_ERR_NUMERIC, "finite", [&](ds_error *x) {
            return ds_engine_chat(b.get(), &question, 1, nullptr, hear, &none, nullptr, x);
        });
        CHECK((none.text.empty() && stats_of(b).running == 0 &&
               stats_of(b).pages_free == stats_of(b).pages_total));
    }
}

#if !defined(DS_ADDRESS_SANITIZER) &&                                                                        \
    !defined(DS_THREAD_SANITIZER)  // the sanitizers' own memory counts against the limit
TEST_CASE("api: a step that gets no memory for pages loses no request") {
    const model_ptr m = bundled();
    ds_engine_config c = engine_config();
    c.max_requests = 600;
    c.kv_tokens = 600 * 512;  // a slab is at least 32 MiB
    const engine_ptr e = engine(m, c);
    const std::vector<ds_token> prompt = {477, 10, 20};
    full_request r = request(prompt);
    r.max_new_tokens = 2;
    ds_request_id first, second, third;
    MUST(ds_engine_submit(e.get(), &r, &first, &err));
    MUST(ds_engine_submit(e.get(), &r, &second, &err));
    MUST(ds_engine_submit(e.get(), &r, &third, &err));
    MUST(ds_engine_cancel(e.get(), first, &err));
    rlimit before, none;
    REQUIRE(getrlimit(RLIMIT_DATA, &before) == 0);
    none = {1 << 20, before.rlim_max};
    const ds_event *const *events = nullptr;
    size_t count = 0;
    ds_error err;
    REQUIRE(setrlimit(RLIMIT_DATA, &none) == 0);
    const ds_status s1 = ds_engine_step(e.get(), &events, &count, &err),
                    s2 = ds_engine_step(e.get(), &events, &count, &err);
    setrlimit(RLIMIT_DATA, &before);
    if (s1 == DS_OK) {
        return ds::test::skip("this system does not hold a process to its limit");
    }
    CHECK((s1 == DS_ERR_MEMORY && s2 == DS_ERR_MEMORY && count == 0));
    CHECK(stats_of(e).queued == 2);
    listener l;
    l.run(e);
    CHECK((l.answers.size() == 3 && l.answers[first].finish == DS_FINISH_CANCELLED &&
           l.answers[second].finish == DS_FINISH_LENGTH && l.answers[third].finish == DS_FINISH_LENGTH));
}
#endif
