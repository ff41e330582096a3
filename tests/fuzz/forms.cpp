// Mutations that know the format: trees of JSON, GGUF's keys and tensors, safetensors' header. Results are
// well formed except for the change.
#include "fuzz.h"

#include <nlohmann/json.hpp>

#include <algorithm>

namespace ds::fuzz {

using nlohmann::json;

const words gguf_words = {"general.architecture",
                          "general.alignment",
                          "general.type",
                          "general.name",
                          "adapter",
                          "lora",
                          "adapter.type",
                          "adapter.lora.alpha",
                          "blk.0.attn_output.weight.lora_a",
                          "blk.0.attn_output.weight.lora_b",
                          "llama",
                          "qwen2",
                          "qwen3",
                          "deepseek2",
                          "r1",
                          "split.no",
                          "split.count",
                          "split.tensors.count",
                          "block_count",
                          "context_length",
                          "embedding_length",
                          "feed_forward_length",
                          "attention.head_count",
                          "attention.head_count_kv",
                          "attention.layer_norm_rms_epsilon",
                          "attention.key_length",
                          "attention.value_length",
                          "attention.key_length_mla",
                          "attention.value_length_mla",
                          "attention.q_lora_rank",
                          "attention.kv_lora_rank",
                          "attention.head_used_count",
                          "attention.head_shared_count",
                          "block_share_map",
                          "rope.dimension_count",
                          "rope.freq_base",
                          "rope.scaling.type",
                          "rope.scaling.factor",
                          "rope.scale_linear",
                          "rope.scaling.original_context_length",
                          "rope.scaling.yarn_beta_fast",
                          "rope.scaling.yarn_beta_slow",
                          "rope.scaling.yarn_attn_factor",
                          "rope.scaling.attn_factor",
                          "rope.scaling.yarn_log_multiplier",
                          "vocab_size",
                          "expert_count",
                          "expert_used_count",
                          "expert_feed_forward_length",
                          "expert_shared_count",
                          "expert_weights_scale",
                          "expert_weights_norm",
                          "expert_gating_func",
                          "expert_group_count",
                          "expert_group_used_count",
                          "leading_dense_block_count",
                          "nextn_predict_layers",
                          "none",
                          "linear",
                          "yarn",
                          "nfc",
                          "tokenizer.ggml.model",
                          "gpt2",
                          "tokenizer.ggml.pre",
                          "tokenizer.ggml.tokens",
                          "tokenizer.ggml.token_type",
                          "tokenizer.ggml.merges",
                          "tokenizer.ggml.bos_token_id",
                          "tokenizer.ggml.eos_token_id",
                          "tokenizer.ggml.eot_token_id",
                          "tokenizer.ggml.eom_token_id",
                          "tokenizer.ggml.padding_token_id",
                          "tokenizer.ggml.unknown_token_id",
                          "tokenizer.ggml.add_bos_token",
                          "tokenizer.ggml.add_eos_token",
                          "tokenizer.chat_template",
                          "deepseek.tokenizer.normalizer",
                          "deepseek.tokenizer.ignore_merges",
                          "deepseek-llm",
                          "deepseek-coder",
                          "deepseek-v3",
                          "llama-bpe",
                          "deepseek-r1-qwen",
                          "token_embd.weight",
                          "output.weight",
                          "output_norm.weight",
                          "rope_freqs.weight",
                          "blk.0.attn_q.weight",
                          "blk.0.attn_q.bias",
                          "blk.0.attn_kv_b.weight",
                          "blk.0.attn_k_b.weight",
                          "blk.0.ffn_gate_up_exps.weight",
                          "blk.1.ffn_gate_inp.weight",
                          "blk.0.attn_q.weight_scale",
                          "imatrix",
                          "imatrix.datasets",
                          "imatrix.chunk_count",
                          "blk.0.attn_q.weight.in_sum2",
                          "blk.0.attn_q.weight.counts",
                          "deepseek.calibration.version"};

const words config_words = {"architectures",
                            "LlamaForCausalLM",
                            "Qwen2ForCausalLM",
                            "Qwen3ForCausalLM",
                            "DeepseekV2ForCausalLM",
                            "DeepseekV3ForCausalLM",
                            "num_hidden_layers",
                            "hidden_size",
                            "vocab_size",
                            "num_attention_heads",
                            "num_key_value_heads",
                            "head_dim",
                            "intermediate_size",
                            "max_position_embeddings",
                            "rope_theta",
                            "rope_scaling",
                            "rope_parameters",
                            "rope_type",
                            "type",
                            "factor",
                            "low_freq_factor",
                            "high_freq_factor",
                            "original_max_position_embeddings",
                            "attn_factor",
                            "attention_factor",
                            "mscale",
                            "mscale_all_dim",
                            "beta_fast",
                            "beta_slow",
                            "partial_rotary_factor",
                            "rms_norm_eps",
                            "tie_word_embeddings",
                            "hidden_act",
                            "silu",
                            "attention_bias",
                            "mlp_bias",
                            "use_sliding_window",
                            "sliding_window",
                            "layer_types",
                            "full_attention",
                            "quantization_config",
                            "quant_method",
                            "fp8",
                            "fmt",
                            "e4m3",
                            "weight_block_size",
                            "q_lora_rank",
                            "kv_lora_rank",
                            "qk_nope_head_dim",
                            "qk_rope_head_dim",
                            "v_head_dim",
                            "n_routed_experts",
                            "num_experts_per_tok",
                            "moe_intermediate_size",
                            "n_shared_experts",
                            "first_k_dense_replace",
                            "moe_layer_freq",
                            "topk_method",
                            "noaux_tc",
                            "greedy",
                            "group_limited_greedy",
                            "scoring_func",
                            "softmax",
                            "sigmoid",
                            "norm_topk_prob",
                            "n_group",
                            "topk_group",
                            "routed_scaling_factor",
                            "num_nextn_predict_layers",
                            "yarn",
                            "linear",
                            "llama3",
                            "default",
                            "dynamic",
                            "longrope",
                            "bos_token_id",
                            "eos_token_id",
                            "model_type",
                            "truncate",
                            "dtype",
                            "shape",
                            "data_offsets",
                            "F32",
                            "F16",
                            "BF16",
                            "F8_E4M3",
                            "I64",
                            "weight_map",
                            "model.safetensors",
                            "model-00002.safetensors",
                            "__metadata__"};

const words tokenizer_words = {"version",
                               "truncation",
                               "padding",
                               "added_tokens",
                               "normalizer",
                               "pre_tokenizer",
                               "post_processor",
                               "decoder",
                               "model",
                               "id",
                               "content",
                               "single_word",
                               "lstrip",
                               "rstrip",
                               "normalized",
                               "special",
                               "type",
                               "BPE",
                               "dropout",
                               "unk_token",
                               "continuing_subword_prefix",
                               "end_of_word_suffix",
                               "fuse_unk",
                               "byte_fallback",
                               "ignore_merges",
                               "vocab",
                               "merges",
                               "Sequence",
                               "pretokenizers",
                               "normalizers",
                               "processors",
                               "decoders",
                               "Split",
                               "pattern",
                               "Regex",
                               "String",
                               "behavior",
                               "Isolated",
                               "Removed",
                               "invert",
                               "ByteLevel",
                               "add_prefix_space",
                               "trim_offsets",
                               "use_regex",
                               "Digits",
                               "individual_digits",
                               "NFC",
                               "NFKC",
                               "Replace",
                               "Metaspace",
                               "TemplateProcessing",
                               "single",
                               "pair",
                               "special_tokens",
                               "SpecialToken",
                               "type_id",
                               "A",
                               "ids",
                               "tokens",
                               "bos_token",
                               "eos_token",
                               "pad_token",
                               "unk_token",
                               "add_bos_token",
                               "add_eos_token",
                               "chat_template",
                               "name",
                               "template",
                               "default",
                               "tool_use",
                               "tokenizer_class",
                               "bos_token_id",
                               "eos_token_id",
                               "pad_token_id",
                               "<s>",
                               "</s>",
                               "<think>",
                               "</think>",
                               "<|im_end|>",
                               "<|eot_id|>",
                               "\xc4\xa0",
                               "\xc4\xa0t",
                               "added_tokens_decoder",
                               "additional_special_tokens"};

// ---- JSON

namespace {

std::string text_of(const json &v) { return v.dump(-1, ' ', false, json::error_handler_t::replace); }

json new_value(const words &known, dice &d) {
    switch (d.below(9)) {
    case 0: return interesting(d);
    case 1: return static_cast<int64_t>(interesting(d));
    case 2: return interesting_float(d);
    case 3: return nullptr;
    case 4: return d.one_in(2);
    case 5: return json::array();
    case 6: return json::object();
    case 7: return json::array({d.of(known), interesting(d)});
    default: return d.of(known);
    }
}

// A node on a random path down from the root; `parent` is null for the root.
struct located {
    json *node, *parent = nullptr;
    std::string key = {};
    size_t index = 0;
};
located somewhere(json &root, dice &d) {
    located p{&root};
    while (p.node->is_structured() && !p.node->empty() && (p.node == &root || !d.one_in(4))) {
        json &here = *p.node;
        size_t i = d.below(here.size());
        if (here.is_array()) p = {&here[i], &here, "", i};
        else {
            auto at = here.begin();
            std::advance(at, i);
            p = {&at.value(), &here, at.key(), 0};
        }
    }
    return p;
}

void change_node(json &root, const words &known, dice &d) {
    const located p = somewhere(root, d);
    json &v = *p.node;
    switch (d.below(10)) {
    case 0: v = new_value(known, d); break;
    case 1:
        if (p.parent && p.parent->is_object()) p.parent->erase(p.key);
        else if (p.parent) p.parent->erase(p.index);
        break;
    case 2: {
        const json other = *somewhere(root, d).node;
        v = other;
        break;
    }
    case 3:
        if (p.parent && p.parent->is_object()) {
            json value = v;
            p.parent->erase(p.key);
            (*p.parent)[d.one_in(3) ? changed_bytes(p.key, d) : d.of(known)] = value;
        } else if (p.parent) p.parent->insert(p.parent->begin() + static_cast<ptrdiff_t>(p.index), json(v));
        break;
    case 4:
        if (v.is_object()) v[d.of(known)] = new_value(known, d);
        else v = json::array({v});
        break;
    case 5:
        if (v.is_array())
            v.push_back(v.empty() || d.one_in(3) ? new_value(known, d) : json(v[d.below(v.size())]));
        else v = new_value(known, d);
        break;
    case 6:
        if (v.is_string()) v = changed_bytes(v.get<std::string>(), d);
        else v = new_value(known, d);
        break;
    case 7:
        if (v.is_number_integer()) v = v.get<int64_t>() + static_cast<int64_t>(d.below(5)) - 2;
        else if (v.is_number()) v = v.get<double>() * 0.5;
        break;
    case 8:
        for (uint64_t n = d.below(d.one_in(8) ? 80 : 4) + 1; n > 0; --n) {
            json inner = std::move(v);
            v = json::array();
            v.push_back(std::move(inner));
        }
        break;
    default:
        if (v.is_string()) v = v.get<std::string>() + d.of(known);
        else v = d.of(known);
        break;
    }
}

}  // namespace

std::string changed_json(const std::string &text, const words &known, dice &d) {
    json root = d.one_in(10) ? json(json::value_t::discarded) : json::parse(text, nullptr, false);
    if (root.is_discarded()) return changed_bytes(text, d);
    for (uint64_t n = 1 + d.below(3); n > 0; --n) change_node(root, known, d);
    std::string out = text_of(root);
    // A duplicate member, which a tree cannot represent.
    if (d.one_in(20)) {
        const size_t colon = out.find("\":", d.below(out.size())),
                     begin = colon == std::string::npos ? colon : out.rfind('"', colon - 1);
        if (begin != std::string::npos && colon > 0)
            out.insert(begin, out.substr(begin, colon + 2 - begin) + "0,");
    }
    return out;
}

// ---- safetensors

namespace {

// The offset of the header's end; 0 if there is no header.
size_t safetensors_header(const std::string &bytes) {
    uint64_t n = 0;
    if (bytes.size() < sizeof n) return 0;
    memcpy(&n, bytes.data(), sizeof n);
    return n <= bytes.size() - sizeof n ? static_cast<size_t>(n) + sizeof n : 0;
}
std::string with_length(const std::string &header) {
    const uint64_t n = header.size();
    return std::string(reinterpret_cast<const char *>(&n), sizeof n) + header;
}

}  // namespace

std::string changed_safetensors(const std::string &bytes, dice &d) {
    const size_t end = safetensors_header(bytes);
    if (!end || d.one_in(20)) return changed_bytes(bytes, d);
    const std::string data = bytes.substr(end), header = bytes.substr(8, end - 8);
    if (d.one_in(8)) return with_length(header) + changed_bytes(data, d);
    return with_length(changed_json(header, config_words, d)) + data;
}

std::optional<std::string> filled_safetensors(std::string bytes, size_t most) {
    const size_t end = safetensors_header(bytes);
    if (!end) return bytes;
    const json header =
        json::parse(bytes.begin() + 8, bytes.begin() + static_cast<ptrdiff_t>(end), nullptr, false);
    if (!header.is_object()) return bytes;
    uint64_t room = 0;
    for (const auto &t : header)
        if (t.is_object() && t.contains("data_offsets") && t["data_offsets"].is_array() &&
            t["data_offsets"].size() == 2 && t["data_offsets"][1].is_number_unsigned())
            room = std::max(room, t["data_offsets"][1].get<uint64_t>());
    if (room > most) return std::nullopt;
    fill(bytes, end + room);
    return bytes;
}

// ---- GGUF

namespace {

template <class T> std::string le(T v) { return {reinterpret_cast<const char *>(&v), sizeof v}; }
std::string le_string(const std::string &s) { return le<uint64_t>(s.size()) + s; }

struct reader {
    const std::string &s;
    size_t at = 0;
    bool good = true;
    template <class T> T number() {
        T v{};
        if (s.size() - at < sizeof v) return good = false, v;
        memcpy(&v, &s[at], sizeof v);
        at += sizeof v;
        return v;
    }
    std::string bytes(uint64_t n) {
        if (n > s.size() - at) return good = false, "";
        at += n;
        return s.substr(at - n, n);
    }
    std::string text() { return bytes(number<uint64_t>()); }
};

constexpr uint32_t string_type = 8, array_type = 9, types = 13;
constexpr size_t widths[types] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

// the bytes of a string, or of a number
struct value {
    uint32_t type = 0, element = 0;
    std::vector<std::string> items;
};
struct key {
    std::string name;
    value v;
};
struct tensor_entry {
    std::string name;
    std::vector<uint64_t> dims;
    uint32_t type;
    uint64_t offset;
};
struct gguf_form {
    uint32_t version = 3;
    std::vector<key> keys;
    std::vector<tensor_entry> tensors;
    std::string data;
    int64_t more_keys = 0, more_tensors = 0;  // how many more than exist the header states

    std::string header() const {
        std::string s = "GGUF" + le(version) + le(tensors.size() + static_cast<uint64_t>(more_tensors)) +
                        le(keys.size() + static_cast<uint64_t>(more_keys));
        for (const key &k : keys) {
            s += le_string(k.name) + le(k.v.type);
            const uint32_t type = k.v.type == array_type ? k.v.element : k.v.type;
            if (k.v.type == array_type) s += le(k.v.element) + le<uint64_t>(k.v.items.size());
            for (const std::string &i : k.v.items) s += type == string_type ? le_string(i) : i;
        }
        for (const tensor_entry &t : tensors) {
            s += le_string(t.name) + le<uint32_t>(static_cast<uint32_t>(t.dims.size()));
            for (const uint64_t n : t.dims) s += le(n);
            s += le(t.type) + le(t.offset);
        }
        return s;
    }
    std::string bytes() const {
        std::string s = header();
        if (!tensors.empty()) s.resize((s.size() + 31) / 32 * 32);
        return s + data;
    }
};

std::string item(reader &r, uint32_t type) {
    return type == string_type ? r.text() : r.bytes(type < types ? widths[type] : 0);
}

std::optional<gguf_form> parsed(const std::string &bytes, size_t *header_end = nullptr) {
    gguf_form f;
    reader r{bytes};
    if (r.bytes(4) != "GGUF") return std::nullopt;
    f.version = r.number<uint32_t>();
    const auto tensors = r.number<uint64_t>(), keys = r.number<uint64_t>();
    for (uint64_t i = 0; r.good && i < keys; ++i) {
        key k{r.text(), {r.number<uint32_t>(), 0, {}}};
        if (k.v.type >= types) return std::nullopt;
        if (k.v.type != array_type) k.v.items.push_back(item(r, k.v.type));
        else {
            k.v.element = r.number<uint32_t>();
            const auto n = r.number<uint64_t>();
            if (k.v.element >= types || k.v.element == array_type) return std::nullopt;
            for (uint64_t j = 0; r.good && j < n; ++j) k.v.items.push_back(item(r, k.v.element));
        }
        f.keys.push_back(std::move(k));
    }
    for (uint64_t i = 0; r.good && i < tensors; ++i) {
        tensor_entry t{r.text(), {}, 0, 0};
        const auto rank = r.number<uint32_t>();
        if (rank > 8) return std::nullopt;
        for (uint32_t k = 0; k < rank; ++k) t.dims.push_back(r.number<uint64_t>());
        t.type = r.number<uint32_t>();
        t.offset = r.number<uint64_t>();
        f.tensors.push_back(std::move(t));
    }
    if (!r.good) return std::nullopt;
    const size_t end = std::min(bytes.size(), f.tensors.empty() ? r.at : (r.at + 31) / 32 * 32);
    if (header_end) *header_end = end;
    f.data = bytes.substr(end);
    return f;
}

std::string number_of(uint32_t type, dice &d) {
    if (type == string_type || type >= types) return "";
    const uint64_t n = interesting(d);
    const double x = interesting_float(d);
    const auto f = static_cast<float>(x);
    std::string out = type == 6 ? le(f) : type == 12 ? le(x) : le(n);
    out.resize(widths[type]);
    return out;
}

void change_item(std::string &i, uint32_t type, const words &known, dice &d) {
    if (type == string_type) i = d.one_in(2) ? changed_bytes(i, d) : d.one_in(3) ? "" : d.of(known);
    else i = number_of(type, d);
}

void change_value(value &v, const words &known, dice &d) {
    const uint32_t type = v.type == array_type ? v.element : v.type;
    if (v.type == array_type) {
        switch (d.below(6)) {
        case 0:
            if (!v.items.empty())
                v.items.erase(v.items.begin() + static_cast<ptrdiff_t>(d.below(v.items.size())));
            return;
        case 1: v.items.resize(d.below(v.items.size() + 1)); return;
        case 2:
            if (!v.items.empty()) v.items.push_back(d.of(v.items));
            return;
        case 3:
            if (v.items.size() > 1) std::swap(d.of(v.items), d.of(v.items));
            return;
        case 4:
            if (!v.items.empty()) d.of(v.items) = d.of(v.items);
            return;
        default:
            if (v.items.empty()) v.items.emplace_back();
            change_item(d.of(v.items), type, known, d);
            return;
        }
    }
    if (d.one_in(4)) {  // another type
        v.type = static_cast<uint32_t>(d.below(types));
        v.element = static_cast<uint32_t>(d.below(types));
        if (v.type == array_type && v.element == array_type) v.element = string_type;
        const std::string old = v.items.empty() ? "" : v.items[0];
        v.items.assign(v.type == array_type ? d.below(3) : 1, old);
        const uint32_t now = v.type == array_type ? v.element : v.type;
        if (now != string_type)
            for (std::string &i : v.items) i.resize(widths[now]);
        return;
    }
    if (v.items.empty()) v.items.emplace_back();
    change_item(v.items[0], type, known, d);
}

uint64_t elements_bytes(const tensor_entry &t) {
    static const std::vector<const format_info *> formats = [] {
        std::vector<const format_info *> out;
        for (size_t i = 0; i < static_cast<size_t>(format::count); ++i)
            out.push_back(&info(static_cast<format>(i)));
        return out;
    }();
    uint64_t n = 1;
    for (const uint64_t x : t.dims)
        if (!mul_ok(n, x, &n)) return UINT64_MAX;
    for (const format_info *const f : formats)
        if (f->gguf_id == t.type) return n > UINT64_MAX / 512 ? UINT64_MAX : n / f->block * f->bytes;
    return 0;
}

// Consecutive offsets, as a writer assigns them.
void lay_out(gguf_form &f) {
    uint64_t at = 0;
    for (tensor_entry &t : f.tensors) {
        t.offset = at;
        const uint64_t n = elements_bytes(t);
        if (n > (uint64_t(1) << 40)) return;
        at = (at + n + 31) / 32 * 32;
    }
}

void change_tensor(gguf_form &f, const words &known, dice &d) {
    if (f.tensors.empty()) {
        f.tensors.push_back({d.of(known), {32}, 0, 0});
        return;
    }
    tensor_entry &t = d.of(f.tensors);
    switch (d.below(9)) {
    case 0:
        if (!t.dims.empty()) d.of(t.dims) = d.one_in(3) ? interesting(d) : d.below(130);
        break;
    case 1: t.dims.resize(d.below(6), 1); break;
    case 2: t.type = static_cast<uint32_t>(d.one_in(6) ? interesting(d) : d.below(42)); break;
    case 3: t.offset = d.one_in(2) ? interesting(d) : d.below(64) * 32; return;
    case 4:
        t.name = d.one_in(2) ? changed_bytes(t.name, d) : d.one_in(2) ? d.of(f.tensors).name : d.of(known);
        break;
    case 5:
        f.tensors.push_back(tensor_entry(t));
        if (d.one_in(2)) f.tensors.back().name += d.one_in(2) ? "_scale" : "x";
        break;
    case 6: std::swap(t, d.of(f.tensors)); break;
    case 7:
        if (t.dims.size() > 1) std::swap(t.dims[0], t.dims[1]);
        break;
    default: f.tensors.erase(f.tensors.begin() + (&t - f.tensors.data())); break;
    }
    if (!d.one_in(8)) lay_out(f);
}

void change_data(std::string &data, dice &d) {
    if (data.size() < 8 || d.one_in(2)) {
        const size_t keep = d.below(data.size() + 1), n = std::min<size_t>(256, data.size() - keep);
        data.replace(keep, n, changed_bytes(data.substr(keep, n), d));
        return;
    }
    const auto f = static_cast<float>(interesting_float(d));
    memcpy(&data[d.below(data.size() / 4) * 4], &f, sizeof f);
}

void change_form(gguf_form &f, const words &known, dice &d) {
    switch (d.below(12)) {
    case 0:
    case 1:
    case 2:
    case 3:
    case 4:
        if (!f.keys.empty()) change_value(d.of(f.keys).v, known, d);
        return;
    case 5:
        if (!f.keys.empty()) f.keys.erase(f.keys.begin() + static_cast<ptrdiff_t>(d.below(f.keys.size())));
        return;
    case 6: {
        if (f.keys.empty()) return;
        key k = d.of(f.keys);
        const std::string old = f.keys[0].v.items.empty() ? "" : f.keys[0].v.items[0], &word = d.of(known);
        k.name = d.one_in(4) ? changed_bytes(k.name, d)
                 : word.find("general.") == 0 || word.find("token") == 0 || d.one_in(4) ? word
                                                                                        : old + "." + word;
        if (d.one_in(2)) change_value(k.v, known, d);
        f.keys.push_back(std::move(k));
        return;
    }
    case 7:
    case 8:
    case 9: change_tensor(f, known, d); return;
    case 10: change_data(f.data, d); return;
    default:
        if (d.one_in(4)) f.version = static_cast<uint32_t>(interesting(d));
        else if (d.one_in(3)) f.more_keys = static_cast<int64_t>(interesting(d));
        else if (d.one_in(2)) f.more_tensors = static_cast<int64_t>(interesting(d));
        else f.data.resize(d.below(f.data.size() + 1));
    }
}

}  // namespace

std::string changed_gguf(const std::string &bytes, const words &known, dice &d) {
    std::optional<gguf_form> f = parsed(bytes);
    if (!f || d.one_in(16)) return changed_bytes(bytes, d);
    for (uint64_t n = 1 + d.below(3); n > 0; --n) change_form(*f, known, d);
    return f->bytes();
}

std::optional<std::string> filled_gguf(std::string bytes, size_t most) {
    size_t end = 0;
    const std::optional<gguf_form> f = parsed(bytes, &end);
    if (!f) return bytes;
    uint64_t room = 0;
    for (const tensor_entry &t : f->tensors) {
        const uint64_t n = elements_bytes(t);
        if (n > most || t.offset > most) return std::nullopt;
        room = std::max(room, t.offset + n);
    }
    if (room > most) return std::nullopt;
    fill(bytes, end + room);
    return bytes;
}

std::string without_data(const std::string &bytes) {
    if (const std::optional<gguf_form> f = parsed(bytes))
        return bytes.substr(0, bytes.size() - f->data.size());
    return bytes.substr(0, safetensors_header(bytes));
}

}  // namespace ds::fuzz
