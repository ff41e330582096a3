#include "vocab_from_json.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <fstream>
#include <map>

namespace ds::test {

nlohmann::json read_json(const std::string &path) {
    std::ifstream in(path);
    return nlohmann::json::parse(in);
}

static std::string added_text(const nlohmann::json &token) {
    return token.is_object()   ? token.at("content").get<std::string>()
           : token.is_string() ? token.get<std::string>()
                               : "";
}

// The pattern strings of a tokenizer.json's pre_tokenizer section.
static std::vector<std::string> split_patterns(const nlohmann::json &tokenizer) {
    std::vector<std::string> patterns;
    for (const auto &step : tokenizer.at("pre_tokenizer").at("pretokenizers")) {
        if (step.at("type") == "Split") patterns.push_back(step.at("pattern").at("Regex"));
        if (step.at("type") == "Digits")
            patterns.push_back(step.at("individual_digits") ? R"(\p{N})" : R"(\p{N}+)");
    }
    return patterns;
}

gguf_writer vocabulary_from_json(const std::string &directory) {
    auto const tokenizer = read_json(directory + "/tokenizer.json"),
               config = read_json(directory + "/tokenizer_config.json");
    std::map<int32_t, std::pair<std::string, int32_t>> by_id;
    for (const auto &[spelling, id] : tokenizer["model"]["vocab"].items()) by_id[id] = {spelling, 1};
    for (const auto &a : tokenizer["added_tokens"]) by_id[a["id"]] = {a["content"], a["special"] ? 3 : 4};
    std::vector<std::string> tokens, merges;
    std::vector<int32_t> types;
    for (const auto &[id, t] : by_id) {
        while (int32_t(tokens.size()) < id)
            tokens.push_back("[PAD" + std::to_string(tokens.size()) + "]"), types.push_back(5);
        tokens.push_back(t.first);
        types.push_back(t.second);
    }
    for (const auto &m : tokenizer["model"]["merges"]) {
        merges.push_back(m.is_string() ? m.get<std::string>()
                                       : m[0].get<std::string>() + " " + m[1].get<std::string>());
    }
    gguf_writer w;
    w.set_string("general.architecture", "llama");
    w.set_string("tokenizer.ggml.model", "gpt2");
    pre_tokenizer pre;
    if (!pre_tokenizer_recognise(split_patterns(tokenizer), &pre))
        throw error(status::unsupported, directory + ": unknown patterns");
    w.set_string("tokenizer.ggml.pre", pre_tokenizer_text(pre));
    w.set_strings("tokenizer.ggml.tokens", tokens);
    w.set_i32s("tokenizer.ggml.token_type", types);
    w.set_strings("tokenizer.ggml.merges", merges);
    auto const special = [&](const char *name, const char *key) {
        std::string const text = config.contains(name) ? added_text(config[name]) : "";
        auto const t = std::find(tokens.begin(), tokens.end(), text);
        if (!text.empty() && t != tokens.end()) w.set_u32(key, uint32_t(t - tokens.begin()));
    };
    special("bos_token", "tokenizer.ggml.bos_token_id");
    special("eos_token", "tokenizer.ggml.eos_token_id");
    special("pad_token", "tokenizer.ggml.padding_token_id");
    w.set_bool("tokenizer.ggml.add_bos_token",
               config.value("add_bos_token", w.has("tokenizer.ggml.bos_token_id")));
    return w;
}

}  // namespace ds::test
