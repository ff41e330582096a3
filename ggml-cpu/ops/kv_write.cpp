// kv_write on the CPU.

#include "../variants.h"

namespace ds {

static constexpr variant list[] = {reference_variant};
constexpr variants kv_write_variants = list;

} // namespace ds
