// How many of the listed questions a model answers correctly.
#pragma once

#include "../support/answers.h"
#include "../support/problems.h"

namespace golden {

constexpr size_t questions = sanitized ? 20 : 200;

// Answers are greedy and at most 230 tokens long. One is right when its text ends with the listed answer.
inline int right_answers(const model_ptr &m) {
    ds_engine_config c = engine_config();
    c.max_requests = 32;
    c.kv_type = DS_KV_DEFAULT;
    c.threads = 2;
    const engine_ptr e = engine(m, c);
    const std::vector<problem> list = problems(questions);
    REQUIRE(list.size() == questions);
    std::vector<std::vector<ds_token>> prompts;
    std::vector<full_request> requests;
    for (const problem &p : list) {
        prompts.push_back(chat_prompt(m, p.question));
        requests.push_back(request(prompts.back()));
        requests.back().max_new_tokens = 230;
    }
    const std::vector<answer> answers = ask_all(e, requests);
    int right = 0;
    for (size_t i = 0; i < questions; ++i) right += answers[i].text.ends_with(list[i].answer);
    return right;
}

}  // namespace golden
