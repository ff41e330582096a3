// Files whose matrices are f16, bf16 or i8, each as it can bear it.
#pragma once

#include "output.h"

#include <limits>

namespace ds {

struct mixed_options {
    std::vector<std::string> texts;  // that everything is measured on
    // a file of statistics whose scales are folded in; empty: none
    std::string calibration = {};
    // of the mean negative log-likelihood, relative to the model in the file `in`
    double max_nll_loss = std::numeric_limits<double>::infinity();
    uint64_t max_bytes = UINT64_MAX;  // of the file to be written
    uint64_t tokens = 4096;           // of the texts, at most
};

// With max_nll_loss the smallest file that keeps it, with max_bytes alone the best one that fits. How much a
// matrix suffers from int8 is measured: the divergence of the model's distributions with that one matrix in
// int8. Throws status::argument, with what can be had, when the bounds cannot be met.
void requantize_mixed(const std::string &in, const std::string &out, const mixed_options &o, const job &j);

}  // namespace ds
