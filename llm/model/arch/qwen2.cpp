// Qwen 2 and 2.5, R1-Distill-Qwen (arXiv 2407.10671): biases on q, k and v; RoPE pairs the halves of a head.
#include "../blocks.h"

namespace ds {

static constexpr decoder_traits traits = {
    .qkv_bias = true, .optional_qkv_bias = false, .qk_norm = false, .qk_order = reorder::none};

static hparams read(const gguf_file &f) { return read_decoder(f, "qwen2"); }

static std::vector<tensor_row> tensors(const hparams &h) { return decoder_tensors(h, traits); }

static const tensor *build(const build_args &a) { return decoder(a, rope_pairs::halves); }

extern const arch arch_qwen2;
const arch arch_qwen2 = {"qwen2", "Qwen2ForCausalLM", read, tensors, decoder_kv, build};

}  // namespace ds
