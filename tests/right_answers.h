// What a model answers to the listed questions.
#pragma once

#include "golden.h"

#include <nlohmann/json.hpp>

namespace golden {

constexpr int questions = sanitized ? 20 : 200;

// Greedy answers to the first of the 200 listed questions, at most 230 tokens of prompt and answer each, right when the text ends with the listed answer.
inline int right_answers(const model_ptr &m) {
    struct asked { std::string answer, text; };
    std::vector<asked> list;
    ds_engine_config c = engine_config();
    c.max_requests = 32;
    c.kv_type = DS_KV_DEFAULT;
    c.threads = 2;
    const engine_ptr e = engine(m, c);
    std::ifstream in(data_dir("tiny-r1/problems.jsonl"));
    std::unordered_map<ds_request_id, size_t> of;
    for (std::string line; list.size() < questions && std::getline(in, line);) {
        const nlohmann::json j = nlohmann::json::parse(line);
        const std::vector<ds_token> prompt = chat_prompt(m, j["question"]);
        full_request r = request(prompt);
        r.max_new_tokens = 230;
        ds_request_id id;
        MUST(ds_engine_submit(e.get(), &r, &id, &err));
        of[id] = list.size();
        list.push_back({j["answer"], ""});
    }
    REQUIRE(list.size() == questions);
    run(e, [&](const ds_event &event) { list[of[event.request]].text.append(event.text, event.text_size); });
    int right = 0;
    for (const asked &a : list) right += a.text.size() >= a.answer.size() && a.text.compare(a.text.size() - a.answer.size(), a.answer.size(), a.answer) == 0;
    return right;
}

} // namespace golden
