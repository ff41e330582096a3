// Llama 2 and 3, deepseek-llm, deepseek-coder, R1-Distill-Llama (arXiv 2302.13971, 2407.21783), and the class
// R1ZeroForCausalLM, which is llama by another name. GGUF files store q and k with the two halves of a head
// interleaved, so rotated pairs are adjacent here. Llama 3's RoPE scaling is a tensor of divisors.
#include "../blocks.h"

namespace ds {

static constexpr decoder_traits traits = {
    .qkv_bias = true, .optional_qkv_bias = true, .qk_norm = false, .qk_order = reorder::adjacent_pairs};

static hparams read(const gguf_file &f) { return read_decoder(f, "llama"); }

static std::vector<tensor_row> tensors(const hparams &h) { return decoder_tensors(h, traits); }

static const tensor *build(const build_args &a) { return decoder(a, rope_pairs::adjacent); }

extern const arch arch_llama;
const arch arch_llama = {"llama", "LlamaForCausalLM R1ZeroForCausalLM", read, tensors, decoder_kv, build};

}  // namespace ds
