// What a model answers to the listed questions.
#pragma once

#include "../support/golden.h"
#include "../support/problems.h"

namespace golden {

constexpr size_t questions = sanitized ? 20 : 200;

// Greedy answers to the first of the 200 listed questions, at most 230 tokens of prompt and answer each,
// right when the text ends with the listed answer.
inline int right_answers(const model_ptr &m) {
    ds_engine_config c = engine_config();
    c.max_requests = 32;
    c.kv_type = DS_KV_DEFAULT;
    c.threads = 2;
    const engine_ptr e = engine(m, c);
    const std::vector<problem> list = problems(questions);
    REQUIRE(list.size() == questions);
    std::vector<std::string> texts(questions);
    std::unordered_map<ds_request_id, size_t> of;
    for (size_t i = 0; i < questions; ++i) {
        const std::vector<ds_token> prompt = chat_prompt(m, list[i].question);
        full_request r = request(prompt);
        r.max_new_tokens = 230;
        ds_request_id id;
        MUST(ds_engine_submit(e.get(), &r, &id, &err));
        of[id] = i;
    }
    run(e, [&](const ds_event &event) { texts[of[event.request]].append(event.text, event.text_size); });
    int right = 0;
    for (size_t i = 0; i < questions; ++i) right += texts[i].ends_with(list[i].answer);
    return right;
}

}  // namespace golden
