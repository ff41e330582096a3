// Random files. A shape is written as the config.json of such a checkpoint, so that its keys are set as for
// every checkpoint. Shapes: config.json of the models that deepseek-ai published on Hugging Face
// (docs/formats.md).

#include "synth.h"

#include "config.h"
#include "encode.h"

#include "../tensor/random.h"

#include <cassert>
#include <cmath>
#include <nlohmann/json.hpp>

namespace ds {

namespace {

struct shape_row {
    const char *name, *checkpoint_class;
    int layers, hidden, heads, kv_heads, head_size, ffn, vocab, context;
    double rope_base;
    const char *scaling;  // JSON
    const char *pre;
    bool tied;
    const char *more = "{}";  // JSON: fields of this class alone
    int blocks = 0;           // of weights, which the layers share; 0: each layer has its own
};
constexpr const char *llama3 =
    R"({"rope_type":"llama3","factor":8,"low_freq_factor":1,"high_freq_factor":4,
    "original_max_position_embeddings":8192})";
constexpr const char *yarn =
    R"({"rope_type":"yarn","factor":4,"original_max_position_embeddings":32768,"attn_factor":1})";
constexpr const char *latent_yarn =
    R"({"type":"yarn","factor":40,"original_max_position_embeddings":4096,"beta_fast":32,"beta_slow":1,
    "mscale":0.707,"mscale_all_dim":0.707})";
constexpr const char *v2_lite =
    R"({"q_lora_rank":null,"kv_lora_rank":512,"qk_nope_head_dim":128,"qk_rope_head_dim":64,"v_head_dim":128,
    "n_routed_experts":64,"n_shared_experts":2,"num_experts_per_tok":6,"moe_intermediate_size":1408,
    "first_k_dense_replace":1,"routed_scaling_factor":1})";
constexpr const char *tiny_deepseek2 =
    R"({"q_lora_rank":64,"kv_lora_rank":64,"qk_nope_head_dim":32,"qk_rope_head_dim":32,"v_head_dim":32,
    "n_routed_experts":8,"n_shared_experts":1,"num_experts_per_tok":2,"moe_intermediate_size":64,
    "first_k_dense_replace":1,"routed_scaling_factor":2.5,"scoring_func":"sigmoid","topk_method":"noaux_tc",
    "n_group":4,"topk_group":2,"norm_topk_prob":true})";
constexpr const char *r1_heads =
    R"({"kv_lora_rank":512,"qk_nope_head_dim":128,"qk_rope_head_dim":64,"v_head_dim":128,
    "num_active_heads":20,"num_shared_heads":8})";
constexpr const char *tiny_r1 =
    R"({"q_lora_rank":64,"kv_lora_rank":64,"qk_nope_head_dim":32,"qk_rope_head_dim":32,"v_head_dim":32,
    "num_active_heads":3,"num_shared_heads":1})";
constexpr const char *linear2 = R"({"type":"linear","factor":2})",
                     *linear4 = R"({"type":"linear","factor":4})";
constexpr const char *none = "null", *qwen2 = "Qwen2ForCausalLM", *qwen3 = "Qwen3ForCausalLM",
                     *llama = "LlamaForCausalLM", *v2 = "DeepseekV2ForCausalLM",
                     *v3 = "DeepseekV3ForCausalLM", *r1_qwen = "deepseek-r1-qwen", *llama_bpe = "llama-bpe",
                     *v2_pre = "deepseek-llm", *v3_pre = "deepseek-v3", *r1 = "R1ForCausalLM",
                     *r1_zero = "R1ZeroForCausalLM", *coder_pre = "deepseek-coder";
constexpr shape_row shapes[] = {
    // clang-format off
    // columns: the fields of shape_row
    {"r1-1.5b",     qwen2, 28, 1536, 12,  2, 128,  8960, 151936, 131072, 1e4, none,        r1_qwen,   false},
    {"r1-7b",       qwen2, 28, 3584, 28,  4, 128, 18944, 152064, 131072, 1e4, none,        r1_qwen,   false},
    {"r1-8b",       llama, 32, 4096, 32,  8, 128, 14336, 128256, 131072, 5e5, llama3,      llama_bpe, false},
    {"r1-14b",      qwen2, 48, 5120, 40,  8, 128, 13824, 152064, 131072, 1e6, none,        r1_qwen,   false},
    {"r1-32b",      qwen2, 64, 5120, 40,  8, 128, 27648, 152064, 131072, 1e6, none,        r1_qwen,   false},
    {"r1-70b",      llama, 80, 8192, 64,  8, 128, 28672, 128256, 131072, 5e5, llama3,      llama_bpe, false},
    {"r1-0528-8b",  qwen3, 36, 4096, 32,  8, 128, 12288, 151936, 131072, 1e6, yarn,        r1_qwen,   false},
    {"small-llama", llama,  4,  256,  4,  2,  64,   768,    512,   4096, 5e5, none,        llama_bpe, false},
    {"v2-lite",     v2,    27, 2048, 16, 16, 192, 10944, 102400, 163840, 1e4, latent_yarn, v2_pre,    false,
     v2_lite},
    {"r1-zero-6.7b", r1_zero, 32, 4096, 32, 32, 128, 11008, 32256, 16384, 1e5, linear4,    coder_pre, false},
    {"r1-13b",      r1,    71, 4096, 32, 32, 192, 11008,  32256,  32768, 1e5, linear2,     coder_pre, false,
     r1_heads, 41},
    {"tiny-llama",  llama,  2,  128,  4,  2,  32,   256,    512,   4096, 5e5, llama3,      llama_bpe, true},
    {"tiny-qwen2",  qwen2,  2,  128,  4,  2,  32,   256,    512,   4096, 1e4, none,        r1_qwen,   false},
    {"tiny-qwen3",  qwen3,  2,  128,  4,  2,  64,   256,    512,   4096, 1e6, yarn,        r1_qwen,   false},
    {"tiny-deepseek2", v3, 2,  128,  4,  4,  64,   256,    512,   4096, 1e4, latent_yarn, v3_pre,    false,
     tiny_deepseek2},
    {"tiny-r1",     r1,     4,  128,  4,  4,  64,   256,    512,   4096, 1e4, linear2,     v3_pre,    false,
     tiny_r1, 2},
    // clang-format on
};

const shape_row &find_shape(const std::string &name) {
    std::string known;
    for (const shape_row &s : shapes) {
        if (name == s.name) return s;
        known += (known.empty() ? "" : ", ") + std::string(s.name);
    }
    throw error(status::argument, "shape " + ds::quoted(name) + " is not known; known: " + known);
}

nlohmann::json config_of(const shape_row &s) {
    nlohmann::json config = {{"architectures", {s.checkpoint_class}},
                             {"num_hidden_layers", s.layers},
                             {"hidden_size", s.hidden},
                             {"num_attention_heads", s.heads},
                             {"num_key_value_heads", s.kv_heads},
                             {"head_dim", s.head_size},
                             {"intermediate_size", s.ffn},
                             {"vocab_size", s.vocab},
                             {"max_position_embeddings", s.context},
                             {"rope_theta", s.rope_base},
                             {"rms_norm_eps", 1e-6},
                             {"tie_word_embeddings", s.tied},
                             {"rope_scaling", nlohmann::json::parse(s.scaling)}};
    config.update(nlohmann::json::parse(s.more));
    for (int i = 0; s.blocks && i < s.layers; ++i)
        config["block_share_map"].push_back(i * s.blocks / s.layers);
    return config;
}

// ---- Random numbers

constexpr size_t tile_elements = size_t(1) << 20;
constexpr size_t tile_block = 256;  // every target's block divides it

// For I8: the integers, and the scale of every row.
struct tile {
    format type;
    float deviation;
    std::vector<uint8_t> bytes;
    float scale;
};

// The tile for a format and a deviation, made on first use; a model has a handful of them.
const tile &find_tile(std::vector<tile> &tiles, format type, float deviation, random_bits &random) {
    for (const tile &t : tiles)
        if (t.type == type && t.deviation == deviation) return t;
    std::vector<float> values(tile_elements);
    for (float &x : values) x = random.normal() * deviation;
    tile t{type, deviation, std::vector<uint8_t>(row_bytes(type, tile_elements)), 0};
    if (type == format::i8)
        t.scale = encode_row_i8(values.data(), reinterpret_cast<int8_t *>(t.bytes.data()), values.size());
    else encode_row(type, values.data(), t.bytes.data(), values.size());
    tiles.push_back(std::move(t));
    return tiles.back();
}

float deviation_of(const tensor_row &row, const hparams &h) {
    const double residual = row.what == role::attention_output || row.what == role::down
                                ? 2.0 * static_cast<double>(h.layers)
                                : 1.0;
    return static_cast<float>(1 / std::sqrt(static_cast<double>(row.ne.back()) * residual));
}

// A matrix of pieces of the tile, each from a random block up to the tile's end.
void put_matrix(const tile &t, uint64_t bytes, random_bits &random, const byte_sink &sink) {
    const uint64_t step = row_bytes(t.type, tile_block), blocks = t.bytes.size() / step;
    while (bytes > 0) {
        // so that a piece is at least half a tile
        const uint64_t begin = random.next() % (blocks / 2) * step;
        const uint64_t n = std::min<uint64_t>(bytes, t.bytes.size() - begin);
        sink(t.bytes.data() + begin, n);
        bytes -= n;
    }
}

// Scales that differ between rows, so that a row with another's scale is noticed.
void put_scales(const tile &t, int64_t rows, random_bits &random, const byte_sink &sink) {
    std::vector<float> values(static_cast<size_t>(rows));
    for (float &x : values) x = t.scale * (1.0f + 0.1f * random.normal());
    sink(values.data(), values.size() * sizeof(float));
}

void put_vector(const tensor_row &row, uint64_t bytes, random_bits &random, const byte_sink &sink) {
    const float centre = row.what == role::norm ? 1.0f : 0.0f;
    std::vector<float> values(bytes / sizeof(float));
    for (float &x : values) x = centre + 0.1f * random.normal();
    sink(values.data(), values.size() * sizeof(float));
}

// The tensors of a file of this shape: all required ones, and the optional ones that its configuration needs.
std::vector<tensor_row> rows_of(const arch &a, const hparams &h, const json_node &config) {
    std::vector<tensor_row> out;
    for (tensor_row &row : a.tensors(h)) {
        const bool wanted = row.what == role::output          ? !ties_embeddings(config)
                            : row.what == role::rope_divisors ? has_llama3_scaling(config)
                                                              : !row.optional;
        if (wanted) out.push_back(std::move(row));
    }
    return out;
}

void write_random(const std::string &out, const synth_options &o, const std::vector<tensor_row> &rows,
                  const hparams &h, const json_node &config, gguf_writer &w, const job &j) {
    std::vector<const tensor_row *> row_of;  // by tensor of the file; an I8 tensor's scales have the same row
    std::vector<format> types;
    format_policy policy(o.type, h, ties_embeddings(config));
    for (const tensor_row &row : rows) {
        const format type = policy(row);
        w.add_tensor(row.name, type, row.ne);
        row_of.push_back(&row);
        types.push_back(type);
        if (type != format::i8) continue;
        w.add_tensor(scale_name(row.name), format::f32, std::span(row.ne).first(row.ne.size() - 1));
        row_of.push_back(&row);
        types.push_back(type);
    }
    policy.remark(j);
    random_bits random{o.seed};
    std::vector<tile> tiles;
    write_gguf(out, w, j, [&](size_t i, const byte_sink &sink) {
        const tensor_row &row = *row_of[i];
        const bool scales = i > 0 && row_of[i - 1] == row_of[i];
        if (row.what == role::rope_divisors) {
            const std::vector<float> d = llama3_divisors(read_llama3_scaling(config), h.rope_base, h.rotated);
            sink(d.data(), d.size() * sizeof(float));
        } else if (row.stays_f32()) {
            put_vector(row, w.tensor_bytes(i), random, sink);
        } else {
            const tile &t = find_tile(tiles, types[i], deviation_of(row, h), random);
            if (scales) put_scales(t, static_cast<int64_t>(w.tensor_bytes(i) / sizeof(float)), random, sink);
            else put_matrix(t, w.tensor_bytes(i), random, sink);
        }
    });
}

}  // namespace

std::vector<std::string> synth_shapes() {
    std::vector<std::string> out;
    for (const shape_row &s : shapes) out.emplace_back(s.name);
    return out;
}

std::string synth_shape_text(const std::string &shape) {
    const shape_row &s = find_shape(shape);
    return format_text("%s, %d layers of %d, %d/%d heads of %d, ffn %d, vocabulary %d",
                       arch_by_checkpoint_class(s.checkpoint_class)->name, s.layers, s.hidden, s.heads,
                       s.kv_heads, s.head_size, s.ffn, s.vocab);
}

static shape_row shape_of(const synth_options &o) {
    shape_row shape = find_shape(o.shape);
    if (o.layers && shape.blocks) shape.blocks = std::max(1, shape.blocks * o.layers / shape.layers);
    if (o.layers) shape.layers = o.layers;
    if (o.vocabulary) shape.vocab = o.vocabulary;
    return shape;
}

static void set_keys(const shape_row &shape, const json_node &config, gguf_writer &w) {
    set_architecture_keys(config, w);
    w.set_string("general.type", "model");
    w.set_string("general.name", std::string("random ") + shape.name);
    set_vocabulary_keys(synthetic_vocabulary(static_cast<size_t>(shape.vocab), shape.pre), w);
}

std::string synth_metadata(const synth_options &o) {
    const shape_row shape = shape_of(o);
    const json_tree tree = parse_json(config_of(shape).dump(), o.shape);
    gguf_writer w;
    set_keys(shape, json_node(tree), w);
    return w.header();
}

void synthesize(const std::string &out, const synth_options &o, const job &j) {
    const shape_row shape = shape_of(o);
    const json_tree tree = parse_json(config_of(shape).dump(), o.shape);
    const json_node config(tree);
    gguf_writer w;
    set_keys(shape, config, w);
    const std::string header = w.header();
    const arch &a = checkpoint_arch(config);
    const hparams h = a.read(gguf_file(os::mapping::borrow(header.data(), header.size()), o.shape));
    const std::vector<tensor_row> rows = rows_of(a, h, config);
    set_type_keys(w, o.type);
    write_random(out, o, rows, h, config, w, j);
}

vocabulary synthetic_vocabulary(size_t size, const std::string &pre) {
    assert(size >= fewest_synthetic_tokens);
    const size_t first_special = size - r1_frame_tokens;
    vocabulary v;
    v.pre = pre;
    for (unsigned b = 0; b < 256; ++b) v.add(byte_level_text(static_cast<uint8_t>(b)), token_kind::normal);
    for (char first = 'a' - 1; first <= 'z'; ++first)  // the one before 'a' stands for the space
        for (char second = 'a'; second <= 'z' && v.tokens.size() < first_special; ++second) {
            const std::string left = first < 'a' ? byte_level_text(' ') : std::string(1, first);
            v.add(left + second, token_kind::normal);
            v.merges.push_back(left + " " + second);
        }
    for (size_t i = v.tokens.size(); i < first_special; ++i)
        v.add("[PAD" + std::to_string(i) + "]", token_kind::unused);
    add_r1_frame(v);
    return v;
}

}  // namespace ds
