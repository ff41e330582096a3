// Training an adapter (LoRA, arXiv 2106.09685): what is trained in place of a model's weights.
#pragma once

#include "../model/adapter.h"

namespace ds {

// For each adaptable row of the model its a [rank, in] and its b [out, rank], named as in an adapter's file.
std::vector<tensor_row> lora_rows(const model &m, int64_t rank);
// Products with `w`, weights of the model, get what these tensors add; `trained`: in the order of lora_rows.
adaptation lora_adaptation(const model &m, const model_weights &w, std::span<const tensor *const> trained,
                           float scale);
// The first values: of a uniform in +- 1 / sqrt(in), the same on every machine; of b zeros.
void lora_start(tensor &t, size_t index);

}  // namespace ds
