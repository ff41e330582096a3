// Checkpoints of one or two layers and some 280 tokens: those of tests/data/micro with smaller sizes in
// config.json, fewer tokens, and weights by fill() of fuzz.h.
#include "fuzz.h"

#include "../../llm/model/arch.h"
#include "../../quantize/convert.h"

#include <nlohmann/json.hpp>

#include <map>

namespace ds::fuzz {

using nlohmann::json;

const std::vector<std::string> tiny_names = {
    "llama",       "llama3",          "llama-linear", "qwen2",  "qwen3", "deepseek-v2", "deepseek-v2-lite",
    "deepseek-r1", "deepseek-r1-fp8", "r1",           "r1-zero"};

namespace {

constexpr int base_tokens = 272;

json read(const std::string &path) { return json::parse(read_file(path)); }

json smaller(json c, size_t tokens) {
    const std::map<std::string, int> sizes = {{"hidden_size", 32},        {"intermediate_size", 32},
                                              {"num_hidden_layers", 1},   {"num_attention_heads", 2},
                                              {"num_key_value_heads", 1}, {"head_dim", 16},
                                              {"kv_lora_rank", 32},       {"q_lora_rank", 32},
                                              {"qk_nope_head_dim", 16},   {"qk_rope_head_dim", 8},
                                              {"v_head_dim", 16},         {"n_routed_experts", 4},
                                              {"num_experts_per_tok", 2}, {"moe_intermediate_size", 32},
                                              {"n_shared_experts", 1},    {"n_group", 2},
                                              {"topk_group", 1},          {"max_position_embeddings", 512},
                                              {"max_window_layers", 1}};
    for (const auto &[name, n] : sizes)
        if (c.contains(name) && !c[name].is_null()) c[name] = n;
    if (c.contains("n_routed_experts")) {
        c["num_hidden_layers"] = 2;
        c["num_key_value_heads"] = 2;
        if (c["topk_method"] == "greedy") c["n_group"] = 1;
    }
    if (c.contains("num_active_heads")) {
        c["num_hidden_layers"] = 2;
        c["num_attention_heads"] = 4;
        c["num_active_heads"] = 3;
        c["num_shared_heads"] = 1;
        c["block_share_map"] = {0, 0};
    }
    c["vocab_size"] = tokens;
    c["bos_token_id"] = base_tokens;
    c["eos_token_id"] = base_tokens + 1;
    return c;
}

json fewer(json t) {
    json &model = t["model"], vocab = json::object(), merges = json::array();
    for (const auto &[token, id] : model["vocab"].items())
        if (id < base_tokens) vocab[token] = id;
    for (const json &m : model["merges"]) {
        const auto text = m.get<std::string>();
        const size_t blank = text.find(' ');
        const std::string left = text.substr(0, blank), right = text.substr(blank + 1);
        if (vocab.contains(left) && vocab.contains(right) && vocab.contains(left + right))
            merges.push_back(m);
    }
    model["vocab"] = vocab;
    model["merges"] = merges;
    int id = base_tokens;
    for (json &a : t["added_tokens"]) a["id"] = id++;
    return t;
}

struct weight {
    std::string dtype;
    std::vector<int64_t> shape;
};

// The tensors that the architecture requires.
std::map<std::string, weight> weights_of(const json &config, const std::string &header, bool tied) {
    const gguf_file f(os::mapping::borrow(header.data(), header.size()), "header");
    const arch &a = *arch_by_name(f.get_string("general.architecture"));
    const hparams h = a.read(f);
    std::map<std::string, weight> out;
    const bool fp8 = config.contains("quantization_config");
    for (const tensor_row &row : a.tensors(h)) {
        if (row.checkpoint.empty() || (row.what == role::output && tied)) continue;
        std::vector<int64_t> ne = row.ne;
        if (row.order == reorder::key_part || row.order == reorder::value_part)
            ne = {h.heads * (h.nope_size + h.value_size), h.kv_rank};
        std::vector<std::string> names = {row.checkpoint};
        if (const size_t star = row.checkpoint.find('*'); star != std::string::npos) {
            names.clear();
            for (int64_t i = 0; i < ne[0]; ++i)
                names.push_back(row.checkpoint.substr(0, star) + std::to_string(i) +
                                row.checkpoint.substr(star + 1));
            ne.erase(ne.begin());
        }
        for (const std::string &name : names) {
            const bool code = fp8 && ne.size() == 2 && !row.stays_f32() && row.what != role::embedding &&
                              row.what != role::output;
            out[name] = {code ? "F8_E4M3" : row.stays_f32() ? "F32" : "BF16", ne};
            if (code) out[name + "_scale_inv"] = {"F32", {(ne[0] + 127) / 128, (ne[1] + 127) / 128}};
        }
    }
    return out;
}

std::string safetensors(const std::map<std::string, weight> &weights) {
    json header = json::object();
    uint64_t at = 0;
    for (const auto &[name, w] : weights) {
        uint64_t n = w.dtype == "F32" ? 4 : w.dtype == "BF16" ? 2 : 1;
        for (const int64_t d : w.shape) n *= static_cast<uint64_t>(d);
        header[name] = {{"dtype", w.dtype}, {"shape", w.shape}, {"data_offsets", {at, at + n}}};
        at += n;
    }
    const std::string text = header.dump();
    const uint64_t n = text.size();
    return std::string(reinterpret_cast<const char *>(&n), sizeof n) + text;
}

}  // namespace

std::vector<named_file> tiny_checkpoint(const std::string &micro) {
    const std::string from = std::string(DS_SOURCE_DIR "/tests/data/micro/") + micro + "/";
    const json tokenizer = fewer(read(from + "tokenizer.json"));
    const json config = smaller(read(from + "config.json"), base_tokens + tokenizer["added_tokens"].size());
    std::vector<named_file> out = {{"config.json", config.dump()},
                                   {"tokenizer.json", tokenizer.dump()},
                                   {"tokenizer_config.json", read(from + "tokenizer_config.json").dump()}};
    for (const named_file &f : out) write_file(scratch() + "/" + f.name, f.bytes);
    const std::string header = convert_metadata(scratch(), {.name = "tiny"}, {});
    out.push_back({"model.safetensors",
                   safetensors(weights_of(config, header, config.value("tie_word_embeddings", false)))});
    for (const named_file &f : out) remove((scratch() + "/" + f.name).c_str());
    return out;
}

std::string tiny_gguf(const std::string &micro, format type) {
    const std::string to = scratch() + "/tiny.gguf";
    std::vector<named_file> files = tiny_checkpoint(micro);
    files.back().bytes = filled_safetensors(files.back().bytes, 1 << 24).value();
    for (const named_file &f : files) write_file(scratch() + "/" + f.name, f.bytes);
    convert(scratch(), to, {.type = type, .name = "tiny"}, {});
    std::string bytes = read_file(to);
    for (const named_file &f : files) remove((scratch() + "/" + f.name).c_str());
    remove(to.c_str());
    return bytes;
}

}  // namespace ds::fuzz
