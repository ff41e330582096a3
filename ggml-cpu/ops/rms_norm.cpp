// rms_norm on the CPU.

#include "../variants.h"

namespace ds {

static constexpr variant list[] = {reference_variant};
constexpr variants rms_norm_variants = list;

} // namespace ds
