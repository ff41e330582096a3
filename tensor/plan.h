// Where each result of a graph lies in one arena: a result's bytes are free again after its last use.
#pragma once

#include "backend.h"

namespace ds {

// Made for a graph at its largest sizes, it serves every graph of the same nodes with smaller ones (a result
// only shrinks), so a step of any size needs no planning and no memory of its own.
struct plan {
    std::vector<size_t> offset;  // a node; of a result that shares a source's bytes, not used
    size_t arena_bytes = 0;
    size_t work_bytes = 0;
};

plan make_plan(const graph &g, const backend &b);
void place(graph &g, const plan &p, void *arena);  // sets data of every result and view

}  // namespace ds
