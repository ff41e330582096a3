// The memory plan of a graph: each result's offset in one arena. A result's bytes are reused after its last
// use.
#pragma once

#include "backend.h"

namespace ds {

// A plan made for a graph at its largest sizes serves every graph of the same nodes with smaller ones
// (results only shrink), so a step of any size needs no planning and no memory of its own.
struct plan {
    std::vector<size_t> offset;  // per node; unused for a result that shares a source's bytes
    size_t arena_bytes = 0;
    size_t work_bytes = 0;
};

plan make_plan(const graph &g, const backend &b);
void place(graph &g, const plan &p, void *arena);  // sets data of every result and view

}  // namespace ds
