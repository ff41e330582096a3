// SmoothQuant (arXiv 2211.10438): a matrix's columns are multiplied by s and the producers of its input
// divided by s, so that both weights and activations quantize well. The model computes the same function.
#pragma once

#include "calibrate.h"
#include "requantize.h"

namespace ds {

struct smoothing {
    std::unordered_map<std::string, multipliers> factors;  // by tensor
    // of each site where scales fold in, in the order of the layers; 0: unchanged
    std::vector<float> alphas;
    float mean_alpha() const;  // of those that are not 0
};

// `jobs` are all tensors of the model that `c` was measured on. Scales fold from q, k, v into attn_norm, from
// attn_output into v, from gate and up into ffn_norm, from down into up, and from an output head that is not
// tied into output_norm.
smoothing smooth(const gguf_file &f, const std::vector<encode_job> &jobs, const calibration &c, const job &j);

// norms and biases with factors are then encoded, no longer copied
void fold_into(std::vector<encode_job> &jobs, const smoothing &s);

// Keys deepseek.quant.* record the folding for inspection; inference needs none of them.
void set_smoothing_keys(gguf_writer &w, const calibration &c, const smoothing &s);

// Like requantize, to `type`, with the scales that follow from the calibration file `stats`.
void requantize_smoothed(const std::string &in, const std::string &out, format type, const std::string &stats,
                         const job &j);

}  // namespace ds
