// gated on the CPU.

#include "../variants.h"

namespace ds {

static constexpr variant list[] = {reference_variant};
constexpr variants gated_variants = list;

} // namespace ds
