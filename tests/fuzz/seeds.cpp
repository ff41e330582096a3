// Writes the inputs that fuzzing starts with: a folder for each target, and a file for each tiny checkpoint,
// number format and kind of input. usage: fuzz-seeds DIRECTORY
#include "convert_files.h"
#include "session_seed.h"
#include "train_seed.h"

#include "../../quantize/calibrate.h"
#include "../../quantize/convert.h"

#include <nlohmann/json.hpp>

#include <filesystem>
#include <functional>
#include <set>

// Definitions that the shared sources expect from a target and from libFuzzer.
namespace ds::fuzz {
void run(std::string_view) {}
std::string mutated(std::string input, dice &) { return input; }
}  // namespace ds::fuzz
extern "C" size_t LLVMFuzzerMutate(uint8_t *, size_t size, size_t) { return size; }

namespace ds::fuzz {

namespace {

std::string root;
void seed(const std::string &target, const std::string &name, const std::string &bytes) {
    std::filesystem::create_directories(root + "/" + target);
    write_file(root + "/" + target + "/" + name, bytes);
}

// Variants of the tiny checkpoints, accepted and refused ones, as JSON merge patches (RFC 7396).
struct variant {
    const char *checkpoint;
    int file;
    const char *patch;
};
constexpr int config = 0, tokenizer = 1, settings = 2, generation = 3, processor = 8;
constexpr variant variants[] = {
    {"llama", config, R"({"hidden_act": "gelu"})"},
    {"llama", config, R"({"use_sliding_window": true})"},
    {"llama", config, R"({"mlp_bias": true})"},
    {"llama", config, R"({"moe_layer_freq": 2})"},
    {"qwen2", config, R"({"layer_types": ["full_attention"]})"},
    {"qwen2", config, R"({"layer_types": ["sliding_attention"]})"},
    {"llama", config, R"({"rope_theta": -1})"},
    {"qwen3", config,
     R"({"rope_scaling": null, "rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 2, "rope_theta": 1e6}}})"},
    {"qwen3", config, R"({"rope_parameters": {"rope_type": "yarn", "rope_theta": 5e5, "factor": 4.0}})"},
    {"qwen3", config, R"({"rope_parameters": {"rope_type": "linear", "factor": 4.0}})"},
    {"qwen3", config, R"({"rope_parameters": {"rope_type": "default"}})"},
    {"llama", config, R"({"rope_scaling": {"type": "longrope", "factor": 2}})"},
    {"llama", config,
     R"({"rope_scaling": {"rope_type": "linear", "type": "yarn", "factor": 2, "beta_fast": 3}})"},
    {"llama", config, R"({"rope_scaling": {"rope_type": "linear", "factor": 2, "alpha": 3}})"},
    {"llama", config, R"({"partial_rotary_factor": 0.5})"},
    {"deepseek-r1", config, R"({"rope_interleave": false})"},
    {"llama3", config, R"({"rope_scaling": {"high_freq_factor": 0.5}})"},
    {"llama3", config, R"({"original_max_position_embeddings": 32})"},
    {"llama3", config, R"({"rope_scaling": {"original_max_position_embeddings": 0}})"},
    {"qwen3", config,
     R"({"rope_scaling": {"attn_factor": null, "attention_factor": 1.2, "beta_fast": 30, "beta_slow": 2}})"},
    {"qwen3", config, R"({"rope_scaling": {"mscale": 1, "mscale_all_dim": 0.8}})"},
    {"qwen3", config, R"({"rope_scaling": {"truncate": false}})"},
    {"deepseek-v2", config, R"({"rope_scaling": {"attn_factor": 1}})"},
    {"deepseek-v2", config, R"({"rope_scaling": {"attention_factor": 1}})"},
    {"deepseek-v2", config, R"({"rope_scaling": {"mscale": -9}})"},
    {"deepseek-v2", config, R"({"rope_scaling": {"mscale_all_dim": -9}})"},
    {"deepseek-v2", config, R"({"scoring_func": "tanh"})"},
    {"deepseek-v2", config, R"({"topk_method": "random"})"},
    {"deepseek-v2", config, R"({"topk_method": "noaux_tc"})"},
    {"deepseek-v2", config, R"({"norm_topk_prob": true})"},
    {"r1", config, R"({"num_active_heads": 5})"},
    {"r1", config, R"({"num_active_heads": null})"},
    {"r1", config, R"({"num_shared_heads": 0})"},
    {"r1", config, R"({"num_shared_heads": 3})"},
    {"r1", config, R"({"block_share_map": null})"},
    {"r1", config, R"({"block_share_map": [0]})"},
    {"r1", config, R"({"block_share_map": [1, 1]})"},
    {"r1", config, R"({"block_share_map": [0, 2]})"},
    {"llama", config, R"({"architectures": ["GPT2LMHeadModel"]})"},
    {"llama", config, R"({"architectures": []})"},
    {"llama", config, R"({"num_attention_heads": 0})"},
    {"llama", config, R"({"num_attention_heads": 3})"},
    {"llama", config, R"({"head_dim": 16})"},
    {"deepseek-r1-fp8", config, R"({"quantization_config": {"quant_method": "awq"}})"},
    {"deepseek-r1-fp8", config, R"({"quantization_config": {"fmt": "e5m2"}})"},
    {"deepseek-r1-fp8", config, R"({"quantization_config": {"weight_block_size": [128]}})"},
    {"deepseek-r1-fp8", config, R"({"quantization_config": {"weight_block_size": [0, 128]}})"},
    {"llama", config, R"({"vocab_size": 16777216})"},
    {"llama", config, R"({"vocab_size": 100})"},
    {"llama", config, R"({"vocab_size": 300})"},
    {"llama", config, R"({"tie_word_embeddings": 3})"},
    {"llama", config, R"({"rms_norm_eps": "small"})"},
    {"llama", tokenizer, R"({"model": {"type": "Unigram"}})"},
    {"llama", tokenizer, R"({"model": {"dropout": 0.1}})"},
    {"llama", tokenizer, R"({"model": {"byte_fallback": true}})"},
    {"llama", tokenizer, R"({"model": {"end_of_word_suffix": "</w>"}})"},
    {"llama", tokenizer, R"({"model": {"ignore_merges": true}})"},
    {"llama", tokenizer, R"({"padding": {"length": 1}})"},
    {"llama", tokenizer, R"({"unheard": 1})"},
    {"llama", tokenizer, R"({"normalizer": {"type": "NFC"}})"},
    {"llama", tokenizer, R"({"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}]}})"},
    {"llama", tokenizer, R"({"normalizer": {"type": "NFKC"}})"},
    {"llama", tokenizer,
     R"({"decoder": {"type": "Sequence", "decoders": [{"type": "Fuse"}, {"type": "ByteLevel"}]}})"},
    {"llama", tokenizer, R"({"decoder": {"type": "WordPiece"}})"},
    {"llama", tokenizer, R"({"model": {"merges": ["#version: 0.2", ["t", "e"]]}})"},
    {"llama", tokenizer, R"({"model": {"merges": [1]}})"},
    {"llama", tokenizer, R"({"model": {"merges": ["a b c"]}})"},
    {"llama", tokenizer, R"({"model": {"vocab": {"!": null}}})"},
    {"llama", tokenizer, R"({"model": {"vocab": {"A": 1}}})"},
    {"llama", tokenizer, R"({"model": {"vocab": {"A": 100000}}})"},
    {"llama", tokenizer, R"({"model": {"vocab": {"!": null}, "unk_token": "a"}})"},
    {"llama", tokenizer, R"({"model": {"vocab": {"!": null}, "unk_token": "nothing"}})"},
    {"llama", tokenizer, R"({"model": {"vocab": {"!": null}, "unk_token": "a", "fuse_unk": true}})"},
    {"llama", tokenizer, R"({"added_tokens": [{"id": 272, "content": "a", "special": true}]})"},
    {"llama", tokenizer, R"({"added_tokens": [{"id": 272, "content": "<s>", "lstrip": true}]})"},
    {"llama", tokenizer,
     R"({"added_tokens": [{"id": 272, "content": "e\u0301", "normalized": true}], "normalizer": {"type": "NFC"}})"},
    {"llama", tokenizer,
     R"({"added_tokens": [{"id": 272, "content": "<s>", "normalized": true}, {"id": 273, "content": "</s>"}], "normalizer": {"type": "NFC"}})"},
    {"llama", tokenizer,
     R"({"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}})"},
    {"llama", tokenizer, R"({"pre_tokenizer": {"type": "ByteLevel"}})"},
    {"llama", tokenizer, R"({"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false}})"},
    {"llama", tokenizer, R"({"pre_tokenizer": {"type": "Metaspace"}})"},
    {"llama", tokenizer, R"({"pre_tokenizer": {"type": "Digits", "individual_digits": true}})"},
    {"llama", tokenizer,
     R"({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Split", "pattern": {"Regex": "a"}, "behavior": "Removed"}]}})"},
    {"llama", tokenizer,
     R"({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}, {"type": "Digits"}]}})"},
    {"llama", tokenizer,
     R"({"post_processor": {"type": "Sequence", "processors": [{"type": "ByteLevel"}, {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<think>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}], "special_tokens": {"<think>": {"id": "<think>", "ids": [276]}}}]}})"},
    {"llama", tokenizer,
     R"({"post_processor": {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A"}}, {"SpecialToken": {"id": "a"}}, {"SpecialToken": {"id": "b"}}]}})"},
    {"llama", tokenizer,
     R"({"post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "a"}}]}})"},
    {"llama", tokenizer, R"({"post_processor": {"type": "Bert"}})"},
    {"llama", tokenizer,
     R"({"post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "nobody"}}]}})"},
    {"llama", tokenizer,
     R"({"post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "a"}}], "special_tokens": {"a": {"ids": [1, 2]}}}})"},
    {"llama", settings, R"({"bos_token": {"content": "nothing"}})"},
    {"llama", settings, R"({"add_bos_token": false, "bos_token": "nothing"})"},
    {"llama", settings, R"({"pad_token": "nothing", "unk_token": {"content": "a"}})"},
    {"llama", settings,
     R"({"chat_template": [{"name": "default", "template": "x"}, {"name": "tool_use", "template": "y"}]})"},
    {"llama", settings, R"({"chat_template": [{"name": "tool_use", "template": "y"}]})"},
    {"llama", settings, R"({"chat_template": {"default": "x"}})"},
    {"llama", settings, R"({"chat_template": null})"},
    {"llama", settings, R"({"add_bos_token": null, "eos_token": null, "bos_token": null})"},
    {"llama", generation,
     R"({"eos_token_id": [273, 272, 275, 276, 277], "pad_token_id": -1, "bos_token_id": 4294967295})"},
    {"llama", generation, R"({"eos_token_id": -1})"},
    {"llama", generation, R"({"eos_token_id": "x"})"},
    {"llama", processor, R"({"chat_template": "another"})"},
};

void of_variants() {
    int i = 0;
    for (const variant &v : variants) {
        std::vector<std::string> parts(1 + checkpoint_files.size());
        parts[0] = std::string(1, '\3');
        for (const named_file &f : tiny_checkpoint(v.checkpoint))
            for (size_t k = 0; k < checkpoint_files.size(); ++k)
                if (checkpoint_files[k] == f.name) parts[1 + k] = f.bytes;
        std::string &file = parts[static_cast<size_t>(1 + v.file)];
        nlohmann::json tree = file.empty() ? nlohmann::json::object() : nlohmann::json::parse(file);
        tree.merge_patch(nlohmann::json::parse(v.patch));
        file = tree.dump();
        if (i % 20 == 0) parts[10] = "{{ another }}";
        seed("convert", "variant-" + std::to_string(i++), packed(parts));
    }
}

void of_checkpoints() {
    static const format formats[] = {format::q8_0, format::f32,  format::i8,   format::f16,
                                     format::q4_0, format::bf16, format::q4_k, format::q8_0,
                                     format::q8_0, format::i8,   format::f16};
    size_t i = 0;
    for (const std::string &name : tiny_names) {
        std::vector<named_file> files = tiny_checkpoint(name);
        std::string choices(1, static_cast<char>(i * 9));
        std::vector<std::string> parts(1 + checkpoint_files.size());
        parts[0] = choices;
        for (const named_file &f : files)
            for (size_t k = 0; k < checkpoint_files.size(); ++k)
                if (checkpoint_files[k] == f.name) parts[1 + k] = f.bytes;
        parts[4] = R"({"eos_token_id": [273], "bos_token_id": 272})";
        seed("convert", name, packed(parts));
        if (name == "llama") {
            parts[6] = nlohmann::json::parse(parts[3])["chat_template"];
            parts[9] = R"({"chat_template": "x"})";
            parts[8] = parts[5];
            parts[5].clear();
            auto header = nlohmann::json::parse(parts[8].substr(8)), map = nlohmann::json::object();
            for (const auto &[tensor, ignored] : header.items()) map[tensor] = "model-00002.safetensors";
            parts[7] = nlohmann::json({{"metadata", {{"total_size", 1}}}, {"weight_map", map}}).dump();
            seed("convert", "sharded", packed(parts));
            parts[0] = "\x38", parts[1].clear(), parts[7].clear(), parts[8].clear();
            seed("convert", "vocabulary", packed(parts));
        }
        for (const format f : {formats[i], formats[(i + 3) % std::size(formats)]}) {
            const std::string bytes = tiny_gguf(name, f), header = without_data(bytes);
            seed("model", name + "-" + info(f).text, choices + header);
            if (f == formats[i])
                seed("tokenizer", name,
                     packed({header, "Hello, world! 12345 <think>it's</think> caf\xc3\xa9 "
                                     "\xe4\xb8\xad\xe6\x96\x87\xff"}));
        }
        ++i;
    }
}

// Files in older layouts: both parts of kv_b in one tensor, gate and up of the experts in one. Also norms in
// another format than f32.
void of_old_layouts() {
    for (const format type : {format::f32, format::q8_0, format::i8}) {
        const std::string bytes = tiny_gguf("deepseek-v2-lite", type);
        const gguf_file f(os::mapping::borrow(bytes.data(), bytes.size()), "tiny");
        gguf_writer w;
        for (size_t i = 0; i < f.key_count(); ++i) w.set_raw(f.key(i), f.value(i));
        const auto add = [&](const std::string &name, format t, std::vector<int64_t> ne) {
            w.add_tensor(name, t, ne);
            ne.pop_back();
            if (t == format::i8) w.add_tensor(name + "_scale", format::f32, ne);
        };
        for (const gguf_tensor &t : f.tensors()) {
            const std::string name(t.name);
            const auto at = [&](const char *part) { return name.find(part); };
            if (name.ends_with("_scale") || at("attn_v_b") != std::string::npos ||
                at("ffn_up_exps") != std::string::npos)
                continue;
            if (const size_t k_b = at("attn_k_b"); k_b != std::string::npos)
                add(name.substr(0, k_b) + "attn_kv_b.weight", t.type, {t.ne[0] * (t.ne[2] + 16), t.ne[1]});
            else if (const size_t gate = at("ffn_gate_exps"); gate != std::string::npos)
                add(name.substr(0, gate) + "ffn_gate_up_exps.weight", t.type,
                    {t.ne[0], 2 * t.ne[1], t.ne[2]});
            else add(name, at("norm") == std::string::npos ? t.type : format::f16, {t.ne, t.ne + t.rank});
        }
        for (const int choices : {0, 32, 3})
            seed("model", std::string("old-") + info(type).text + "-" + std::to_string(choices),
                 std::string(1, static_cast<char>(choices)) + w.header());
    }
}

// Vocabularies with one fault each, which are refused or cause a remark.
void of_vocabularies() {
    const std::string bytes = tiny_gguf("llama", format::q8_0),
                      text = "Hello <\xef\xbd\x9ctool\xe2\x96\x81"
                             "calls\xe2\x96\x81"
                             "begin\xef\xbd\x9c> caf\xc3\xa9 e\xcc\x81";
    const gguf_file f(os::mapping::borrow(bytes.data(), bytes.size()), "tiny");
    int i = 0;
    const auto with = [&](const std::function<void(gguf_writer &)> &change) {
        gguf_writer w;
        for (size_t k = 0; k < f.key_count(); ++k) w.set_raw(f.key(k), f.value(k));
        change(w);
        ++i;
        seed("tokenizer", "variant-" + std::to_string(i), packed({w.header(), text.substr(i % 2 ? 6 : 0)}));
    };
    const std::vector<std::string_view> views = f.get_strings("tokenizer.ggml.tokens");
    const std::vector<std::string> tokens(views.begin(), views.end());
    const std::vector<int32_t> types = f.get_ints("tokenizer.ggml.token_type");
    const auto with_token = [&](size_t at, const std::string &t, int32_t type) {
        with([&](gguf_writer &w) {
            std::vector<std::string> list = tokens;
            std::vector<int32_t> kinds = types;
            list[at] = t, kinds[at] = type;
            w.set_strings("tokenizer.ggml.tokens", list);
            w.set_i32s("tokenizer.ggml.token_type", kinds);
        });
    };
    for (const auto &[key, value] : {std::pair("model", "spm"),
                                     {"model", "llama"},
                                     {"pre", "gpt-2"},
                                     {"pre", "llama-bpe"},
                                     {"pre", "qwen2"},
                                     {"pre", "deepseek-coder"}})
        with(
            [&, k = key, v = value](gguf_writer &w) { w.set_string(std::string("tokenizer.ggml.") + k, v); });
    with([](gguf_writer &w) { w.erase("tokenizer.ggml.pre"); });
    for (const char *const n : {"nfc", "none", "nfkc"})
        with([&](gguf_writer &w) { w.set_string("deepseek.tokenizer.normalizer", n); });
    with([](gguf_writer &w) { w.set_bool("deepseek.tokenizer.ignore_merges", true); });
    with([](gguf_writer &w) { w.set_i32s("tokenizer.ggml.token_type", std::vector<int32_t>{1, 2}); });
    for (const size_t n : {tokens.size(), size_t(3)})
        with([&](gguf_writer &w) { w.set_f32s("tokenizer.ggml.scores", std::vector<float>(n, 0.5f)); });
    with_token(270, "x", 99), with_token(270, "x", -1), with_token(270, "<0x41>", 6),
        with_token(270, "<0xgg>", 6), with_token(270, std::string(5000, 'x'), 4),
        with_token(270, tokens[1], 1), with_token(0, "\xc4\xa1\xe4\xb8\xad", 1);
    with([&](gguf_writer &w) {
        std::vector<std::string> list = tokens;
        std::vector<int32_t> kinds(types.size(), 4);
        for (std::string &t : list) t += std::string(1000, 'y');
        w.set_strings("tokenizer.ggml.tokens", list), w.set_i32s("tokenizer.ggml.token_type", kinds);
    });
    for (const char *const merge : {"one", "a b c", "nothing here", "t e"})
        with(
            [&](gguf_writer &w) { w.set_strings("tokenizer.ggml.merges", std::vector<std::string>{merge}); });
    for (const char *const duty : {"bos", "eos", "eot", "padding", "unknown"})
        for (const uint32_t id : {0u, 100000u, UINT32_MAX})
            with([&](gguf_writer &w) { w.set_u32(std::string("tokenizer.ggml.") + duty + "_token_id", id); });
    with([](gguf_writer &w) { w.set_string("tokenizer.ggml.eos_token_id", "x"); });
    with([](gguf_writer &w) {
        w.set_u32("tokenizer.ggml.bos_token_id", 100000), w.set_bool("tokenizer.ggml.add_bos_token", true);
    });
    with([](gguf_writer &w) { w.set_string("tokenizer.ggml.padding_token_id", "x"); });
}

// The published texts, from the rows of tests/data/templates.json.
void of_templates() {
    const auto rows = nlohmann::json::parse(read_file(DS_SOURCE_DIR "/tests/data/templates.json"));
    std::set<std::string> texts;
    const std::function<void(const nlohmann::json &)> find = [&](const nlohmann::json &v) {
        if (v.is_string() && v.get_ref<const std::string &>().find("{%") != std::string::npos)
            texts.insert(v.get<std::string>());
        if (v.is_structured())
            for (const auto &x : v) find(x);
    };
    find(rows);
    int i = 0;
    for (const std::string &t : texts) {
        const std::vector<std::string> parts = {
            t,           std::string(1, static_cast<char>(8 * i + i % 6)),
            "system",    "Be kind.",
            "user",      "<think>Hi",
            "assistant", "<think>\nhm</think>\n\nYes <\xef\xbd\x9cUser\xef\xbd\x9c>",
            "tool",      "{\"a\": 1}",
            "user",      "Why?"};
        seed("template", std::to_string(i++), packed(parts));
    }
    for (; i < 32; ++i)
        seed("template", std::to_string(i),
             packed({"{{ bos_token }}{# c #}{%- if x -%} '\\n' {% endif %}",
                     std::string(1, static_cast<char>(8 * i)), "user", "a", "assistant", "b</think>c", "user",
                     "d"}));
}

template <class T> std::string le(T v) { return {reinterpret_cast<const char *>(&v), sizeof v}; }

void of_importances() {
    std::vector<float> sums(256);
    for (size_t i = 0; i < sums.size(); ++i) sums[i] = static_cast<float>(i % 7);
    const std::string values(reinterpret_cast<const char *>(sums.data()), 4 * sums.size());
    gguf_writer w;
    w.set_string("general.type", "imatrix");
    w.set_strings("imatrix.datasets", std::vector<std::string>{"a.txt", "b.txt"});
    w.set_u32("imatrix.chunk_count", 3);
    w.add_tensor("blk.0.ffn_up_exps.weight.in_sum2", format::f32, std::vector<int64_t>{4, 64});
    w.add_tensor("blk.0.ffn_up_exps.weight.counts", format::f32, std::vector<int64_t>{4, 1});
    const float counts[8] = {1, 2, 0, 4};
    seed("imatrix", "gguf", w.header() + values + std::string(reinterpret_cast<const char *>(counts), 32));
    const std::string name = "blk.0.attn_q.weight";
    std::string dat = le<int32_t>(2) + le<int32_t>(static_cast<int32_t>(name.size())) + name +
                      le<int32_t>(2) + le<int32_t>(32) + values.substr(0, 128);
    dat += le<int32_t>(1) + "x" + le<int32_t>(0) + le<int32_t>(1) + le(1.0f) + le<int32_t>(9) +
           le<int32_t>(5) + "a.txt";
    seed("imatrix", "dat", dat);
    calibration c{"",
                  "a model",
                  "0123456789abcdef",
                  10,
                  {{"blk.0.attn_q.weight", std::vector<float>(32, 2.0f), std::vector<float>(32, 1.0f),
                    std::vector<float>(64, 0.5f)}}};
    save(c, scratch() + "/stats");
    seed("imatrix", "calibration", read_file(scratch() + "/stats"));
}

// An adapter of some of each model's matrices; the weights are filled in.
void of_adapters() {
    int i = 0;
    for (const char *const name : {"llama", "qwen2", "deepseek-v2-lite", "r1"}) {
        const std::string bytes = tiny_gguf(name, format::q8_0);
        const gguf_file f(os::mapping::borrow(bytes.data(), bytes.size()), name);
        gguf_writer w;
        w.set_string("general.architecture", f.get_string("general.architecture"));
        w.set_string("general.type", "adapter");
        w.set_string("adapter.type", "lora");
        w.set_f32("adapter.lora.alpha", 8);
        for (const char *const matrix : {"attn_output", "ffn_gate", "ffn_down", "attn_kv_a_mqa", "attn_k"})
            if (const gguf_tensor *const t = f.find_tensor("blk.0." + std::string(matrix) + ".weight")) {
                w.add_tensor(std::string(t->name) + ".lora_a", format::f32, {{2, t->ne[1]}});
                w.add_tensor(std::string(t->name) + ".lora_b", format::f16, {{t->ne[0], 2}});
            }
        seed("adapter", name, std::string(1, static_cast<char>(i++)) + w.header());
    }
}

void others() {
    int i = 0;
    for (const session_engine &e : session_engines()) {
        seed("session", std::to_string(i), std::string(1, static_cast<char>(i)) + e.saved);
        ++i;
    }
    i = 0;
    for (const train_target &t : train_targets()) {
        seed("train", std::to_string(i), std::string(1, static_cast<char>(i)) + t.saved);
        ++i;
    }
    const std::vector<named_file> files = tiny_checkpoint("deepseek-r1-fp8");
    seed("json", "config", files[0].bytes);
    seed("json", "tokenizer_config", files[2].bytes);
    seed(
        "json", "numbers",
        R"({"a": [0, -1, 1.5e3, 18446744073709551615, 1e400, -0.0], "b": {"": null, "\u00e9\ud83d\ude00": "\n"}, "c": true})");
    const std::string header =
        R"({"__metadata__": {"format": "pt"}, "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, "b": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]}})";
    seed("json", "safetensors", "\xff" + le<uint64_t>(header.size()) + header);
    gguf_writer w;
    w.set_string("general.architecture", "llama");
    w.set_u16("a", 1), w.set_i32("b", -1), w.set_u64("c", 1), w.set_f32("d", 0.5f), w.set_bool("e", true);
    w.set_strings("f", std::vector<std::string>{"x", ""}), w.set_i32s("g", std::vector<int32_t>{1, -2}),
        w.set_f32s("h", std::vector<float>{1, 2});
    w.add_tensor("t", format::f32, std::vector<int64_t>{2, 3}),
        w.add_tensor("u", format::q8_0, std::vector<int64_t>{32}),
        w.add_tensor("v", format::f32, std::vector<int64_t>{1});
    std::vector<std::string> parts;
    for (const gguf_writer &p : w.split({.tensors = 1})) {
        parts.push_back(p.header());
        for (size_t t = 0; t < p.tensor_count(); ++t)
            parts.back() += std::string(p.tensor_bytes(t) + p.padding(t), 'z');
    }
    seed("gguf", "parts", "P" + packed(parts));
    std::string whole = w.header();
    for (size_t t = 0; t < w.tensor_count(); ++t) whole += std::string(w.tensor_bytes(t) + w.padding(t), 'z');
    seed("gguf", "whole", whole);
}

}  // namespace
}  // namespace ds::fuzz

int main(int argc, char **argv) {
    if (argc != 2) return 2;
    ds::fuzz::root = argv[1];
    try {
        ds::fuzz::of_checkpoints();
        ds::fuzz::of_variants();
        ds::fuzz::of_old_layouts();
        ds::fuzz::of_vocabularies();
        ds::fuzz::of_templates();
        ds::fuzz::of_importances();
        ds::fuzz::of_adapters();
        ds::fuzz::others();
    } catch (const std::exception &e) {
        fprintf(stderr, "fuzz-seeds: %s\n", e.what());
        return 1;
    }
}
