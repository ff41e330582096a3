// What runs a graph: a table of functions over memory and threads (or streams) of its own. The same graph,
// placed in a backend's memory, gives on every backend what the reference forward of its operations gives, to
// the bit wherever numerics.md says so.
#pragma once

#include "graph.h"

#include <atomic>

namespace ds {

struct backend;

struct backend_fns {
    const char *name;
    // its memory can be used through pointers, and weights stay where they were mapped
    bool host_memory;
    void (*free)(backend *);
    void *(*alloc)(backend *, size_t bytes);  // throws status::memory
    void (*release)(backend *, void *p, size_t bytes);
    // Copies and runs follow one another in the order of the calls. `src` may be used again when upload
    // returns; `dst` is there when download does.
    void (*upload)(backend *, void *dst, const void *src, size_t bytes);
    void (*download)(backend *, void *dst, const void *src, size_t bytes);
    void (*copy)(backend *, void *dst, const void *src, size_t bytes);  // within its memory
    // Memory of the host, from and to which copies go at full speed.
    void *(*alloc_host)(backend *, size_t bytes);  // throws status::memory
    void (*release_host)(backend *, void *p, size_t bytes);
    // returns when everything that was begun is done. Throws status::device
    void (*wait)(backend *);
    // Scratch for the node at its present shape, in bytes; grows with every dimension of the shapes.
    size_t (*work_bytes)(const backend *, const node &);
    // Runs the nodes in order; every tensor has its data, `work` holds the largest work_bytes. Allocates
    // nothing. Returns false when `stop` became true between two nodes (what was computed is then worthless).
    // What fails on a device may show as late as at the next download. Throws status::device.
    bool (*run)(backend *, const graph &, void *work, const std::atomic<bool> *stop);
    // The name of the variant that run would take for this node; null when there is none, which must then not
    // be run. A node of a smaller shape has one, too.
    const char *(*variant)(const backend *, const node &);
};

struct backend {
    const backend_fns *fn;
};

struct backend_deleter {
    void operator()(backend *b) const { b->fn->free(b); }
};
using backend_ptr = std::unique_ptr<backend, backend_deleter>;

// Memory of a backend, or of the host for its copies, owned.
class backend_memory {
public:
    enum kind { own, for_copies };

    backend_memory() = default;
    backend_memory(std::shared_ptr<backend> b, size_t bytes, kind k = own)
        : kind_(k), bytes_(bytes),
          data_(bytes ? (k == own ? b->fn->alloc : b->fn->alloc_host)(b.get(), bytes) : nullptr) {
        backend_ = std::move(b);
    }
    backend_memory(backend_memory &&o) noexcept { *this = std::move(o); }
    backend_memory &operator=(backend_memory &&o) noexcept {
        std::swap(backend_, o.backend_);
        std::swap(kind_, o.kind_);
        std::swap(bytes_, o.bytes_);
        std::swap(data_, o.data_);
        return *this;
    }
    ~backend_memory() {
        if (data_)
            (kind_ == own ? backend_->fn->release : backend_->fn->release_host)(backend_.get(), data_,
                                                                                bytes_);
    }
    void *data() const { return data_; }
    size_t size() const { return bytes_; }

private:
    std::shared_ptr<backend> backend_;
    kind kind_ = own;
    size_t bytes_ = 0;
    void *data_ = nullptr;
};

}  // namespace ds
