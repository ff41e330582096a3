// The layout of a tile's rows in shared memory.
#pragma once

#include "../tensor/numerics.h"

namespace ds::cuda {

// Byte offset of the 16-byte piece `piece` of row `row`, for rows of `pieces` pieces. Pieces are permuted
// within a row so that the same piece of eight consecutive rows, which ldmatrix reads together, is in
// different banks.
DS_HD int swizzled(int row, int piece, int pieces) {
    const int moved = pieces % 8 == 0   ? row & 7
                      : pieces % 4 == 0 ? (row >> 1) & 3
                      : pieces % 2 == 0 ? (row >> 2) & 1
                                        : 0;
    return (row * pieces + (piece ^ moved)) * 16;
}

}  // namespace ds::cuda
