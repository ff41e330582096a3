// The parts of an architecture: its hyper-parameters from GGUF keys, one row for each of its tensors, its KV
// widths and its forward pass. arch.def lists the architectures; each is one file, arch/<name>.cpp.
#pragma once

#include "../../tensor/gguf.h"
#include "../../tensor/ops.h"

#include <algorithm>
#include <unordered_map>

namespace ds {

// llama3: one divisor per rotated pair, from the tensor rope_freqs.
enum class rope_scaling : int32_t { none, linear, yarn, llama3 };

struct hparams {
    int64_t layers = 0, hidden = 0, heads = 0, kv_heads = 0, head_size = 0, ffn = 0, vocab = 0;
    int64_t context = 0;  // positions that the model was trained for
    float norm_eps = 0;
    // rope
    int64_t rotated = 0;  // elements of a head that are rotated
    double rope_base = 10000;
    rope_scaling scaling = rope_scaling::none;
    double rope_factor = 1;
    int64_t original_context = 0;  // before scaling, for yarn
    double beta_fast = 32, beta_slow = 1, attn_factor = 1;
    // Latent attention (MLA): a head's key is nope_size elements computed from the latent, then `rotated`
    // rotated ones, which all heads share. q_rank 0: q is computed from the hidden state directly.
    int64_t q_rank = 0, kv_rank = 0, nope_size = 0, value_size = 0;
    double yarn_log_multiplier = 0;  // scores are multiplied by (1 + this * ln(rope_factor))^2
    // Mixture of experts, in all layers from dense_layers on.
    int64_t experts = 0, experts_used = 0, experts_shared = 0, expert_ffn = 0, dense_layers = 0;
    int64_t expert_groups = 1, expert_groups_used = 1;
    bool expert_sigmoid = false, expert_norm = false;
    float expert_scale = 1;
    int64_t nextn_layers = 0;  // after the others, for multi-token prediction; loaded but not run
    // Routed attention heads: of `heads`, heads_used are active in a row, the first heads_shared always.
    int64_t heads_used = 0, heads_shared = 0;
    // The block of weights that each layer runs, where layers share blocks; empty: each has its own.
    std::vector<int32_t> block_share_map;

    int64_t block_of(int64_t layer) const {
        return block_share_map.empty() ? layer : block_share_map[static_cast<size_t>(layer)];
    }
    int64_t blocks() const {  // that layers run
        if (block_share_map.empty()) return layers;
        return 1 + *std::max_element(block_share_map.begin(), block_share_map.end());
    }
};

enum class role : uint8_t {
    embedding,
    output,
    norm,
    bias,
    query,
    key,
    value,
    attention_output,
    gate,
    up,
    down,
    rope_divisors,
    router
};

// How the converter rearranges a checkpoint's tensor. adjacent_pairs (llama): each head's rows change from
// halves to adjacent pairs, as in GGUF files of that architecture: row (h, i, p) is the checkpoint's row (h,
// p, i), p being 0 or 1. The other two divide MLA's kv_b, in which each head has its key rows and then its
// value rows: key_part takes each head's key rows and transposes them, value_part takes its value rows.
enum class reorder : uint8_t { none, adjacent_pairs, key_part, value_part };

struct layer_weights {
    const tensor *attn_norm = nullptr, *q = nullptr, *k = nullptr, *v = nullptr, *q_bias = nullptr,
                 *k_bias = nullptr, *v_bias = nullptr;
    const tensor *q_norm = nullptr, *k_norm = nullptr, *attn_output = nullptr, *attn_output_bias = nullptr;
    const tensor *ffn_norm = nullptr, *gate = nullptr, *up = nullptr, *down = nullptr;
    const tensor *q_a = nullptr, *q_a_norm = nullptr, *q_b = nullptr, *kv_a = nullptr, *kv_a_norm = nullptr,
                 *k_b = nullptr, *v_b = nullptr;
    const tensor *head_routed = nullptr, *head_shared = nullptr, *head_mix = nullptr;
    const tensor *router = nullptr, *router_bias = nullptr, *expert_gate = nullptr, *expert_up = nullptr,
                 *expert_down = nullptr;
    const tensor *shared_gate = nullptr, *shared_up = nullptr, *shared_down = nullptr;
    const tensor *nextn_eh = nullptr, *nextn_embedding = nullptr, *nextn_enorm = nullptr,
                 *nextn_hnorm = nullptr, *nextn_head = nullptr, *nextn_head_norm = nullptr;
};
struct model_weights {
    const tensor *embedding = nullptr, *output_norm = nullptr, *output = nullptr, *rope_divisors = nullptr;
    std::vector<layer_weights> layer;  // by block; see hparams::block_of
};

struct tensor_row {
    std::string name;  // in GGUF
    // In a Hugging Face checkpoint; empty: the converter computes it. "*" stands for the index along ne[0],
    // with one tensor for each.
    std::string checkpoint;
    std::vector<int64_t> ne;  // outermost first
    role what;
    bool optional;
    reorder order = reorder::none;
    int64_t heads = 1;  // for `order`
    // For the two parts of kv_b, and for the experts' gate and up: the tensor that holds both in other files.
    std::string whole = {};
    int64_t layer = -1;  // its block; -1: not in a layer
    const tensor *layer_weights::*slot = nullptr;
    const tensor *model_weights::*top = nullptr;

    // Whether an adapter may change it: a product of its own, of one x for all its rows.
    bool adapts(const hparams &h) const;
    bool stays_f32() const {
        return what == role::norm || what == role::bias || what == role::rope_divisors ||
               what == role::router;
    }
};

// Where the row's tensor is among the weights.
inline const tensor *&slot_of(model_weights &w, const tensor_row &row) {
    return row.slot ? w.layer[static_cast<size_t>(row.layer)].*row.slot : w.*row.top;
}
inline const tensor *slot_of(const model_weights &w, const tensor_row &row) {
    return slot_of(const_cast<model_weights &>(w), row);
}

// Elements of K and V that a layer caches for each position.
struct kv_widths {
    int64_t kv_heads, head_size;
    int64_t rope_size = 0;  // nonzero for latent pages; see kv_layout
};

// A step's inputs: n rows, m of which need logits. Their contents are described in ops.h.
struct step_inputs {
    const tensor *ids = nullptr, *positions = nullptr, *sequence = nullptr, *slots = nullptr;  // i32 [n]
    const tensor *tables = nullptr;   // i32 [sequences, pages]
    const tensor *pages = nullptr;    // i8 [pool pages, page bytes]
    const tensor *outputs = nullptr;  // i32 [m], indices of rows
};
// Where adapters (LoRA) change products: by weights.
struct adaptation {
    struct of_weight {
        int32_t matrix;  // its index in lora_slot::matrices
        const tensor *a, *b;
        float scale;
    };
    std::unordered_map<const tensor *, of_weight> weights;
    // lora_slot[sequences] as bytes: rows are adapted by what their sequence has there, with ranks up to
    // `rank`. Null: all rows by a and b.
    const tensor *slots = nullptr;
    int32_t rank = 0;
};

struct build_args {
    graph &g;
    const hparams &h;
    const model_weights &w;
    const step_inputs &in;
    std::span<const kv_layout> kv;  // one per layer
    // Of the forms that an architecture may offer. 0: the one whose rows do not depend on the others.
    int32_t form = 0;
    bool rows_only = false;  // without the output head: the normed rows that logits are products of
    const adaptation *adapters = nullptr;

    bool adapts(std::initializer_list<const tensor *> list) const {
        for (const tensor *const t : list)
            if (adapters && adapters->weights.count(t)) return true;
        return false;
    }

    const layer_weights &block(int64_t layer) const {
        return w.layer[static_cast<size_t>(h.block_of(layer))];
    }
};

struct arch {
    const char *name;                     // general.architecture
    const char *checkpoint_class;         // config.json, architectures[0]; several are separated by a space
    hparams (*read)(const gguf_file &f);  // throws status::format naming the key
    std::vector<tensor_row> (*tensors)(const hparams &h);
    kv_widths (*kv)(const hparams &h);
    const tensor *(*build)(const build_args &a);  // logits f32 [m, vocab], or rows f32 [m, hidden]
};

std::span<const arch *const> architectures();
const arch *arch_by_name(std::string_view name);              // null when unknown
const arch *arch_by_checkpoint_class(std::string_view name);  // null when unknown
std::string architectures_known();

}  // namespace ds
