// What an architecture is: its hyper-parameters from GGUF keys, its tensors one row each, its KV widths and its forward pass. arch.def lists them,
// arch/<name>.cpp is one of them, read top to bottom.
#pragma once

#include "../tensor/gguf.h"
#include "../tensor/ops.h"

namespace ds {

enum class rope_scaling : int32_t { none, linear, yarn, llama3 };   // llama3: divisors a pair, from the tensor rope_freqs

struct hparams {
    int64_t layers = 0, hidden = 0, heads = 0, kv_heads = 0, head_size = 0, ffn = 0, vocab = 0;
    int64_t context = 0;              // positions the model was made for
    float norm_eps = 0;
    // rope
    int64_t rotated = 0;              // elements of a head that turn
    double rope_base = 10000;
    rope_scaling scaling = rope_scaling::none;
    double rope_factor = 1;
    int64_t original_context = 0;     // before scaling; yarn
    double beta_fast = 32, beta_slow = 1, attn_factor = 1;
};

enum class role : uint8_t { embedding, output, norm, bias, query, key, value, attention_output, gate, up, down, rope_divisors };

// What the converter does to a checkpoint's tensor on the way: nothing, or (llama) reorder each head's rows from halves to adjacent pairs, as
// GGUF files of that architecture hold them: row (h, i, p) takes the checkpoint's row (h, p, i), p of 2.
enum class reorder : uint8_t { none, adjacent_pairs };

struct layer_weights {
    const tensor *attn_norm = nullptr, *q = nullptr, *k = nullptr, *v = nullptr, *q_bias = nullptr, *k_bias = nullptr, *v_bias = nullptr;
    const tensor *q_norm = nullptr, *k_norm = nullptr, *attn_output = nullptr, *attn_output_bias = nullptr;
    const tensor *ffn_norm = nullptr, *gate = nullptr, *up = nullptr, *down = nullptr;
};
struct model_weights {
    const tensor *embedding = nullptr, *output_norm = nullptr, *output = nullptr, *rope_divisors = nullptr;
    std::vector<layer_weights> layer;
};

struct tensor_row {
    std::string name;              // in GGUF
    std::string checkpoint;        // in a Hugging Face checkpoint; empty: the converter computes it
    std::vector<int64_t> ne;       // outermost first
    role what;
    bool optional;
    reorder order = reorder::none;
    int64_t heads = 1;             // for `order`
    int64_t layer = -1;            // -1: not of a layer
    const tensor *layer_weights::*slot = nullptr;
    const tensor *model_weights::*top = nullptr;

    bool stays_f32() const { return what == role::norm || what == role::bias || what == role::rope_divisors; }
};

// Elements of K and V that a layer keeps for a position.
struct kv_widths {
    int64_t kv_heads, head_size;
};

// A step's inputs, n rows of which m ask for logits; see ops.h for what they hold.
struct step_inputs {
    const tensor *ids = nullptr, *positions = nullptr, *sequence = nullptr, *slots = nullptr;   // i32 [n]
    const tensor *tables = nullptr;    // i32 [sequences, pages]
    const tensor *pages = nullptr;     // i8 [pool pages, page bytes]
    const tensor *outputs = nullptr;   // i32 [m], rows of the step
};
struct build_args {
    graph &g;
    const hparams &h;
    const model_weights &w;
    const step_inputs &in;
    std::span<const kv_layout> kv;     // one a layer
};

struct arch {
    const char *name;              // general.architecture
    const char *checkpoint_class;  // config.json, architectures[0]
    hparams (*read)(const gguf_file &f);                               // throws status::format naming the key
    std::vector<tensor_row> (*tensors)(const hparams &h);
    kv_widths (*kv)(const hparams &h);
    const tensor *(*build)(const build_args &a);                       // logits f32 [m, vocab]
};

std::span<const arch *const> architectures();
const arch *arch_by_name(std::string_view name);                       // null when unknown
const arch *arch_by_checkpoint_class(std::string_view name);           // null when unknown
std::string architectures_known();

} // namespace ds
