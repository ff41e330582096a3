// The keys are read by the architecture's own reader before anything is written, so that no shape is written
// that would not load.
#include "init.h"

#include "../../tensor/os.h"
#include "../../tensor/random.h"

#include <cmath>

namespace ds {

static void refuse(const std::string &field, const std::string &text) {
    throw error(status::argument, field + ": " + text);
}

// A field that another architecture has.
static void must_be_absent(const model_shape &s, const char *owner,
                           std::initializer_list<std::pair<const char *, int64_t>> fields) {
    for (const auto &[name, value] : fields)
        if (value) refuse(name, "is for " + std::string(owner) + ", not for " + s.architecture);
}

static void check_fields(const model_shape &s, bool latent) {
    const bool r1 = s.architecture == "r1", deepseek2 = s.architecture == "deepseek2";
    const std::pair<const char *, int64_t> needed[] = {{"layers", s.layers},
                                                       {"hidden_size", s.hidden},
                                                       {"heads", s.heads},
                                                       {"feed_forward_size", s.ffn},
                                                       {"context_length", s.context}};
    for (const auto &[name, value] : needed)
        if (!value) refuse(name, "is 0");
    if (!s.head_size && s.hidden % s.heads)
        refuse("heads", "is " + std::to_string(s.heads) + ", must divide hidden_size, " +
                            std::to_string(s.hidden) + ", or head_size be set");
    if (latent && !s.kv_rank) refuse("kv_lora_rank", "is 0");
    if (latent) must_be_absent(s, "architectures without latent attention", {{"kv_heads", s.kv_heads}});
    if (!latent)
        must_be_absent(s, "r1 and deepseek2",
                       {{"kv_lora_rank", s.kv_rank},
                        {"q_lora_rank", s.q_rank},
                        {"rotated_size", s.rotated},
                        {"value_size", s.value_size}});
    if (!r1)
        must_be_absent(
            s, "r1", {{"heads_used", s.heads_used}, {"heads_shared", s.heads_shared}, {"blocks", s.blocks}});
    if (!deepseek2)
        must_be_absent(s, "deepseek2",
                       {{"experts", s.experts},
                        {"experts_used", s.experts_used},
                        {"experts_shared", s.experts_shared},
                        {"expert_size", s.expert_ffn},
                        {"dense_layers", s.dense_layers}});
    if (s.blocks > s.layers)
        refuse("blocks",
               "is " + std::to_string(s.blocks) + ", must be at most layers, " + std::to_string(s.layers));
    if (s.layers > 1024) refuse("layers", "is " + std::to_string(s.layers) + ", must be at most 1024");
    if (s.scaling != rope_scaling::none && !(s.rope_factor >= 1 && s.rope_factor <= 1e6))
        refuse("rope_factor", "is " + shortest(s.rope_factor) + ", must be from 1 to 1e6");
}

static void set_keys(const model_shape &s, bool latent, int64_t vocabulary, gguf_writer &w) {
    const std::string prefix = s.architecture + ".";
    const auto count = [&](const char *key, int64_t n) { w.set_u32(prefix + key, static_cast<uint32_t>(n)); };
    w.set_string("general.architecture", s.architecture);
    w.set_string("general.type", "model");
    if (!s.name.empty()) w.set_string("general.name", s.name);
    count("block_count", s.layers);
    count("context_length", s.context);
    count("embedding_length", s.hidden);
    count("feed_forward_length", s.ffn);
    count("attention.head_count", s.heads);
    count("vocab_size", vocabulary);
    const int64_t head = s.head_size ? s.head_size : s.hidden / s.heads;
    const int64_t rotated = !latent ? head : s.rotated ? s.rotated : head / 2;
    if (latent) {
        count("attention.head_count_kv", 1);
        count("attention.q_lora_rank", s.q_rank);
        count("attention.kv_lora_rank", s.kv_rank);
        count("attention.key_length", s.kv_rank + rotated);
        count("attention.value_length", s.kv_rank);
        count("attention.key_length_mla", head);
        count("attention.value_length_mla", s.value_size ? s.value_size : head - rotated);
    } else {
        count("attention.head_count_kv", s.kv_heads ? s.kv_heads : s.heads);
        count("attention.key_length", head);
        count("attention.value_length", head);
    }
    if (s.architecture == "r1") {
        count("attention.head_used_count", s.heads_used ? s.heads_used : s.heads);
        count("attention.head_shared_count", s.heads_shared);
        std::vector<int32_t> map;
        for (int64_t i = 0; s.blocks && i < s.layers; ++i)
            map.push_back(static_cast<int32_t>(i * s.blocks / s.layers));
        if (s.blocks) w.set_i32s(prefix + "block_share_map", map);
    }
    if (s.architecture == "deepseek2") {  // the experts' gate is DeepSeek-V3's, without groups
        count("leading_dense_block_count", s.experts ? s.dense_layers : s.layers);
        count("expert_count", s.experts);
        count("expert_used_count", s.experts_used);
        count("expert_shared_count", s.experts_shared);
        count("expert_feed_forward_length", s.expert_ffn);
        count("expert_gating_func", 2);
        count("expert_group_count", 1);
        count("expert_group_used_count", 1);
        w.set_f32(prefix + "expert_weights_scale", 1);
        w.set_bool(prefix + "expert_weights_norm", true);
    }
    w.set_f32(prefix + "attention.layer_norm_rms_epsilon", 1e-6f);
    count("rope.dimension_count", rotated);
    w.set_f32(prefix + "rope.freq_base", static_cast<float>(s.rope_base == 0 ? 10000 : s.rope_base));
    if (s.scaling == rope_scaling::none) return;
    w.set_string(prefix + "rope.scaling.type", s.scaling == rope_scaling::linear ? "linear" : "yarn");
    w.set_f32(prefix + "rope.scaling.factor", static_cast<float>(s.rope_factor));
    if (s.scaling == rope_scaling::yarn)
        count("rope.scaling.original_context_length",
              s.original_context ? s.original_context
                                 : std::max<int64_t>(1, static_cast<int64_t>(static_cast<double>(s.context) /
                                                                             s.rope_factor)));
}

static void put_tensor(const tensor_row &row, const hparams &h, float deviation, random_bits &random,
                       os::output_file &file) {
    const bool gate = row.slot == &layer_weights::head_routed || row.slot == &layer_weights::head_shared ||
                      row.slot == &layer_weights::head_mix;
    const bool residual = row.what == role::attention_output || row.what == role::down;
    const float scale = residual ? deviation / std::sqrt(2 * static_cast<float>(h.layers)) : deviation;
    uint64_t left = 1;
    for (const int64_t n : row.ne) left *= static_cast<uint64_t>(n);
    std::vector<float> values;
    for (size_t n; left > 0; left -= n) {
        n = static_cast<size_t>(std::min<uint64_t>(left, uint64_t{1} << 16));
        values.assign(n, row.what == role::norm ? 1.0f : 0.0f);
        if (row.what != role::norm && row.what != role::bias && !gate)
            for (float &x : values) x = random.normal() * scale;
        file.write(values.data(), n * sizeof(float));
    }
}

void write_random_model(const std::string &path, const gguf_file &vocabulary, const model_shape &s) {
    const arch *const a = arch_by_name(s.architecture);
    if (!a)
        throw error(status::unsupported,
                    "architecture: is " + quoted(s.architecture) + ", known are " + architectures_known());
    const bool latent = s.architecture == "r1" || s.architecture == "deepseek2";
    check_fields(s, latent);
    gguf_writer w;
    set_keys(s, latent, static_cast<int64_t>(vocabulary.get_strings("tokenizer.ggml.tokens").size()), w);
    for (size_t i = 0; i < vocabulary.key_count(); ++i)
        if (vocabulary.key(i).starts_with("tokenizer.") ||
            vocabulary.key(i).starts_with("deepseek.tokenizer."))
            w.set_raw(vocabulary.key(i), vocabulary.value(i));
    const std::string keys = w.header();
    hparams h;
    try {
        h = a->read(gguf_file(os::mapping::borrow(keys.data(), keys.size()), path));
    } catch (const error &e) {
        // what a file would be wrong in, the caller's shape is
        throw error(e.code == status::format ? status::argument : e.code, e.text);
    }
    std::vector<tensor_row> rows = a->tensors(h);
    std::erase_if(rows, [&](const tensor_row &r) { return r.what == role::output ? s.tied : r.optional; });
    for (const tensor_row &row : rows) w.add_tensor(row.name, format::f32, row.ne);
    os::output_file file(path);
    const std::string header = w.header();
    file.write(header.data(), header.size());
    random_bits random{s.seed};
    for (size_t i = 0; i < rows.size(); ++i) {
        put_tensor(rows[i], h, s.deviation == 0 ? 0.02f : s.deviation, random, file);
        const std::string zeros(w.padding(i), '\0');
        file.write(zeros.data(), zeros.size());
    }
    file.commit();
}

}  // namespace ds
