// get_rows on the CPU.

#include "../variants.h"

namespace ds {

static constexpr variant list[] = {reference_variant};
constexpr variants get_rows_variants = list;

} // namespace ds
