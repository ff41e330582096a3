// Which format each tensor of a model gets when one is asked for.
#pragma once

#include "output.h"

#include "../llm/model/arch.h"

namespace ds {

// The format nearest to `wanted` that a tensor can have: norms, biases and rope divisors stay F32; a row that
// no whole number of blocks of 256 fills gets blocks of 32 of like size, and one that those do not fill
// either F16.
format target_format(const tensor_row &row, format wanted);

// Of less than 8 bits: what a file in it meets best can be weighed by column.
bool is_weighted(format f);

// The same for all tensors of a model, with the choices that are usual for mixes: in those of less than 8
// bits the output head is Q6_K, and in Q2_K to Q5_K what suffers most from few bits (values, the
// feed-forward's way down, the attention's output) has more of them. As in llama.cpp's quantize
// (src/llama-quant.cpp), so that a file of that name has the size and quality that its name promises.
class format_policy {
public:
    format_policy(format wanted, const hparams &h, bool tied)
        : wanted_(wanted), layers_(h.layers), group_(h.heads / std::max<int64_t>(h.kv_heads, 1)),
          tied_(tied) {}
    format_policy(format wanted, const gguf_file &f);  // of a model's file
    format operator()(const tensor_row &row);
    // which tensors got another format than the mix wants, for the length of their rows
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
