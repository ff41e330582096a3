// DeepSeek V2, V2-Lite, V3 and R1 (arXiv 2405.04434, 2412.19437): attention over latents (MLA) and mixtures
// of experts. GGUF keys and tensors as llama.cpp's gguf-py/gguf/constants.py names them.
//
// Each position caches its latent and one rotated key for all heads. Attention is absorbed: W_UK is applied
// to the query and W_UV to the result, so that all heads attend to the latents. In floats, it is expanded
// where that is less work (mla_attention). RoPE's magnitude is attn_factor alone here, 1 in the published
// models: YaRN's magnitude is applied to the scores, by yarn_log_multiplier.
#include "deepseek2.h"

#include "latent.h"

#include "../../../tensor/numerics.h"

#include <cmath>

namespace ds {

// Older files lack the number of groups. The published models with groups are recognised by their number of
// experts and gating function.
static void read_groups(const keys &k, hparams &h) {
    const bool v3 = h.experts == 256 && h.expert_sigmoid, v2 = h.experts == 160 && !h.expert_sigmoid;
    h.expert_groups = k.count("expert_group_count", h.experts, v2 || v3 ? 8 : 1);
    h.expert_groups_used = k.count("expert_group_used_count", h.expert_groups,
                                   std::min<int64_t>(h.expert_groups, v3   ? 4
                                                                      : v2 ? 3
                                                                           : h.expert_groups));
    if (h.experts % h.expert_groups)
        k.f.fail(k.full("expert_group_count"), "is " + std::to_string(h.expert_groups) +
                                                   ", must divide expert_count, " +
                                                   std::to_string(h.experts));
    const int64_t reach = h.experts / h.expert_groups * h.expert_groups_used;
    if (h.experts_used > reach)
        k.f.fail(k.full("expert_used_count"), "is " + std::to_string(h.experts_used) +
                                                  ", but the groups that are used have " +
                                                  std::to_string(reach));
}

static void read_experts(const keys &k, hparams &h) {
    h.dense_layers =
        std::min(h.layers, static_cast<int64_t>(k.f.get_uint(k.full("leading_dense_block_count"), 1024, 0)));
    if (h.dense_layers == h.layers && h.nextn_layers == 0) return;
    h.experts = k.count("expert_count", 4096);
    h.experts_used = k.count("expert_used_count", h.experts);
    h.expert_ffn = k.count("expert_feed_forward_length", 1 << 24);
    h.experts_shared = static_cast<int64_t>(k.f.get_uint(k.full("expert_shared_count"), 256, 0));
    h.expert_scale = static_cast<float>(k.number("expert_weights_scale", 1e-6, 1e6, 1));
    h.expert_norm = k.f.get_bool(k.full("expert_weights_norm"), false);
    const int64_t gate = k.count("expert_gating_func", 2, 1);
    h.expert_sigmoid = gate == 2;
    read_groups(k, h);
}

void read_latents(const keys &k, hparams &h) {
    h.q_rank = static_cast<int64_t>(k.f.get_uint(k.full("attention.q_lora_rank"), 1 << 20, 0));
    h.kv_rank = k.count("attention.kv_lora_rank", i8_most_head);
    const bool mla = k.f.has(k.full("attention.key_length_mla"));
    h.head_size = k.count(mla ? "attention.key_length_mla" : "attention.key_length", 1024);
    h.value_size = k.count(mla ? "attention.value_length_mla" : "attention.value_length", 1024);
    read_rope(k, h);
    if (h.rotated >= h.head_size)
        k.f.fail(k.full("rope.dimension_count"), "is " + std::to_string(h.rotated) +
                                                     ", must be less than a key's length, " +
                                                     std::to_string(h.head_size));
    h.nope_size = h.head_size - h.rotated;
    h.kv_heads = 1;
    h.yarn_log_multiplier = k.number("rope.scaling.yarn_log_multiplier", 0, 10, 0);
}

static hparams read(const gguf_file &f) {
    const keys k{f, "deepseek2"};
    hparams h;
    read_sizes(k, h);
    h.nextn_layers = static_cast<int64_t>(f.get_uint(k.full("nextn_predict_layers"), 16, 0));
    if (h.nextn_layers >= h.layers)
        f.fail(k.full("nextn_predict_layers"),
               "is " + std::to_string(h.nextn_layers) + ", must be less than block_count");
    h.layers -= h.nextn_layers;
    read_latents(k, h);
    read_experts(k, h);
    return h;
}

tensor_row &row_maker::operator()(const tensor *layer_weights::*slot, role what, const char *name,
                                  const char *checkpoint, std::vector<int64_t> ne) const {
    const std::string number = std::to_string(block) + ".";
    rows.push_back({.name = "blk." + number + name,
                    .checkpoint = "model.layers." + number + checkpoint,
                    .ne = std::move(ne),
                    .what = what,
                    .optional = optional,
                    .layer = block,
                    .slot = slot});
    return rows.back();
}

std::vector<tensor_row> latent_top_tensors(const hparams &h) {
    std::vector<tensor_row> rows = top_tensors(h);
    std::erase_if(rows, [](const tensor_row &r) { return r.what == role::rope_divisors; });
    return rows;
}

void latent_attention_tensors(const hparams &h, const row_maker &row) {
    using lw = layer_weights;
    const int64_t q = h.heads * h.head_size;
    row(&lw::attn_norm, role::norm, "attn_norm.weight", "input_layernorm.weight", {h.hidden});
    if (h.q_rank) {
        row(&lw::q_a, role::query, "attn_q_a.weight", "self_attn.q_a_proj.weight", {h.q_rank, h.hidden});
        row(&lw::q_a_norm, role::norm, "attn_q_a_norm.weight", "self_attn.q_a_layernorm.weight", {h.q_rank});
        row(&lw::q_b, role::query, "attn_q_b.weight", "self_attn.q_b_proj.weight", {q, h.q_rank});
    } else {
        row(&lw::q, role::query, "attn_q.weight", "self_attn.q_proj.weight", {q, h.hidden});
    }
    row(&lw::kv_a, role::key, "attn_kv_a_mqa.weight", "self_attn.kv_a_proj_with_mqa.weight",
        {h.kv_rank + h.rotated, h.hidden});
    row(&lw::kv_a_norm, role::norm, "attn_kv_a_norm.weight", "self_attn.kv_a_layernorm.weight", {h.kv_rank});
    const auto part = [&](tensor_row &r, reorder order) {
        r.order = order;
        r.heads = h.heads;
        r.whole = "blk." + std::to_string(r.layer) + ".attn_kv_b.weight";
    };
    part(row(&lw::k_b, role::key, "attn_k_b.weight", "self_attn.kv_b_proj.weight",
             {h.heads, h.kv_rank, h.nope_size}),
         reorder::key_part);
    part(row(&lw::v_b, role::value, "attn_v_b.weight", "self_attn.kv_b_proj.weight",
             {h.heads, h.value_size, h.kv_rank}),
         reorder::value_part);
    row(&lw::attn_output, role::attention_output, "attn_output.weight", "self_attn.o_proj.weight",
        {h.hidden, h.heads * h.value_size});
    row(&lw::ffn_norm, role::norm, "ffn_norm.weight", "post_attention_layernorm.weight", {h.hidden});
}

void dense_tensors(const hparams &h, const row_maker &row) {
    using lw = layer_weights;
    row(&lw::gate, role::gate, "ffn_gate.weight", "mlp.gate_proj.weight", {h.ffn, h.hidden});
    row(&lw::up, role::up, "ffn_up.weight", "mlp.up_proj.weight", {h.ffn, h.hidden});
    row(&lw::down, role::down, "ffn_down.weight", "mlp.down_proj.weight", {h.hidden, h.ffn});
}

static void expert_tensors(const hparams &h, const row_maker &row) {
    using lw = layer_weights;
    const int64_t e = h.experts, f = h.expert_ffn, shared = h.experts_shared * f;
    row(&lw::router, role::router, "ffn_gate_inp.weight", "mlp.gate.weight", {e, h.hidden});
    if (h.expert_sigmoid)
        row(&lw::router_bias, role::bias, "exp_probs_b.bias", "mlp.gate.e_score_correction_bias", {e})
            .optional = true;
    const auto half = [&](tensor_row &r) {
        r.whole = "blk." + std::to_string(r.layer) + ".ffn_gate_up_exps.weight";
    };
    half(row(&lw::expert_gate, role::gate, "ffn_gate_exps.weight", "mlp.experts.*.gate_proj.weight",
             {e, f, h.hidden}));
    half(row(&lw::expert_up, role::up, "ffn_up_exps.weight", "mlp.experts.*.up_proj.weight",
             {e, f, h.hidden}));
    row(&lw::expert_down, role::down, "ffn_down_exps.weight", "mlp.experts.*.down_proj.weight",
        {e, h.hidden, f});
    if (!shared) return;
    row(&lw::shared_gate, role::gate, "ffn_gate_shexp.weight", "mlp.shared_experts.gate_proj.weight",
        {shared, h.hidden});
    row(&lw::shared_up, role::up, "ffn_up_shexp.weight", "mlp.shared_experts.up_proj.weight",
        {shared, h.hidden});
    row(&lw::shared_down, role::down, "ffn_down_shexp.weight", "mlp.shared_experts.down_proj.weight",
        {h.hidden, shared});
}

static void nextn_tensors(const hparams &h, const row_maker &row) {
    using lw = layer_weights;
    row(&lw::nextn_eh, role::up, "nextn.eh_proj.weight", "eh_proj.weight", {h.hidden, 2 * h.hidden});
    row(&lw::nextn_embedding, role::embedding, "nextn.embed_tokens.weight", "embed_tokens.weight",
        {h.vocab, h.hidden});
    row(&lw::nextn_enorm, role::norm, "nextn.enorm.weight", "enorm.weight", {h.hidden});
    row(&lw::nextn_hnorm, role::norm, "nextn.hnorm.weight", "hnorm.weight", {h.hidden});
    row(&lw::nextn_head, role::output, "nextn.shared_head_head.weight", "shared_head.head.weight",
        {h.vocab, h.hidden});
    row(&lw::nextn_head_norm, role::norm, "nextn.shared_head_norm.weight", "shared_head.norm.weight",
        {h.hidden});
}

static std::vector<tensor_row> tensors(const hparams &h) {
    std::vector<tensor_row> rows = latent_top_tensors(h);
    for (int64_t i = 0; i < h.layers + h.nextn_layers; ++i) {
        const bool nextn = i >= h.layers;
        const row_maker row{rows, i, nextn};
        latent_attention_tensors(h, row);
        if (i < h.dense_layers) dense_tensors(h, row);
        else expert_tensors(h, row);
        if (nextn) nextn_tensors(h, row);
    }
    return rows;
}

kv_widths latent_kv(const hparams &h) { return {1, h.kv_rank, h.rotated}; }

float latent_score_scale(const hparams &h) {
    const double factor = h.scaling == rope_scaling::yarn ? h.rope_factor : 1.0,
                 magnitude = 1.0 + h.yarn_log_multiplier * log_f64(factor);
    return static_cast<float>(magnitude * magnitude / std::sqrt(static_cast<double>(h.head_size)));
}

// The heads' attention results, [n, heads, value_size].
static const tensor *heads_of(const build_args &a, int64_t layer, const tensor *q, const tensor *q_rope,
                              const tensor *pages) {
    const layer_weights &w = a.block(layer);
    const kv_layout &l = a.kv[static_cast<size_t>(layer)];
    const step_inputs &in = a.in;
    const bool integers = l.type == format::i8 || w.k_b->type == format::i8 || w.v_b->type == format::i8;
    if (!integers && a.form != static_cast<int32_t>(mla_form::absorbed))
        return mla_attention(
            a.g, q, q_rope, w.k_b, w.v_b, pages, in.tables, in.sequence, in.positions,
            {l, latent_score_scale(a.h), a.form == static_cast<int32_t>(mla_form::expanded)});
    const tensor *q_latent = head_matmul(a.g, q, w.k_b);
    return head_matmul(a.g,
                       attention(a.g, q_latent, pages, in.tables, in.sequence, in.positions,
                                 {l, latent_score_scale(a.h)}, q_rope),
                       w.v_b);
}

const tensor *query_latents(const build_args &a, int64_t layer, const tensor *y) {
    const layer_weights &w = a.block(layer);
    return rms_norm(a.g, adapted(a, w.q_a, y, matmul(a.g, y, w.q_a, nullptr)), w.q_a_norm, a.h.norm_eps);
}

const tensor *latent_pages(const build_args &a, int64_t layer, const tensor *y, const tensor *rope_t) {
    const layer_weights &w = a.block(layer);
    const hparams &h = a.h;
    graph &g = a.g;
    const tensor *kv =
        g.reshape(adapted(a, w.kv_a, y, matmul(g, y, w.kv_a, nullptr)), {y->ne[0], 1, h.kv_rank + h.rotated});
    const tensor *latent = rms_norm(g, g.slice(kv, 0, h.kv_rank), w.kv_a_norm, h.norm_eps);
    const tensor *k_rope = rope(g, g.slice(kv, h.kv_rank, h.rotated), rope_t, rope_pairs::adjacent);
    return kv_write(g, latent, k_rope, a.in.pages, a.in.slots, a.kv[static_cast<size_t>(layer)]);
}

static const tensor *attend(const build_args &a, int64_t layer, const tensor *x, const tensor *rope_t) {
    const layer_weights &w = a.block(layer);
    const hparams &h = a.h;
    graph &g = a.g;
    const int64_t n = x->ne[0];
    const tensor *y = rms_norm(g, x, w.attn_norm, h.norm_eps);
    const tensor *const from = w.q ? y : query_latents(a, layer, y), *const by = w.q ? w.q : w.q_b;
    const tensor *const q =
        g.reshape(adapted(a, by, from, matmul(g, from, by, nullptr)), {n, h.heads, h.head_size});
    const tensor *q_rope = rope(g, g.slice(q, h.nope_size, h.rotated), rope_t, rope_pairs::adjacent);
    const tensor *pages = latent_pages(a, layer, y, rope_t);
    const tensor *o =
        g.reshape(heads_of(a, layer, g.slice(q, 0, h.nope_size), q_rope, pages), {n, h.heads * h.value_size});
    return adapted(a, w.attn_output, o, matmul(g, o, w.attn_output, nullptr, x));
}

static const tensor *expert_block(const build_args &a, int64_t layer, const tensor *x) {
    const layer_weights &w = a.block(layer);
    const hparams &h = a.h;
    graph &g = a.g;
    const router_params p{static_cast<int32_t>(h.experts_used),
                          static_cast<int32_t>(h.expert_groups),
                          static_cast<int32_t>(h.expert_groups_used),
                          h.expert_sigmoid,
                          h.expert_norm,
                          h.expert_scale};
    const tensor *y = rms_norm(g, x, w.ffn_norm, h.norm_eps);
    const tensor *route = router(g, matmul(g, y, w.router, nullptr), w.router_bias, p), *shared = nullptr;
    if (w.shared_gate) {
        const tensor *const hidden = gated_product(a, y, nullptr, w.shared_gate, w.shared_up);
        shared = adapted(a, w.shared_down, hidden, matmul(g, hidden, w.shared_down, nullptr));
    }
    return add(g, x, experts(g, y, route, w.expert_gate, w.expert_up, w.expert_down, shared));
}

const tensor *latent_rope_table(const build_args &a) {
    rope_table_params p = rope_params_of(a.h);
    p.magnitude = a.h.scaling == rope_scaling::yarn ? static_cast<float>(a.h.attn_factor) : 1.0f;
    return rope_table(a.g, a.in.positions, nullptr, p);
}

static const tensor *build(const build_args &a) {
    const tensor *x = get_rows(a.g, a.w.embedding, a.in.ids), *rope_t = latent_rope_table(a);
    for (int64_t i = 0; i < a.h.layers; ++i) {
        a.g.mark(x);
        x = attend(a, i, x, rope_t);
        x = i < a.h.dense_layers ? feed_forward_block(a, i, x) : expert_block(a, i, x);
    }
    a.g.mark(x);
    return output_block(a, x);
}

extern const arch arch_deepseek2;
const arch arch_deepseek2 = {
    "deepseek2", "DeepseekV2ForCausalLM DeepseekV3ForCausalLM", read, tensors, latent_kv, build};

}  // namespace ds
