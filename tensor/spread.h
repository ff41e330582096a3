// spread_matmul as the two operations that it stands for.
#pragma once

#include "op.h"

namespace ds {

// They are outside any graph and run in this order; n must outlive them. `scratch`, of `bytes`, holds the
// result of the first; null if only shapes are needed.
struct spread_product {
    node ops[2];

    spread_product(const node &n, char *scratch);
    spread_product(const spread_product &) = delete;
    static size_t bytes(const node &n);
};

}  // namespace ds
