// The interface between the library and libdeepseek-cuda.so: plain functions that never throw, since the two
// may be linked to different C++ run times. Failures are reported in a cuda_failure. Graphs and nodes cross
// it in their memory layout, so both sides must be compiled from the same headers, which plugin_layout
// checks.
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

// A hash that changes with anything that crosses the interface.
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

// `self` is what open returned. A function that fails returns false and leaves its outputs alone. Devices
// count from 0.
struct cuda_plugin {
    bool (*count)(int32_t *devices, cuda_failure *);
    bool (*describe)(int32_t device, cuda_device *, cuda_failure *);
    // forced: pairs of an operation's and a variant's name, then null. record: graphs with an identity may be
    // recorded. overlap: kernels may begin early.
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
    // stop may be null. When it becomes true, a step of many rows ends unfinished within about a layer.
    bool (*run)(void *self, const graph *, void *work, const std::atomic<bool> *stop, bool *finished,
                cuda_failure *);
    size_t (*work_bytes)(const void *self, const node *);
    const char *(*variant)(const void *self, const node *);
    const char *(*variant_name)(op, size_t i);  // in the order of the list; null after its end
    size_t (*recorded)(const void *self);       // number of recorded graphs
    // Bytes per second at which a sum reads `bytes`, or as many as can be allocated; `read` is how many that
    // were.
    bool (*read_rate)(void *self, size_t bytes, size_t *read, double *rate, cuda_failure *);
};

// The only exported function, ds_cuda_plugin: null when it was compiled for another layout.
using cuda_plugin_fn = const cuda_plugin *(*)(uint64_t layout);
constexpr const char *cuda_plugin_symbol = "ds_cuda_plugin";

}  // namespace ds
