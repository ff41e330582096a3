// The format of each tensor of a model, given the format wanted.
#pragma once

#include "output.h"

#include "../llm/model/arch.h"

namespace ds {

// The format nearest to `wanted` that a tensor can have. Norms, biases and RoPE divisors stay F32. Rows that
// are not whole blocks of 256 get blocks of 32 of similar size; rows that are not whole blocks of 32 get F16.
format target_format(const tensor_row &row, format wanted);

// Formats of less than 8 bits, whose errors can be weighted by column.
bool is_weighted(format f);

// The same for all tensors of a model, with the usual mixes. Below 8 bits the output head is Q6_K. In Q2_K to
// Q5_K the most sensitive tensors (values, the feed-forward's down projection, the attention's output) get
// more bits. As in llama.cpp's quantize (src/llama-quant.cpp), so that a file has the size and quality that
// its name promises.
class format_policy {
public:
    format_policy(format wanted, const hparams &h, bool tied)
        : wanted_(wanted), layers_(h.blocks()), group_(h.heads / std::max<int64_t>(h.kv_heads, 1)),
          tied_(tied) {}
    format_policy(format wanted, const gguf_file &f);  // of a model's file
    format operator()(const tensor_row &row);
    // reports the tensors that got another format than the mix's, because of the length of their rows
    void remark(const job &j) const;

private:
    format wanted_;
    int64_t layers_, group_;
    bool tied_;
    size_t fallbacks_ = 0;
    std::string first_;

    format choose(const tensor_row &row) const;
};

}  // namespace ds
