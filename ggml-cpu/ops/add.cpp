// add on the CPU.

#include "../variants.h"

namespace ds {

static constexpr variant list[] = {reference_variant};
constexpr variants add_variants = list;

} // namespace ds
