// The forward pass of a pre-norm decoder, shared by llama, qwen2 and qwen3. Row counts come from the step's
// inputs, so the same code builds the largest graph (for the plan) and every smaller one.
#include "blocks.h"

#include "../../tensor/numerics.h"

#include <cmath>

namespace ds {

void read_rope(const keys &k, hparams &h) {
    h.rotated = k.count("rope.dimension_count", h.head_size, h.head_size);
    if (h.rotated % 2)
        k.f.fail(k.full("rope.dimension_count"), "is " + std::to_string(h.rotated) + ", must be even");
    // Bases above 1 keep every frequency at or below 1, so that no angle exceeds the range of sin_cos_f64.
    h.rope_base = k.number("rope.freq_base", 1.001, 1e12, 10000.0);
    const std::string type(k.f.get_string(k.full("rope.scaling.type"), "linear"));
    const char *const factor_key =
        k.f.has(k.full("rope.scaling.factor")) ? "rope.scaling.factor" : "rope.scale_linear";
    const double factor = k.f.get_float(k.full(factor_key), 1.0);
    // Converters write 0 for "none".
    h.rope_factor = factor == 0 ? 1.0 : k.in_range(factor_key, factor, 1.0, 1e6);
    if (type == "none") h.scaling = rope_scaling::none;
    else if (type == "linear") h.scaling = h.rope_factor == 1.0 ? rope_scaling::none : rope_scaling::linear;
    else if (type == "yarn") h.scaling = rope_scaling::yarn;
    else
        throw error(status::unsupported, k.f.name() + ": " + k.full("rope.scaling.type") + ": is " +
                                             quoted(type) + ", known are none, linear, yarn");
    h.original_context = k.count("rope.scaling.original_context_length", 1 << 30, h.context);
    h.beta_fast = k.number("rope.scaling.yarn_beta_fast", 1e-6, 1e6, 32);
    h.beta_slow = k.number("rope.scaling.yarn_beta_slow", 1e-6, 1e6, 1);
    h.attn_factor = k.number("rope.scaling.yarn_attn_factor", 1e-6, 1e6,
                             k.number("rope.scaling.attn_factor", 1e-6, 1e6, 1));
}

void read_sizes(const keys &k, hparams &h) {
    h.layers = k.count("block_count", 1024);
    h.context = k.count("context_length", 1 << 30);
    h.hidden = k.count("embedding_length", 1 << 20);
    h.ffn = k.count("feed_forward_length", 1 << 24);
    h.heads = k.count("attention.head_count", 4096);
    h.norm_eps = static_cast<float>(k.number("attention.layer_norm_rms_epsilon", 1e-30, 1));
    const gguf_value *tokens = k.f.find("tokenizer.ggml.tokens");
    if (!tokens || !tokens->is_array) k.f.fail("tokenizer.ggml.tokens", "is missing or not an array");
    h.vocab = static_cast<int64_t>(tokens->count);
    constexpr int64_t max_vocab = 1 << 22;  // the most that the sampler's sums can hold
    if (h.vocab < 1 || h.vocab > max_vocab)
        k.f.fail("tokenizer.ggml.tokens", "has " + std::to_string(tokens->count) +
                                              " entries, must have from 1 to " + std::to_string(max_vocab));
    if (k.count("vocab_size", max_vocab, h.vocab) != h.vocab)
        k.f.fail(k.full("vocab_size"),
                 "is not the number of entries of tokenizer.ggml.tokens, " + std::to_string(h.vocab));
}

hparams read_decoder(const gguf_file &f, const char *arch_name) {
    const keys k{f, arch_name};
    hparams h;
    read_sizes(k, h);
    h.kv_heads = k.count("attention.head_count_kv", 4096, h.heads);
    if (h.heads % h.kv_heads)
        f.fail(k.full("attention.head_count"),
               format_text("is %lld, must be a multiple of head_count_kv, %lld",
                           static_cast<long long>(h.heads), static_cast<long long>(h.kv_heads)));
    if (!k.f.has(k.full("attention.key_length")) && h.hidden % h.heads)
        f.fail(k.full("attention.head_count"),
               format_text("is %lld, must divide embedding_length, %lld", static_cast<long long>(h.heads),
                           static_cast<long long>(h.hidden)));
    h.head_size = k.count("attention.key_length", i8_most_head, std::max<int64_t>(1, h.hidden / h.heads));
    if (k.count("attention.value_length", i8_most_head, h.head_size) != h.head_size)
        f.fail(k.full("attention.value_length"),
               "differs from key_length, which this architecture does not have");
    read_rope(k, h);
    // Llama 3's scaling is a tensor of divisors, written by the converter; such a file names no scaling type.
    if (f.find_tensor("rope_freqs.weight") && h.scaling == rope_scaling::none)
        h.scaling = rope_scaling::llama3;
    return h;
}

std::vector<tensor_row> top_tensors(const hparams &h) {
    std::vector<tensor_row> rows;
    const auto top = [&](const tensor *model_weights::*slot, role what, const char *name,
                         const char *checkpoint, std::vector<int64_t> ne, bool optional) {
        rows.push_back({.name = name,
                        .checkpoint = checkpoint,
                        .ne = std::move(ne),
                        .what = what,
                        .optional = optional,
                        .top = slot});
    };
    top(&model_weights::embedding, role::embedding, "token_embd.weight", "model.embed_tokens.weight",
        {h.vocab, h.hidden}, false);
    top(&model_weights::output_norm, role::norm, "output_norm.weight", "model.norm.weight", {h.hidden},
        false);
    top(&model_weights::output, role::output, "output.weight", "lm_head.weight", {h.vocab, h.hidden}, true);
    top(&model_weights::rope_divisors, role::rope_divisors, "rope_freqs.weight", "", {h.rotated / 2}, true);
    return rows;
}

std::vector<tensor_row> decoder_tensors(const hparams &h, const decoder_traits &t) {
    std::vector<tensor_row> rows = top_tensors(h);
    const int64_t q = h.heads * h.head_size, kv = h.kv_heads * h.head_size;
    using lw = layer_weights;
    for (int64_t i = 0; i < h.layers; ++i) {
        const std::string gguf = "blk." + std::to_string(i) + ".",
                          hf = "model.layers." + std::to_string(i) + ".";
        const auto row = [&](const tensor *lw::*slot, role what, const char *name, const char *checkpoint,
                             std::vector<int64_t> ne, bool optional = false) -> tensor_row & {
            rows.push_back({.name = gguf + name,
                            .checkpoint = hf + checkpoint,
                            .ne = std::move(ne),
                            .what = what,
                            .optional = optional,
                            .layer = i,
                            .slot = slot});
            return rows.back();
        };
        const auto rotated = [&](tensor_row &r, int64_t heads) {
            r.order = t.qk_order;
            r.heads = heads;
        };
        row(&lw::attn_norm, role::norm, "attn_norm.weight", "input_layernorm.weight", {h.hidden});
        rotated(row(&lw::q, role::query, "attn_q.weight", "self_attn.q_proj.weight", {q, h.hidden}), h.heads);
        rotated(row(&lw::k, role::key, "attn_k.weight", "self_attn.k_proj.weight", {kv, h.hidden}),
                h.kv_heads);
        row(&lw::v, role::value, "attn_v.weight", "self_attn.v_proj.weight", {kv, h.hidden});
        if (t.qkv_bias) {
            rotated(row(&lw::q_bias, role::bias, "attn_q.bias", "self_attn.q_proj.bias", {q},
                        t.optional_qkv_bias),
                    h.heads);
            rotated(row(&lw::k_bias, role::bias, "attn_k.bias", "self_attn.k_proj.bias", {kv},
                        t.optional_qkv_bias),
                    h.kv_heads);
            row(&lw::v_bias, role::bias, "attn_v.bias", "self_attn.v_proj.bias", {kv}, t.optional_qkv_bias);
        }
        if (t.qk_norm) {
            // One weight per element of a head: reordered like the rows of a single head.
            rotated(
                row(&lw::q_norm, role::norm, "attn_q_norm.weight", "self_attn.q_norm.weight", {h.head_size}),
                1);
            rotated(
                row(&lw::k_norm, role::norm, "attn_k_norm.weight", "self_attn.k_norm.weight", {h.head_size}),
                1);
        }
        row(&lw::attn_output, role::attention_output, "attn_output.weight", "self_attn.o_proj.weight",
            {h.hidden, q});
        if (t.optional_qkv_bias)
            row(&lw::attn_output_bias, role::bias, "attn_output.bias", "self_attn.o_proj.bias", {h.hidden},
                true);
        row(&lw::ffn_norm, role::norm, "ffn_norm.weight", "post_attention_layernorm.weight", {h.hidden});
        row(&lw::gate, role::gate, "ffn_gate.weight", "mlp.gate_proj.weight", {h.ffn, h.hidden});
        row(&lw::up, role::up, "ffn_up.weight", "mlp.up_proj.weight", {h.ffn, h.hidden});
        row(&lw::down, role::down, "ffn_down.weight", "mlp.down_proj.weight", {h.hidden, h.ffn});
    }
    return rows;
}

kv_widths decoder_kv(const hparams &h) { return {h.kv_heads, h.head_size}; }

// YaRN's ramp runs between the pairs that complete beta_fast and beta_slow rotations within the original
// context (arXiv 2309.00071, section 3.2).
rope_table_params rope_params_of(const hparams &h) {
    rope_table_params p{h.rope_base, 1.0, 0.0f, 0.0f, 1.0f, static_cast<int32_t>(h.rotated), 0};
    if (h.scaling == rope_scaling::linear) p.factor = h.rope_factor;
    if (h.scaling != rope_scaling::yarn) return p;
    const auto pair_of = [&](double rotations) {
        return static_cast<double>(h.rotated) *
               log_f64(static_cast<double>(h.original_context) / (rotations * 6.28318530717958647693)) /
               (2.0 * log_f64(h.rope_base));
    };
    p.yarn = 1;
    p.factor = h.rope_factor;
    p.low = static_cast<float>(std::max(0.0, std::floor(pair_of(h.beta_fast))));
    p.high =
        static_cast<float>(std::min(static_cast<double>(h.rotated - 1), std::ceil(pair_of(h.beta_slow))));
    p.magnitude =
        static_cast<float>(h.attn_factor * (h.rope_factor > 1.0 ? 0.1 * log_f64(h.rope_factor) + 1.0 : 1.0));
    return p;
}

// Rotated heads, after the per-head norm if the layer has one.
static const tensor *rotated_heads(const build_args &a, const tensor *x, const tensor *norm,
                                   const tensor *rope_t, rope_pairs pairs) {
    return rope(a.g, norm ? rms_norm(a.g, x, norm, a.h.norm_eps) : x, rope_t, pairs);
}

const tensor *adapted(const build_args &a, const tensor *w, const tensor *x, const tensor *y) {
    if (!a.adapters) return y;
    const auto found = a.adapters->weights.find(w);
    if (found == a.adapters->weights.end()) return y;
    const adaptation::of_weight &of = found->second;
    if (a.adapters->slots)
        return lora(a.g, x, y, a.adapters->slots, a.in.sequence, {of.matrix, a.adapters->rank});
    return add_scaled(a.g, y, matmul(a.g, matmul(a.g, x, of.a, nullptr), of.b, nullptr), of.scale);
}

const tensor *attention_block(const build_args &a, int64_t layer, const tensor *x, const tensor *rope_t,
                              rope_pairs pairs) {
    const layer_weights &w = a.block(layer);
    const kv_layout &kv = a.kv[static_cast<size_t>(layer)];
    const int64_t n = x->ne[0], heads = a.h.heads, kv_heads = a.h.kv_heads, size = a.h.head_size;
    // What an adapter reads is the normed x, which is a result of its own then.
    const bool apart = a.adapts({w.q, w.k, w.v});
    const tensor *const y = apart ? rms_norm(a.g, x, w.attn_norm, a.h.norm_eps) : x;
    const tensor *const all = projections(a.g, y, apart ? nullptr : w.attn_norm, a.h.norm_eps,
                                          {{w.q, w.q_bias}, {w.k, w.k_bias}, {w.v, w.v_bias}});
    const auto part = [&](const tensor *of, int64_t first, int64_t count) {
        return a.g.reshape(adapted(a, of, y, a.g.slice(all, first * size, count * size)), {n, count, size});
    };
    const tensor *q = rotated_heads(a, part(w.q, 0, heads), w.q_norm, rope_t, pairs);
    const tensor *k = rotated_heads(a, part(w.k, heads, kv_heads), w.k_norm, rope_t, pairs);
    const tensor *pages = kv_write(a.g, k, part(w.v, heads + kv_heads, kv_heads), a.in.pages, a.in.slots, kv);
    const attention_params p{kv, static_cast<float>(1.0 / std::sqrt(static_cast<double>(size)))};
    const tensor *o = attention(a.g, q, pages, a.in.tables, a.in.sequence, a.in.positions, p);
    o = a.g.reshape(o, {n, heads * size});
    return adapted(a, w.attn_output, o, matmul(a.g, o, w.attn_output, w.attn_output_bias, x));
}

const tensor *gated_product(const build_args &a, const tensor *x, const tensor *norm, const tensor *gate,
                            const tensor *up) {
    if (!a.adapts({gate, up})) return gated_projection(a.g, unary::silu, x, norm, a.h.norm_eps, gate, up);
    const tensor *const y = norm ? rms_norm(a.g, x, norm, a.h.norm_eps) : x;
    const tensor *const g = adapted(a, gate, y, matmul(a.g, y, gate, nullptr));
    return gated(a.g, unary::silu, g, adapted(a, up, y, matmul(a.g, y, up, nullptr)));
}

const tensor *feed_forward_block(const build_args &a, int64_t layer, const tensor *x) {
    const layer_weights &w = a.block(layer);
    const tensor *const hidden = gated_product(a, x, w.ffn_norm, w.gate, w.up);
    return adapted(a, w.down, hidden, matmul(a.g, hidden, w.down, nullptr, x));
}

const tensor *output_matrix(const model_weights &w) { return w.output ? w.output : w.embedding; }

const tensor *output_block(const build_args &a, const tensor *x) {
    const tensor *y = rms_norm(a.g, get_rows(a.g, x, a.in.outputs), a.w.output_norm, a.h.norm_eps);
    if (a.rows_only) return y;
    const tensor *logits = matmul(a.g, y, output_matrix(a.w), nullptr);
    a.g.keep(logits);
    return logits;
}

const tensor *decoder(const build_args &a, rope_pairs pairs) {
    const tensor *x = get_rows(a.g, a.w.embedding, a.in.ids);
    const tensor *rope_t = rope_table(a.g, a.in.positions, a.w.rope_divisors, rope_params_of(a.h));
    for (int64_t i = 0; i < a.h.layers; ++i) {
        a.g.mark(x);
        x = feed_forward_block(a, i, attention_block(a, i, x, rope_t, pairs));
    }
    a.g.mark(x);
    return output_block(a, x);
}

}  // namespace ds
