// Requests: submission, forks, cancellation, progress, steps and events, waiting, statistics.
#include "boundary.h"

using namespace ds;

static void check_float(const char *field, float v, float min, float max) {
    if (!(v >= min && v <= max))
        throw error(status::argument, std::string(field) + ": is " + shortest(v) + ", must be from " +
                                          shortest(min) + " to " + shortest(max));
}

static sampling sampling_of(const ds_sampling &r, size_t vocab) {
    check_float("sampling.temperature", r.temperature, 0, 100);
    check_float("sampling.top_p", r.top_p, 0, 1);
    check_float("sampling.min_p", r.min_p, 0, 1);
    check_float("sampling.repetition_penalty", r.repetition_penalty, 0, 1000);
    check_float("sampling.presence_penalty", r.presence_penalty, -1000, 1000);
    check_float("sampling.frequency_penalty", r.frequency_penalty, -1000, 1000);
    check_reserved(r.reserved, "sampling");
    require(r.logit_bias || !r.logit_bias_count, "sampling.logit_bias: is NULL");
    require(r.logit_bias_count <= vocab, "sampling.logit_bias_count: must be at most the vocabulary");
    sampling s{r.temperature,       r.top_k, r.top_p, r.min_p, r.repetition_penalty, r.presence_penalty,
               r.frequency_penalty, r.seed,  {}};
    for (size_t i = 0; i < r.logit_bias_count; ++i)
        s.bias.emplace_back(r.logit_bias[i].token, r.logit_bias[i].bias);
    return s;
}

static std::string short_text(const char *field, const char *text) {
    const std::string_view s(text, strnlen(text, 1025));
    if (s.size() > 1024)
        throw error(status::argument, std::string(field) + ": a text is longer than 1024 bytes");
    for (const char *p = s.data(), *const end = p + s.size(); p < end;) {
        const uint32_t n = utf8_sequence(p, end);
        if (n == 0) throw error(status::argument, std::string(field) + ": a text is not UTF-8");
        p += n;
    }
    return std::string(s);
}

// Text is divided before a possible stop text, so stop texts must be well-formed: else that could be inside a
// character.
static std::string stop_text(const char *text) {
    require(text && text[0], "stop: a text is NULL or empty");
    return short_text("stop", text);
}

ds_thinking ds::thinking_of(const ds_request &r) {
    const ds_thinking t = read_config(r.thinking, "thinking");
    check_enum("thinking.mode", t.mode, DS_THINKING_OFF);
    check_flags(t.flags, DS_THINKING_BUDGET, "thinking.flags");
    check_reserved(t.reserved, "thinking");
    return t;
}

// Everything except the prompt.
request_options ds::request_options_of(const ds_request &r, const model &m) {
    check_flags(r.flags,
                DS_REQUEST_SCORE | DS_REQUEST_LOGITS | DS_REQUEST_LOGPROBS | DS_REQUEST_IGNORE_END |
                    DS_REQUEST_SPECIAL | DS_REQUEST_NO_CACHE,
                "flags");
    require(r.top_logprobs <= max_top_logprobs, "top_logprobs: must be at most 64");
    require(r.stop || !r.stop_count, "stop: is NULL");
    require(r.stop_count <= 64, "stop_count: must be at most 64");
    if (!(r.timeout_seconds >= 0 && r.timeout_seconds <= 1e9))
        throw error(status::argument,
                    "timeout_seconds: is " + shortest(r.timeout_seconds) + ", must be from 0 to 10^9");
    const ds_thinking thinking = thinking_of(r);
    request_options o;
    o.score = r.flags & DS_REQUEST_SCORE;
    o.logits = r.flags & DS_REQUEST_LOGITS;
    o.logprobs = r.flags & DS_REQUEST_LOGPROBS;
    o.ignore_end = r.flags & DS_REQUEST_IGNORE_END;
    o.special = r.flags & DS_REQUEST_SPECIAL;
    o.max_new = r.max_new_tokens;
    o.top_logprobs = r.top_logprobs;
    o.sampling = sampling_of(read_config(r.sampling, "sampling"), m.vocabulary.size());
    for (size_t i = 0; i < r.stop_count; ++i) o.stop.push_back(stop_text(r.stop[i]));
    const std::string ending = thinking.end_text ? short_text("thinking.end_text", thinking.end_text) : "";
    if (thinking.max_tokens || thinking.flags & DS_THINKING_BUDGET) {
        o.think_budget = thinking.max_tokens;
        o.think_ending = think_ending(m.vocabulary, ending);
    }
    o.user = r.user;
    o.use_cache = !(r.flags & DS_REQUEST_NO_CACHE);
    o.client = r.client_id;
    o.priority = r.priority;
    o.timeout = r.timeout_seconds;
    check_reserved(r.reserved, "request");
    if (r.adapter) o.adapter = r.adapter->a;
    if (r.adapter_scale != 0) o.adapter_scale = r.adapter_scale;
    return o;
}

ds_status ds_engine_submit(ds_engine *engine, const ds_request *request, ds_request_id *id, ds_error *err) {
    return guard(err, [&] {
        REQUIRE_POINTER(engine);
        REQUIRE_POINTER(request);
        REQUIRE_POINTER(id);
        const ds_request r = read_config(request, "request");
        require(r.prompt || !r.prompt_count, "prompt: is NULL");
        request_options o = request_options_of(r, engine->e->loaded());
        engine->e->check_length(r.prompt_count, o.score);  // before the prompt is copied
        o.prompt.assign(r.prompt, r.prompt + r.prompt_count);
        *id = engine->e->submit(std::move(o));
    });
}

ds_status ds_engine_fork(ds_engine *engine, ds_request_id id, const ds_request *parameters,
                         ds_request_id *fork, ds_error *err) {
    return guard(err, [&] {
        REQUIRE_POINTER(engine);
        REQUIRE_POINTER(fork);
        request_options o = request_options_of(read_config(parameters, "parameters"), engine->e->loaded());
        o.score = false;
        *fork = engine->e->fork(id, std::move(o));
    });
}

ds_status ds_engine_cancel(ds_engine *engine, ds_request_id id, ds_error *err) {
    return guard(err, [&] {
        REQUIRE_POINTER(engine);
        engine->e->cancel(id);
    });
}

ds_status ds_engine_request_status(ds_engine *engine, ds_request_id id, ds_request_status *status_out,
                                   ds_error *err) {
    return guard(err, [&] {
        REQUIRE_POINTER(engine);
        REQUIRE_POINTER(status_out);
        const request_progress p = engine->e->progress(id);
        ds_request_status s{};
        s.state = static_cast<ds_request_state>(p.state);
        s.prompt_tokens = p.prompt_tokens;
        s.prompt_tokens_done = p.prompt_done;
        s.new_tokens = p.produced;
        write_info(status_out, s, "status");
    });
}

static ds_event event_of(const event &e) {
    ds_event out{};
    out.struct_size = sizeof out;
    out.request = e.request;
    out.user = e.user;
    out.type = static_cast<ds_event_type>(e.type);
    out.channel = e.thinking ? DS_CHANNEL_THINKING : DS_CHANNEL_ANSWER;
    out.token = e.token;
    out.logprob = e.logprob;
    out.position = e.position;
    out.text = e.text.data() ? e.text.data() : "";
    out.text_size = e.text.size();
    out.top = reinterpret_cast<const ds_token_logprob *>(e.top.data());
    out.top_count = e.top.size();
    out.logits = e.logits;
    out.finish = static_cast<ds_finish>(e.finish);
    out.status = static_cast<ds_status>(e.status);
    out.prompt_tokens = e.prompt_tokens;
    out.thinking_tokens = e.thinking_tokens;
    out.answer_tokens = e.answer_tokens;
    out.queue_seconds = e.queue_seconds;
    out.prompt_seconds = e.prompt_seconds;
    out.answer_seconds = e.answer_seconds;
    out.injected = e.injected;
    out.injected_tokens = e.injected_tokens;
    out.cached_tokens = e.cached_tokens;
    out.preemptions = e.preemptions;
    return out;
}

ds_status ds_engine_step(ds_engine *engine, const ds_event *const **events, size_t *count, ds_error *err) {
    return guard(err, [&] {
        REQUIRE_POINTER(engine);
        REQUIRE_POINTER(events);
        REQUIRE_POINTER(count);
        const ds::engine::turn turn(*engine->e);
        const std::span<const event> list = engine->e->step(turn);
        engine->events.clear();
        engine->list.clear();
        // Both have reserved max_events(), so nothing moves.
        for (const event &e : list) engine->list.push_back(&engine->events.emplace_back(event_of(e)));
        *events = engine->list.data();
        *count = engine->list.size();
    });
}

ds_status ds_engine_wait(ds_engine *engine, double timeout_seconds, int *work, ds_error *err) {
    return guard(err, [&] {
        REQUIRE_POINTER(engine);
        REQUIRE_POINTER(work);
        if (!(timeout_seconds >= 0))
            throw error(status::argument,
                        "timeout_seconds: is " + shortest(timeout_seconds) + ", must be at least 0");
        *work = engine->e->wait(timeout_seconds);
    });
}

ds_status ds_engine_wake(ds_engine *engine, ds_error *err) {
    return guard(err, [&] {
        REQUIRE_POINTER(engine);
        engine->e->wake();
    });
}

ds_status ds_engine_get_stats(ds_engine *engine, ds_engine_stats *stats_out, ds_error *err) {
    return guard(err, [&] {
        REQUIRE_POINTER(engine);
        REQUIRE_POINTER(stats_out);
        const engine_stats e = engine->e->stats();
        ds_engine_stats s{};
        s.running = e.running;
        s.queued = e.queued;
        s.pages_total = e.pages_total;
        s.pages_free = e.pages_free;
        s.pages_committed = e.pages_committed;
        s.steps = e.steps;
        s.prompt_tokens = e.prompt_tokens;
        s.new_tokens = e.new_tokens;
        const backend &b = engine->e->device();
        s.threads = is_cuda(b) ? 1 : cpu_threads(b);
        copy_text(s.isa, is_cuda(b) ? format_text("sm_%d%d", cuda_device_of(b).major, cuda_device_of(b).minor)
                                    : cpu_isa(b));
        s.pages_cached = e.pages_cached;
        s.preemptions = e.preemptions;
        s.lookup_tokens = e.lookup_tokens;
        s.cached_tokens = e.cached_tokens;
        s.prompt_tokens_per_second = e.prompt_rate;
        s.new_tokens_per_second = e.new_rate;
        write_info(stats_out, s, "stats");
    });
}

ds_status ds_engine_trim(ds_engine *engine, uint64_t keep_tokens, ds_error *err) {
    return guard(err, [&] {
        REQUIRE_POINTER(engine);
        const ds::engine::turn turn(*engine->e);
        engine->e->trim(turn, static_cast<int64_t>(std::min<uint64_t>(keep_tokens, uint64_t{1} << 31)) /
                                  page_positions);
    });
}
