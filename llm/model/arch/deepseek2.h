// What deepseek2 offers beside its row in arch.def.
#pragma once

#include <cstdint>

namespace ds {

// How layers with latents attend (see mla_attention): all rows in one form, or each run of rows in the form
// that is less work. With integers in pages or weights, it is always the absorbed form. The values are those
// of build_args::form.
enum class mla_form : int32_t { absorbed = 0, automatic = 1, expanded = 2 };

}  // namespace ds
