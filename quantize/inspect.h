// The contents of a GGUF file, as text for people or as JSON for programs.
#pragma once

#include "../tensor/gguf.h"

namespace ds {

struct inspect_options {
    size_t array_elements = 8;  // shown of an array; the rest is cut
    bool tensors = true;        // list each tensor
};

std::string inspect_text(const gguf_file &f, const inspect_options &o);
// one object: file, metadata, tensors, totals (and parts, of several files); strings that are not UTF-8 get
// U+FFFD
std::string inspect_json(const gguf_file &f, const inspect_options &o);

}  // namespace ds
