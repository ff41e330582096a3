// R1: a decoder whose attention heads are routed (Mixture-of-Head attention, arXiv 2410.11842) over latent
// keys and values (arXiv 2405.04434), and whose layers may share blocks of weights.
//
// Each row chooses its active heads (head_router); an inactive one is neither computed nor, where rows are
// few, read. Latents belong to all heads, so that every position stays visible to every head. Attention is
// absorbed: rows with heads of their own leave nothing to expand in common. Pages are a layer's, weights a
// block's.
#include "latent.h"

namespace ds {

// Blocks are stored from 0 on, without gaps.
static std::vector<int32_t> read_share_map(const keys &k, int64_t layers) {
    const char *const key = "block_share_map";
    if (!k.f.has(k.full(key))) return {};
    std::vector<int32_t> map = k.f.get_ints(k.full(key));
    if (map.size() != static_cast<size_t>(layers))
        k.f.fail(k.full(key), "has " + std::to_string(map.size()) + " entries, must have block_count, " +
                                  std::to_string(layers));
    std::vector<bool> used(map.size(), false);
    for (size_t i = 0; i < map.size(); ++i) {
        if (map[i] < 0 || map[i] >= layers)
            k.f.fail(k.full(key), "entry " + std::to_string(i) + " is " + std::to_string(map[i]) +
                                      ", must be from 0 to " + std::to_string(layers - 1));
        used[static_cast<size_t>(map[i])] = true;
    }
    const auto blocks = static_cast<size_t>(1 + *std::max_element(map.begin(), map.end()));
    for (size_t b = 0; b < blocks; ++b)
        if (!used[b])
            k.f.fail(k.full(key),
                     "names block " + std::to_string(blocks - 1) + ", but not block " + std::to_string(b));
    return map;
}

static void read_heads(const keys &k, hparams &h) {
    h.heads_used = k.count("attention.head_used_count", h.heads);
    h.heads_shared = static_cast<int64_t>(k.f.get_uint(k.full("attention.head_shared_count"), 4096, 0));
    if (h.heads_shared >= h.heads_used)
        k.f.fail(k.full("attention.head_shared_count"), "is " + std::to_string(h.heads_shared) +
                                                            ", must be less than head_used_count, " +
                                                            std::to_string(h.heads_used));
}

static hparams read(const gguf_file &f) {
    const keys k{f, "r1"};
    hparams h;
    read_sizes(k, h);
    read_latents(k, h);
    read_heads(k, h);
    h.block_share_map = read_share_map(k, h.layers);
    return h;
}

static std::vector<tensor_row> tensors(const hparams &h) {
    using lw = layer_weights;
    std::vector<tensor_row> rows = latent_top_tensors(h);
    for (int64_t i = 0; i < h.blocks(); ++i) {
        const row_maker row{rows, i};
        latent_attention_tensors(h, row);
        row(&lw::head_routed, role::router, "attn_head_routed.weight", "self_attn.head_gate.routed.weight",
            {h.heads - h.heads_shared, h.hidden});
        if (h.heads_shared)
            row(&lw::head_shared, role::router, "attn_head_shared.weight",
                "self_attn.head_gate.shared.weight", {h.heads_shared, h.hidden});
        row(&lw::head_mix, role::router, "attn_head_mix.weight", "self_attn.head_gate.mix.weight",
            {2, h.hidden});
        dense_tensors(h, row);
    }
    return rows;
}

// x times the rows of w that belong to each row's active heads.
static const tensor *active(graph &g, const tensor *x, const tensor *w, int64_t heads, const tensor *route) {
    return routed_matmul(g, x, g.reshape(w, {heads, w->ne[0] / heads, w->ne[1]}), route);
}

static const tensor *attend(const build_args &a, int64_t layer, const tensor *x, const tensor *rope_t) {
    const layer_weights &w = a.block(layer);
    const hparams &h = a.h;
    graph &g = a.g;
    const tensor *y = rms_norm(g, x, w.attn_norm, h.norm_eps);
    const tensor *routed = matmul(g, y, w.head_routed, nullptr);
    const tensor *shared = w.head_shared ? matmul(g, y, w.head_shared, nullptr) : nullptr;
    const tensor *mix = matmul(g, y, w.head_mix, nullptr);
    const tensor *route =
        head_router(g, routed, shared, mix, static_cast<int32_t>(h.heads_used - h.heads_shared));
    const tensor *q = w.q ? active(g, y, w.q, h.heads, route)
                          : active(g, query_latents(a, layer, y), w.q_b, h.heads, route);
    const tensor *q_rope = rope(g, g.slice(q, h.nope_size, h.rotated), rope_t, rope_pairs::adjacent);
    const tensor *pages = latent_pages(a, layer, y, rope_t);
    const tensor *q_latent = routed_matmul(g, g.slice(q, 0, h.nope_size), w.k_b, route);
    const attention_params p{a.kv[static_cast<size_t>(layer)], latent_score_scale(h)};
    const tensor *latents =
        attention(g, q_latent, pages, a.in.tables, a.in.sequence, a.in.positions, p, q_rope);
    const tensor *o = routed_matmul(g, latents, w.v_b, route);
    if (!a.adapts({w.attn_output})) return spread_matmul(g, o, route, w.attn_output, x);
    o = routed_spread(g, o, route, static_cast<int32_t>(h.heads));
    return adapted(a, w.attn_output, o, matmul(g, o, w.attn_output, nullptr, x));
}

static const tensor *build(const build_args &a) {
    const tensor *x = get_rows(a.g, a.w.embedding, a.in.ids), *rope_t = latent_rope_table(a);
    for (int64_t i = 0; i < a.h.layers; ++i) {
        a.g.mark(x);
        x = feed_forward_block(a, i, attend(a, i, x, rope_t));
    }
    a.g.mark(x);
    return output_block(a, x);
}

extern const arch arch_r1;
const arch arch_r1 = {"r1", "R1ForCausalLM", read, tensors, latent_kv, build};

}  // namespace ds
