// config.json (as transformers writes it) to GGUF keys (as llama.cpp's gguf-py/gguf/constants.py names them).
// Invariant: a field that changes the forward pass and that no key can express is refused, never dropped.

#include "config.h"

#include <algorithm>
#include <cmath>

namespace ds {

namespace {

constexpr uint64_t max_count = 1u << 30;

struct count_row {
    const char *field, *key;
};
constexpr count_row counts[] = {
    {"num_hidden_layers", "block_count"},
    {"max_position_embeddings", "context_length"},
    {"hidden_size", "embedding_length"},
    {"intermediate_size", "feed_forward_length"},
    {"num_attention_heads", "attention.head_count"},
    {"vocab_size", "vocab_size"},
};

void refuse_unsupported(const json_node &config) {
    read_fp8_blocks(config);
    if (config.has("hidden_act") && config.at("hidden_act").text() != "silu")
        config.at("hidden_act")
            .fail(status::unsupported,
                  ds::quoted(config.at("hidden_act").text()) + " is not known; known: silu");
    if (config.flag("use_sliding_window", false))
        config.at("use_sliding_window").fail(status::unsupported, "sliding-window attention is not known");
    if (config.flag("mlp_bias", false))
        config.at("mlp_bias").fail(status::unsupported, "biases of the feed-forward layers are not known");
    if (config.whole("moe_layer_freq", max_count, 1) != 1)
        config.at("moe_layer_freq").fail(status::unsupported, "only 1 is known");
    if (!config.has("layer_types")) return;
    const json_node types = config.at("layer_types").array();
    for (size_t i = 0; i < types.size(); ++i)
        if (types.at(i).text() != "full_attention")
            types.at(i).fail(status::unsupported,
                             ds::quoted(types.at(i).text()) + " is not known; known: full_attention");
}

double positive(const json_node &n) {
    if (!(n.number() > 0) || !std::isfinite(n.number())) n.fail(status::format, "not a positive number");
    return n.number();
}

bool is_latent(const json_node &config) { return config.has("kv_lora_rank"); }

// ---- Rope

// RoPE's parameters are in rope_theta and rope_scaling (transformers 4), or together in rope_parameters
// (transformers 5). They are read as transformers 5 reads both: from rope_scaling unless it is empty, else
// from rope_parameters. What is missing there is taken from the configuration itself.

bool has_members(const json_node &config, const char *field) {
    return config.has(field) && config.at(field).object().size() > 0;
}

// The parameters may be given for each type of layer. Qwen's classes create layer_types where the file has
// none; full_attention is the only type supported.
json_node of_layer_type(const json_node &rope, const json_node &config) {
    const bool by_type =
        config.has("layer_types") || std::string_view(checkpoint_arch(config).name).starts_with("qwen");
    return by_type && rope.size() == 1 && rope.has("full_attention") ? rope.at("full_attention").object()
                                                                     : rope;
}

std::optional<json_node> rope_node(const json_node &config) {
    for (const char *const field : {"rope_scaling", "rope_parameters"})
        if (has_members(config, field)) return of_layer_type(config.at(field), config);
    return {};
}

// rope_parameters, where rope_scaling takes precedence. Its fields must not be lost.
std::optional<json_node> other_rope_node(const json_node &config) {
    if (!has_members(config, "rope_scaling") || !has_members(config, "rope_parameters")) return {};
    return of_layer_type(config.at("rope_parameters"), config);
}

std::string type_in(const json_node &rope) { return rope.text("rope_type", rope.text("type", "default")); }
std::string scaling_type(const json_node &config) {
    const std::optional<json_node> rope = rope_node(config);
    return rope ? type_in(*rope) : "default";
}

// A field that may be in several objects: the first that has it takes precedence. A remark names those that
// differ.
std::optional<json_node> first_of(const std::vector<std::optional<json_node>> &nodes, const char *field,
                                  const job &j) {
    std::optional<json_node> found;
    for (const std::optional<json_node> &p : nodes) {
        if (!p || !p->has(field)) continue;
        const json_node n = p->at(field);
        if (!found) found = n;
        else if (!n.same_as(*found))
            j.remark(found->file() + ": " + ds::quoted(n.field()) + " differs from " +
                     ds::quoted(found->field()) + ", which counts");
    }
    return found;
}

double rope_theta(const json_node &config, const job &j) {
    const std::optional<json_node> n =
        first_of({rope_node(config), config, other_rope_node(config)}, "rope_theta", j);
    return n ? positive(*n) : 10000.0;
}

// The context before scaling. The configuration's own field takes precedence over the one in the RoPE
// parameters.
uint64_t original_context(const json_node &config, const job &j) {
    const std::optional<json_node> n =
        first_of({config, rope_node(config)}, "original_max_position_embeddings", j);
    const json_node found = n ? *n : config.at("max_position_embeddings");
    if (found.whole(max_count) == 0) found.fail(status::format, "not positive");
    return found.whole(max_count);
}

// The fields of each type of scaling. transformers ignores those of another type; so do we, with a remark.
struct rope_field {
    const char *name, *types;
};
constexpr rope_field rope_fields[] = {
    {"rope_type", "default linear llama3 yarn"},
    {"type", "default linear llama3 yarn"},
    {"rope_theta", "default linear llama3 yarn"},
    {"partial_rotary_factor", "default linear llama3 yarn"},
    {"factor", "linear llama3 yarn"},
    {"original_max_position_embeddings", "llama3 yarn"},
    {"low_freq_factor", "llama3"},
    {"high_freq_factor", "llama3"},
    {"beta_fast", "yarn"},
    {"beta_slow", "yarn"},
    {"attention_factor", "yarn"},
    {"attn_factor", "yarn"},
    {"mscale", "yarn"},
    {"mscale_all_dim", "yarn"},
    {"truncate", "yarn"},
};

void check_rope_fields(const json_node &rope, const job &j) {
    const std::string type = type_in(rope);
    if (type != "default" && type != "linear" && type != "llama3" && type != "yarn")
        rope.fail(status::unsupported,
                  "rope scaling " + ds::quoted(type) + " is not known; known: default, linear, llama3, yarn");
    if (rope.has("type") && rope.at("type").text() != type)
        j.remark(rope.file() + ": " + ds::quoted(rope.at("type").field()) +
                 " differs from rope_type, which counts");
    for (const std::string &name : rope.names()) {
        const auto row = std::find_if(std::begin(rope_fields), std::end(rope_fields),
                                      [&](const rope_field &f) { return name == f.name; });
        if (!rope.has(name)) continue;
        if (row == std::end(rope_fields)) rope.at(name).fail(status::unsupported, "is not known");
        if (std::string_view(row->types).find(type) == std::string_view::npos)
            j.remark(rope.file() + ": " + ds::quoted(rope.at(name).field()) +
                     " has no meaning with rope scaling " + ds::quoted(type));
    }
}

// rope_parameters beside a rope_scaling may repeat its fields, and may have rope_theta.
void check_other_rope(const json_node &rope, const json_node &other) {
    for (const std::string &name : other.names()) {
        if (name == "rope_theta" || !other.has(name)) continue;
        if ((name == "rope_type" || name == "type") && other.at(name).text() == "default") continue;
        if (!rope.has(name) || !rope.at(name).same_as(other.at(name)))
            other.at(name).fail(status::unsupported, "rope_scaling, which counts, does not say the same");
    }
}

void check_rope(const json_node &config, const job &j) {
    if (config.has("rope_interleave") && !config.at("rope_interleave").flag() && is_latent(config))
        config.at("rope_interleave").fail(status::unsupported, "only true is known");
    for (const std::optional<json_node> &rope :
         {std::optional(config), rope_node(config), other_rope_node(config)})
        if (rope && rope->number("partial_rotary_factor", 1) != 1)
            rope->at("partial_rotary_factor").fail(status::unsupported, "only 1 is known");
    if (const std::optional<json_node> rope = rope_node(config)) check_rope_fields(*rope, j);
    if (const std::optional<json_node> other = other_rope_node(config))
        check_other_rope(*rope_node(config), *other);
}

// The factor on YaRN's usual magnitude, 0.1 ln(factor) + 1. A checkpoint gives the whole magnitude
// (attention_factor), or two mscale exponents, the quotient of whose magnitudes it is, or (Qwen) this factor
// itself, attn_factor.
double yarn_multiplier(const json_node &s, double factor) {
    const auto magnitude = [&](double m) { return factor > 1 ? 0.1 * m * std::log(factor) + 1 : 1.0; };
    if (s.has("attention_factor")) return positive(s.at("attention_factor")) / magnitude(1);
    if (s.number("mscale", 0) != 0 && s.number("mscale_all_dim", 0) != 0)
        return magnitude(positive(s.at("mscale"))) / magnitude(positive(s.at("mscale_all_dim"))) /
               magnitude(1);
    return s.has("attn_factor") ? positive(s.at("attn_factor")) : 1.0;
}

// DeepSeek's latent attention applies YaRN's magnitude to the scores, by mscale_all_dim, and multiplies RoPE
// by the quotient of mscale's and mscale_all_dim's magnitudes, which is 1 in the published models. The key
// attn_factor is therefore RoPE's whole multiplier here. mscale defaults to 1 and mscale_all_dim to 0, as in
// modeling_deepseek.py. If only one of the two is absent, transformers treats both as absent in RoPE (0.1
// ln(factor) + 1), and its DeepseekV2 has no magnitude in the scores at all. We follow the published code.
double latent_multiplier(const json_node &s, double factor) {
    if (s.has("attn_factor"))
        s.at("attn_factor")
            .fail(status::unsupported, "is not known where attention is latent; known: attention_factor, or "
                                       "mscale and mscale_all_dim");
    if (s.has("attention_factor")) return positive(s.at("attention_factor"));
    const double log_factor = factor > 1 ? std::log(factor) : 0.0;
    const double one = 0.1 * s.number("mscale", 1) * log_factor + 1,
                 all = 0.1 * s.number("mscale_all_dim", 0) * log_factor + 1;
    if (!(one > 0)) s.at("mscale").fail(status::format, "gives a magnitude that is not positive");
    if (!(all > 0)) s.at("mscale_all_dim").fail(status::format, "gives a magnitude that is not positive");
    return one / all;
}

void set_yarn_keys(const json_node &s, bool latent, uint64_t original, const std::string &prefix,
                   gguf_writer &w) {
    const double factor = positive(s.at("factor")),
                 multiplier = latent ? latent_multiplier(s, factor) : yarn_multiplier(s, factor);
    if (latent)
        w.set_f32(prefix + "yarn_log_multiplier", static_cast<float>(0.1 * s.number("mscale_all_dim", 0)));
    if (!s.flag("truncate", true)) s.at("truncate").fail(status::unsupported, "only true is known");
    w.set_string(prefix + "type", "yarn");
    w.set_f32(prefix + "factor", static_cast<float>(factor));
    w.set_u32(prefix + "original_context_length", static_cast<uint32_t>(original));
    if (multiplier != 1) w.set_f32(prefix + "attn_factor", static_cast<float>(multiplier));
    if (s.has("beta_fast"))
        w.set_f32(prefix + "yarn_beta_fast", static_cast<float>(positive(s.at("beta_fast"))));
    if (s.has("beta_slow"))
        w.set_f32(prefix + "yarn_beta_slow", static_cast<float>(positive(s.at("beta_slow"))));
}

void set_scaling_keys(const json_node &config, const std::string &prefix, gguf_writer &w, const job &j) {
    const std::string type = scaling_type(config);
    // llama3's scaling is in the tensor rope_freqs instead
    if (type == "default" || type == "llama3") return;
    const json_node s = *rope_node(config);
    if (type == "yarn") return set_yarn_keys(s, is_latent(config), original_context(config, j), prefix, w);
    w.set_string(prefix + "type", "linear");
    w.set_f32(prefix + "factor", static_cast<float>(positive(s.at("factor"))));
}

// The model's context. Qwen 2.5's model card adds YaRN to a configuration and leaves max_position_embeddings
// unchanged: vLLM derives the product. With less in the file the scaling could not be used.
uint64_t context_length(const json_node &config) {
    const uint64_t given = config.at("max_position_embeddings").whole(max_count);
    if (scaling_type(config) != "yarn") return given;
    const double product =
        static_cast<double>(original_context(config, {})) * positive(rope_node(config)->at("factor"));
    return std::max(given, static_cast<uint64_t>(std::min(product, static_cast<double>(max_count))));
}

// Latent attention in llama.cpp's keys, as of 2025: one key head, of the latent and the rotated part; with
// the suffix _mla the sizes of a head before absorption.
void set_latent_keys(const json_node &config, const std::string &prefix, gguf_writer &w) {
    const auto whole = [&](const char *field) {
        return static_cast<uint32_t>(config.at(field).whole(max_count));
    };
    const uint32_t rank = whole("kv_lora_rank"), rope = whole("qk_rope_head_dim");
    w.set_u32(prefix + "attention.head_count_kv", 1);
    w.set_u32(prefix + "attention.q_lora_rank", config.has("q_lora_rank") ? whole("q_lora_rank") : 0);
    w.set_u32(prefix + "attention.kv_lora_rank", rank);
    w.set_u32(prefix + "attention.key_length", rank + rope);
    w.set_u32(prefix + "attention.value_length", rank);
    w.set_u32(prefix + "attention.key_length_mla", whole("qk_nope_head_dim") + rope);
    w.set_u32(prefix + "attention.value_length_mla", whole("v_head_dim"));
}

// The choice of experts: topk_method, scoring_func and the groups must be one of the published combinations.
void set_expert_keys(const json_node &config, const std::string &prefix, gguf_writer &w) {
    const auto whole = [&](const char *field, uint64_t absent) {
        return static_cast<uint32_t>(config.whole(field, max_count, absent));
    };
    const bool sigmoid = config.text("scoring_func", "softmax") == "sigmoid";
    const std::string method = config.text("topk_method", sigmoid ? "noaux_tc" : "greedy");
    if (!sigmoid && config.text("scoring_func", "softmax") != "softmax")
        config.at("scoring_func").fail(status::unsupported, "is not known; known: softmax, sigmoid");
    if (method != "noaux_tc" && method != "greedy" && method != "group_limited_greedy")
        config.at("topk_method")
            .fail(status::unsupported, "is not known; known: greedy, group_limited_greedy, noaux_tc");
    if ((method == "noaux_tc") != sigmoid)
        config.at("topk_method")
            .fail(status::unsupported,
                  "noaux_tc is known with sigmoid scores alone, the others with softmax");
    const bool grouped = method != "greedy";
    // DeepSeek-V2's gate either divides the weights by their sum or multiplies them by the factor; V3's
    // sigmoid gate does both (modeling_deepseek.py of each). transformers' DeepseekV2 differs: it never
    // divides and always multiplies.
    const bool norm = config.flag("norm_topk_prob", false) &&
                      (sigmoid || config.at("num_experts_per_tok").whole(max_count) > 1);
    const double scale = positive(config.at("routed_scaling_factor"));
    w.set_u32(prefix + "leading_dense_block_count", whole("first_k_dense_replace", 0));
    w.set_u32(prefix + "expert_count", static_cast<uint32_t>(config.at("n_routed_experts").whole(max_count)));
    w.set_u32(prefix + "expert_used_count",
              static_cast<uint32_t>(config.at("num_experts_per_tok").whole(max_count)));
    w.set_u32(prefix + "expert_feed_forward_length",
              static_cast<uint32_t>(config.at("moe_intermediate_size").whole(max_count)));
    w.set_u32(prefix + "expert_shared_count", whole("n_shared_experts", 0));
    w.set_u32(prefix + "expert_gating_func", sigmoid ? 2 : 1);
    w.set_u32(prefix + "expert_group_count", grouped ? whole("n_group", 1) : 1);
    w.set_u32(prefix + "expert_group_used_count", grouped ? whole("topk_group", 1) : 1);
    w.set_f32(prefix + "expert_weights_scale", static_cast<float>(norm && !sigmoid ? 1 : scale));
    w.set_bool(prefix + "expert_weights_norm", norm);
}

// Routed heads, and the block of weights that each layer runs.
void set_head_keys(const json_node &config, const std::string &prefix, gguf_writer &w) {
    w.set_u32(prefix + "attention.head_used_count",
              static_cast<uint32_t>(config.at("num_active_heads").whole(max_count)));
    w.set_u32(prefix + "attention.head_shared_count",
              static_cast<uint32_t>(config.whole("num_shared_heads", max_count, 0)));
    if (!config.has("block_share_map")) return;
    std::vector<int32_t> map;
    config.at("block_share_map").array().each([&](size_t, const json_node &block) {
        map.push_back(static_cast<int32_t>(block.whole(max_count)));
    });
    w.set_i32s(prefix + "block_share_map", map);
}

}  // namespace

static std::string classes_known() {
    std::string out;
    for (const arch *const a : architectures())
        out += (out.empty() ? "" : " ") + std::string(a->checkpoint_class);
    for (size_t at = 0; (at = out.find(' ', at)) != std::string::npos; at += 2) out.replace(at, 1, ", ");
    return out;
}

const arch &checkpoint_arch(const json_node &config) {
    const json_node classes = config.at("architectures").array();
    if (classes.size() != 1) classes.fail(status::format, "not one name");
    const arch *const a = arch_by_checkpoint_class(classes.at(size_t(0)).text());
    if (!a)
        classes.fail(status::unsupported,
                     ds::quoted(classes.at(size_t(0)).text()) + " is not known; known: " + classes_known());
    return *a;
}

void set_architecture_keys(const json_node &config, gguf_writer &w, const job &j) {
    const std::string prefix = std::string(checkpoint_arch(config).name) + ".";
    refuse_unsupported(config);
    w.set_string("general.architecture", checkpoint_arch(config).name);
    check_rope(config, j);
    for (const count_row &c : counts)
        w.set_u32(prefix + c.key, static_cast<uint32_t>(config.at(c.field).whole(max_count)));
    w.set_u32(prefix + "context_length", static_cast<uint32_t>(context_length(config)));
    // GGUF counts these layers as blocks
    if (const uint64_t nextn = config.whole("num_nextn_predict_layers", max_count, 0)) {
        w.set_u32(prefix + "block_count",
                  static_cast<uint32_t>(config.at("num_hidden_layers").whole(max_count) + nextn));
        w.set_u32(prefix + "nextn_predict_layers", static_cast<uint32_t>(nextn));
    }

    const uint64_t heads = config.at("num_attention_heads").whole(max_count),
                   hidden = config.at("hidden_size").whole(max_count);
    if (heads == 0) config.at("num_attention_heads").fail(status::format, "not positive");
    if (!config.has("head_dim") && !is_latent(config) && hidden % heads != 0)
        config.at("hidden_size")
            .fail(status::format, "not a multiple of num_attention_heads, and no head_dim is given");
    const auto head_size = static_cast<uint32_t>(config.whole("head_dim", max_count, hidden / heads));
    if (is_latent(config)) {
        set_latent_keys(config, prefix, w);
        if (&checkpoint_arch(config) == arch_by_name("r1")) set_head_keys(config, prefix, w);
        else set_expert_keys(config, prefix, w);
    } else {
        w.set_u32(prefix + "attention.head_count_kv",
                  static_cast<uint32_t>(config.whole("num_key_value_heads", max_count, heads)));
        if (config.has("head_dim")) {
            w.set_u32(prefix + "attention.key_length", head_size);
            w.set_u32(prefix + "attention.value_length", head_size);
        }
    }
    w.set_f32(prefix + "attention.layer_norm_rms_epsilon",
              static_cast<float>(positive(config.at("rms_norm_eps"))));
    w.set_u32(prefix + "rope.dimension_count",
              is_latent(config) ? static_cast<uint32_t>(config.at("qk_rope_head_dim").whole(max_count))
                                : head_size);
    w.set_f32(prefix + "rope.freq_base", static_cast<float>(rope_theta(config, j)));
    set_scaling_keys(config, prefix + "rope.scaling.", w, j);
}

bool has_llama3_scaling(const json_node &config) { return scaling_type(config) == "llama3"; }

llama3_scaling read_llama3_scaling(const json_node &config) {
    const json_node s = *rope_node(config);
    const llama3_scaling out{positive(s.at("factor")), positive(s.at("low_freq_factor")),
                             positive(s.at("high_freq_factor")),
                             static_cast<double>(original_context(config, {}))};
    if (!(out.high > out.low)) s.at("high_freq_factor").fail(status::format, "not above low_freq_factor");
    return out;
}

std::vector<float> llama3_divisors(const llama3_scaling &s, double base, int64_t rotated) {
    std::vector<float> out;
    for (int64_t i = 0; i < rotated / 2; ++i) {
        const double wavelength =
            2 * M_PI * std::pow(base, 2.0 * static_cast<double>(i) / static_cast<double>(rotated));
        // within the original context: frequencies with many rotations stay, those with few are stretched
        const double rotations = s.original_context / wavelength;
        const double smooth = (rotations - s.low) / (s.high - s.low);
        const double divisor = rotations > s.high  ? 1.0
                               : rotations < s.low ? s.factor
                                                   : 1.0 / ((1 - smooth) / s.factor + smooth);
        out.push_back(static_cast<float>(divisor));
    }
    return out;
}

// The fields of quantization_config on activations do not concern the weights.
std::optional<fp8_blocks> read_fp8_blocks(const json_node &config) {
    if (!config.has("quantization_config")) return {};
    const json_node q = config.at("quantization_config").object();
    const std::string method = q.text("quant_method", "no method named");
    if (method != "fp8")
        q.fail(status::unsupported,
               "weights that are quantized already (" + ds::quoted(method) + ") are not read; known: fp8");
    if (q.has("fmt") && q.at("fmt").text() != "e4m3")
        q.at("fmt").fail(status::unsupported, ds::quoted(q.at("fmt").text()) + " is not known; known: e4m3");
    const json_node size = q.at("weight_block_size").array();
    if (size.size() != 2) size.fail(status::format, "not two numbers");
    const fp8_blocks b{static_cast<int64_t>(size.at(size_t(0)).whole(max_count)),
                       static_cast<int64_t>(size.at(1).whole(max_count))};
    if (b.rows == 0 || b.columns == 0) size.fail(status::format, "not positive");
    return b;
}

bool ties_embeddings(const json_node &config) { return config.flag("tie_word_embeddings", false); }

}  // namespace ds
