// What runs a graph: a table of functions over memory and threads (or streams) of its own. The same graph, placed in a backend's memory, gives on every
// backend what the reference forward of its operations gives, to the bit wherever numerics.md says so.
#pragma once

#include "graph.h"

#include <atomic>

namespace ds {

struct backend;

struct backend_fns {
    const char *name;
    bool host_memory;       // its memory can be used through pointers, and weights stay where they were mapped
    void (*free)(backend *);
    void *(*alloc)(backend *, size_t bytes);                        // throws status::memory
    void (*release)(backend *, void *p, size_t bytes);
    void (*upload)(backend *, void *dst, const void *src, size_t bytes);
    void (*download)(backend *, void *dst, const void *src, size_t bytes);
    // Scratch for the node at its present shape, in bytes; grows with every dimension of the shapes.
    size_t (*work_bytes)(const backend *, const node &);
    // Runs the nodes in order; every tensor has its data, `work` holds the largest work_bytes. Allocates nothing. Returns false when `stop` became
    // true between two nodes (what was computed is then worthless).
    bool (*run)(backend *, const graph &, void *work, const std::atomic<bool> *stop);
    // The name of the variant that run would take for this node.
    const char *(*variant)(const backend *, const node &);
};

struct backend {
    const backend_fns *fn;
};

struct backend_deleter {
    void operator()(backend *b) const { b->fn->free(b); }
};
using backend_ptr = std::unique_ptr<backend, backend_deleter>;

} // namespace ds
