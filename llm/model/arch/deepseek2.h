// What deepseek2 offers beside its row in arch.def.
#pragma once

#include <cstdint>

namespace ds {

// How layers with latents attend when neither pages nor weights are integers (see mla_attention): every row in
// one form, or each run of rows in the one with less work. Integers are always attended to in the absorbed form.
// The values are those of build_args::form.
enum class mla_form : int32_t { absorbed = 0, automatic = 1, expanded = 2 };

}  // namespace ds
