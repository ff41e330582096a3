// A checkpoint's config.json as GGUF metadata of its architecture.
#pragma once

#include "json.h"
#include "output.h"

#include "../llm/model/arch.h"

#include <optional>

namespace ds {

// Llama 3's scaling of RoPE's frequencies by region (config.json, rope_scaling of rope_type "llama3").
struct llama3_scaling {
    double factor, low, high, original_context;
};

// The architecture that config.json names. Throws status::unsupported, listing the known ones.
const arch &checkpoint_arch(const json_node &config);

// Sets general.architecture and the architecture's keys. Refuses what the forward pass does not support:
// another activation, a sliding window, quantized weights other than FP8 blocks, an unknown RoPE scaling.
void set_architecture_keys(const json_node &config, gguf_writer &w, const job &j = {});

bool has_llama3_scaling(const json_node &config);
llama3_scaling read_llama3_scaling(const json_node &config);

// The divisors of RoPE's frequencies, [rotated / 2], as in the file's rope_freqs tensor.
std::vector<float> llama3_divisors(const llama3_scaling &s, double base, int64_t rotated);

bool ties_embeddings(const json_node &config);

// The size of the blocks of FP8 weights that share a scale; none if the weights are not FP8.
struct fp8_blocks {
    int64_t rows, columns;
};
std::optional<fp8_blocks> read_fp8_blocks(const json_node &config);

}  // namespace ds
