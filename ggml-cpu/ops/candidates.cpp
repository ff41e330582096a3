// candidates on the CPU: the reference only. Graphs on host memory have no such node, as sampling reads the
// logits there.
#include "../variants.h"

namespace ds {

static constexpr variant list[] = {reference_variant};
constexpr variants candidates_variants = list;

}  // namespace ds
