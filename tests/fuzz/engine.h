// The smallest possible engine, and a request that runs to its end.
#pragma once

#include "fuzz.h"

#include "../../deepseek.h"

#include <vector>

namespace ds::fuzz {

inline void allowed(ds_status s, const ds_error &e) { must(s != DS_ERR_INTERNAL, e.message); }

inline ds_engine_config small_engine() {
    ds_engine_config c{};
    c.struct_size = sizeof c;
    c.threads = 1;
    c.max_requests = 2;
    c.max_queue = 4;
    c.context_length = 192;
    c.step_tokens = 16;
    c.kv_tokens = 256;
    return c;
}

// The generated tokens; null when the request is refused.
inline std::optional<std::vector<ds_token>> answer(ds_engine *e, const std::vector<ds_token> &prompt,
                                                   uint32_t most, size_t vocabulary) {
    ds_request r{};
    r.struct_size = sizeof r;
    r.prompt = prompt.data();
    r.prompt_count = prompt.size();
    r.max_new_tokens = most;
    ds_request_id id = 0;
    ds_error err{};
    const ds_status s = ds_engine_submit(e, &r, &id, &err);
    allowed(s, err);
    if (s != DS_OK) return std::nullopt;
    std::vector<ds_token> out;
    for (int step = 0; step < 100; ++step) {
        const ds_event *const *events = nullptr;
        size_t n = 0;
        const ds_status stepped = ds_engine_step(e, &events, &n, &err);
        allowed(stepped, err);
        if (stepped != DS_OK) return out;
        for (size_t i = 0; i < n; ++i) {
            if (events[i]->type == DS_EVENT_DONE) return out;
            if (events[i]->type != DS_EVENT_TOKEN) continue;
            must(events[i]->token >= 0 && static_cast<size_t>(events[i]->token) < vocabulary,
                 "generated ids are in range");
            out.push_back(events[i]->token);
        }
    }
    broken("a request ends");
}

}  // namespace ds::fuzz
