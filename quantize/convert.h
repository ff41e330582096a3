// A Hugging Face checkpoint directory to one GGUF file.
#pragma once

#include "output.h"

namespace ds {

struct convert_options {
    format type = format::q8_0;  // one of target_formats(), of every tensor that does not stay F32
    // metadata and vocabulary, no tensors; the directory then needs neither weights nor config.json
    bool vocab_only = false;
    std::string name = {};  // general.name; empty: the directory's
};

// Throws ds::error naming file, field and value; a file at `out` is then unchanged.
void convert(const std::string &directory, const std::string &out, const convert_options &o, const job &j);

// The smallest of bf16, f16 and f32 that holds every weight of the checkpoint without loss.
format lossless_type(const std::string &directory);

// The metadata alone, as a GGUF file in memory: the output of vocab_only.
std::string convert_metadata(const std::string &directory, const convert_options &o, const job &j);

}  // namespace ds
