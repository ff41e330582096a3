// What requests answer through the public API, collected from the events of steps. The engine's own interface
// has its collector in tests/engine/answers.h.
#pragma once

#include "golden.h"

#include <map>

namespace golden {

struct answer {
    std::vector<ds_token> tokens;  // generated, or those that were scored
    std::vector<float> logits;     // [tokens, vocab] when the request asks for them
    std::string text;
    uint64_t first_position = 0;  // of `tokens`
    ds_finish finish = DS_FINISH_NONE;
    ds_status status = DS_OK;
    uint64_t cached = 0, preemptions = 0, thinking_tokens = 0, answer_tokens = 0;

    // Checks that positions follow one another and that nothing comes after the last event. With vocab = 0 no
    // logits are collected.
    void hear(const ds_event &event, size_t vocab) {
        REQUIRE(finish == DS_FINISH_NONE);
        text.append(event.text, event.text_size);
        if (event.type == DS_EVENT_TOKEN || event.type == DS_EVENT_SCORE) {
            if (tokens.empty()) first_position = event.position;
            CHECK(event.position == first_position + tokens.size());
            tokens.push_back(event.token);
        }
        if (event.logits) logits.insert(logits.end(), event.logits, event.logits + vocab);
        if (event.type != DS_EVENT_DONE) return;
        finish = event.finish;
        status = event.status;
        cached = event.cached_tokens;
        preemptions = event.preemptions;
        thinking_tokens = event.thinking_tokens;
        answer_tokens = event.answer_tokens;
    }
};

inline ds_request_id submit(const engine_ptr &e, const full_request &r) {
    ds_request_id id = 0;
    MUST(ds_engine_submit(e.get(), &r, &id, &err));
    REQUIRE(id != 0);
    return id;
}
inline ds_request_id fork(const engine_ptr &e, ds_request_id of, const full_request &r) {
    ds_request_id id = 0;
    MUST(ds_engine_fork(e.get(), of, &r, &id, &err));
    return id;
}

// The answers of all requests of an engine, by request.
struct listener {
    size_t vocab = 0;
    std::map<ds_request_id, answer> answers{};

    void hear(const ds_event &event) { answers[event.request].hear(event, vocab); }
    void step(const engine_ptr &e) {
        golden::step(e, [this](const ds_event &event) { hear(event); });
    }
    void run(const engine_ptr &e) {
        golden::run(e, [this](const ds_event &event) { hear(event); });
    }
};

// Submits all, runs the engine until it is idle, and returns the answers in order of submission.
inline std::vector<answer> ask_all(const engine_ptr &e, const std::vector<full_request> &requests,
                                   size_t vocab = 0) {
    std::vector<ds_request_id> ids;
    for (const full_request &r : requests) ids.push_back(submit(e, r));
    listener l{vocab};
    l.run(e);
    std::vector<answer> out;
    for (const ds_request_id id : ids) out.push_back(std::move(l.answers[id]));
    return out;
}
inline answer ask(const engine_ptr &e, const full_request &r, size_t vocab = 0) {
    return std::move(ask_all(e, {r}, vocab)[0]);
}

}  // namespace golden
