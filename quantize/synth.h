// GGUF files of a named shape with random weights, so that benchmarks and tests need no download.
#pragma once

#include "output.h"
#include "vocabulary.h"

#include "../llm/model/arch.h"

namespace ds {

struct synth_options {
    std::string shape;               // one of synth_shapes()
    format type = format::q8_0;      // one of target_formats()
    uint64_t seed = 1;               // the same seed, shape and type give the same file
    int layers = 0, vocabulary = 0;  // instead of the shape's; 0: as it has
};

std::vector<std::string> synth_shapes();
// "qwen2, 28 layers of 1536, …", for the help text
std::string synth_shape_text(const std::string &shape);

// Weights are drawn so that activations keep a sane size: matrices from about N(0, 1 / columns), those that
// add to the residual stream smaller by sqrt(2 layers), norms around 1, small biases. Within a tensor the
// values come from one tile of some million, read again and again from other places: speed is the same as
// with fresh ones, and a gigabyte a second can be written; statistics of the weights mean little. The file
// has a vocabulary in which any text tokenizes.
void synthesize(const std::string &out, const synth_options &o, const job &j);

// `size` tokens: the bytes, pairs of letters with their merges, fillers, and at the end DeepSeek-R1's special
// tokens.
constexpr size_t fewest_synthetic_tokens = 272;
vocabulary synthetic_vocabulary(size_t size, const std::string &pre);

// A byte as byte-level BPE spells it: one character of UTF-8 (GPT-2's bytes_to_unicode: printable ones as
// themselves, the others from U+0100 on).
std::string byte_level_text(uint8_t byte);

}  // namespace ds
