// Qwen 3, DeepSeek-R1-0528-Qwen3 (arXiv 2505.09388): no biases, an RMS norm over each head of q and k before
// RoPE, explicit head size.
#include "../blocks.h"

namespace ds {

static constexpr decoder_traits traits = {
    .qkv_bias = false, .optional_qkv_bias = false, .qk_norm = true, .qk_order = reorder::none};

static hparams read(const gguf_file &f) { return read_decoder(f, "qwen3"); }

static std::vector<tensor_row> tensors(const hparams &h) { return decoder_tensors(h, traits); }

static const tensor *build(const build_args &a) { return decoder(a, rope_pairs::halves); }

extern const arch arch_qwen3;
const arch arch_qwen3 = {"qwen3", "Qwen3ForCausalLM", read, tensors, decoder_kv, build};

}  // namespace ds
