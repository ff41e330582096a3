// Files whose matrices are f16, bf16 or i8, by their sensitivity.
#pragma once

#include "output.h"

#include <limits>

namespace ds {

struct mixed_options {
    std::vector<std::string> texts;  // to measure on
    // a file of statistics whose scales are folded in; empty: none
    std::string calibration = {};
    // of the mean negative log-likelihood, relative to the model in the file `in`
    double max_nll_loss = std::numeric_limits<double>::infinity();
    uint64_t max_bytes = UINT64_MAX;  // of the output
    uint64_t tokens = 4096;           // of the texts, at most
};

// With max_nll_loss, the smallest file within it; with max_bytes alone, the best one that fits. A matrix's
// sensitivity to int8 is the divergence of the model's distributions with that matrix alone in int8. Throws
// status::argument, with what is possible, when the bounds cannot be met.
void requantize_mixed(const std::string &in, const std::string &out, const mixed_options &o, const job &j);

}  // namespace ds
