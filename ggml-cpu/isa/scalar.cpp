// The kernels without vectors.

#include "isa.h"

namespace ds {
const isa isa_scalar = {.name = "scalar", .available = [] { return true; }};
}
