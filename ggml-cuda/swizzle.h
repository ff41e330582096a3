// Where rows of a tile lie in shared memory.
#pragma once

#include "../tensor/numerics.h"

namespace ds::cuda {

// Where the 16-byte piece `piece` of row `row` lies in shared memory, in rows of `pieces` such: so moved
// about within a row that eight rows' pieces of one number, which ldmatrix reads together, lie in different
// banks.
DS_HD int swizzled(int row, int piece, int pieces) {
    const int moved = pieces % 8 == 0   ? row & 7
                      : pieces % 4 == 0 ? (row >> 1) & 3
                      : pieces % 2 == 0 ? (row >> 2) & 1
                                        : 0;
    return (row * pieces + (piece ^ moved)) * 16;
}

}  // namespace ds::cuda
