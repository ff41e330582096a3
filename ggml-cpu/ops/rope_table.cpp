// rope_table on the CPU.

#include "../variants.h"

namespace ds {

static constexpr variant list[] = {reference_variant};
constexpr variants rope_table_variants = list;

} // namespace ds
