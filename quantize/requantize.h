// A GGUF file's tensors in another format; the metadata stays.
#pragma once

#include "output.h"

namespace ds {

// From any format that runs to `type`, one of target_formats(). Tensors that the architecture keeps in F32, or does not know, are copied as they are.
// Throws ds::error naming file and tensor; nothing is left under `out` then but what was there before. `in` and `out` may be the same path.
void requantize(const std::string &in, const std::string &out, format type, const job &j);

} // namespace ds
