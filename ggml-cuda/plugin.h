// The line between the library and libdeepseek-cuda.so: plain functions that never throw, for the two may
// have been linked to different C++ run times. What fails says so in a cuda_failure. Graphs and nodes cross
// it as they lie in memory, so both sides must be made of the same headers: plugin_layout tells.
#pragma once

#include "../tensor/backend.h"

namespace ds {

struct cuda_failure {
    status code = status::ok;
    char text[500] = "";
};

struct cuda_device {
    char name[256];
    uint64_t memory_total, memory_free;
    int32_t major, minor;  // compute capability
    int32_t processors;    // streaming multiprocessors
};

// Raised with every change of the functions below.
constexpr uint64_t plugin_version = 2;

// Numbers that change with anything that crosses the line.
constexpr uint64_t plugin_layout() {
    constexpr const char *names[] = {
#define DS_OP(name, sources, ...) #name #sources,
#include "../tensor/ops.def"
#undef DS_OP
#define DS_FORMAT(name, text, id, block, bytes, ...) #name #id #block #bytes,
#include "../tensor/formats.def"
#undef DS_FORMAT
    };
    uint64_t sum = 0xcbf29ce484222325u;  // FNV-1a
    const auto add = [&sum](uint64_t x) { sum = (sum ^ x) * 0x100000001b3u; };
    for (const char *name : names)
        for (; *name; ++name) add(static_cast<unsigned char>(*name));
    for (const uint64_t size :
         {sizeof(tensor), sizeof(node), offsetof(node, out), offsetof(node, src), offsetof(node, params),
          offsetof(tensor, data), sizeof(graph), sizeof(cuda_device), sizeof(cuda_failure), plugin_version})
        add(size);
    return sum;
}

// `self` is what open gave. Functions that may fail return false then, and leave outputs alone. Devices count
// from 0.
struct cuda_plugin {
    bool (*count)(int32_t *devices, cuda_failure *);
    bool (*describe)(int32_t device, cuda_device *, cuda_failure *);
    // `forced`: names of operations and variants by turns, ending with null. `record`: graphs with an
    // identity may be recorded. `overlap`: kernels may begin early.
    bool (*open)(int32_t device, const char *const *forced, bool record, bool overlap, void **self,
                 cuda_failure *);
    void (*close)(void *self);
    bool (*alloc)(void *self, size_t bytes, void **p, cuda_failure *);
    void (*release)(void *self, void *p);
    bool (*alloc_host)(void *self, size_t bytes, void **p, cuda_failure *);
    void (*release_host)(void *self, void *p);
    bool (*upload)(void *self, void *dst, const void *src, size_t bytes, cuda_failure *);
    bool (*download)(void *self, void *dst, const void *src, size_t bytes, cuda_failure *);
    bool (*copy)(void *self, void *dst, const void *src, size_t bytes, cuda_failure *);
    bool (*wait)(void *self, cuda_failure *);
    // `stop`, or null: when it becomes true, a step of many rows ends within about a layer, not finished.
    bool (*run)(void *self, const graph *, void *work, const std::atomic<bool> *stop, bool *finished,
                cuda_failure *);
    size_t (*work_bytes)(const void *self, const node *);
    const char *(*variant)(const void *self, const node *);
    const char *(*variant_name)(op, size_t i);  // of the list, best first; null behind its end
    size_t (*recorded)(const void *self);       // graphs
    // Bytes a second that a sum over `bytes` reads, or over as much as there is room for; `read` says how
    // much that was.
    bool (*read_rate)(void *self, size_t bytes, size_t *read, double *rate, cuda_failure *);
};

// The one function that the shared object exports, ds_cuda_plugin: null when it was made for another layout.
using cuda_plugin_fn = const cuda_plugin *(*)(uint64_t layout);
constexpr const char *cuda_plugin_symbol = "ds_cuda_plugin";

}  // namespace ds
