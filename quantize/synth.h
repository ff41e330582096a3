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
    int layers = 0, vocabulary = 0;  // 0: the shape's
};

std::vector<std::string> synth_shapes();
// "qwen2, 28 layers of 1536, …", for the help text
std::string synth_shape_text(const std::string &shape);

// The file's keys, without tensors.
std::string synth_metadata(const synth_options &o);

// Weights are drawn so that activations stay in a usual range: matrices from about N(0, 1 / columns), those
// that add to the residual stream smaller by sqrt(2 layers), norms around 1, small biases. A tensor repeats
// pieces of one tile of a million values. It runs at the same speed as with fresh values and is written at a
// gigabyte a second, but the statistics of its weights mean little. The file's vocabulary can tokenize any
// text.
void synthesize(const std::string &out, const synth_options &o, const job &j);

// `size` tokens: the bytes, pairs of letters with their merges, fillers, and at the end DeepSeek-R1's special
// tokens.
constexpr size_t fewest_synthetic_tokens = 272;
vocabulary synthetic_vocabulary(size_t size, const std::string &pre);

}  // namespace ds
