// The backend interface: a table of functions that owns memory and threads (or streams) and runs graphs.
// Invariant: every backend computes what the operations' reference forwards compute, bit for bit wherever
// docs/numerics.md says so.
#pragma once

#include "graph.h"

#include <atomic>

namespace ds {

struct backend;

struct backend_fns {
    const char *name;
    // the host can dereference its memory, and weights stay where they were mapped
    bool host_memory;
    void (*free)(backend *);
    void *(*alloc)(backend *, size_t bytes);  // throws status::memory
    void (*release)(backend *, void *p, size_t bytes);
    // Copies and runs execute in the order of the calls. `src` may be reused once upload returns; `dst` is
    // complete once download returns.
    void (*upload)(backend *, void *dst, const void *src, size_t bytes);
    void (*download)(backend *, void *dst, const void *src, size_t bytes);
    void (*copy)(backend *, void *dst, const void *src, size_t bytes);  // within its memory
    // Host memory from and to which copies run at full speed.
    void *(*alloc_host)(backend *, size_t bytes);  // throws status::memory
    void (*release_host)(backend *, void *p, size_t bytes);
    // Returns when all work begun so far is done. Throws status::device.
    void (*wait)(backend *);
    // Scratch bytes for the node at its current shape. Monotone in every dimension.
    size_t (*work_bytes)(const backend *, const node &);
    // Runs the nodes in order. Every tensor must have its data; `work` holds the largest work_bytes.
    // Allocates nothing. Returns false if `stop` became true between two nodes; the results are then
    // incomplete. A device failure may surface as late as the next download. Throws status::device.
    bool (*run)(backend *, const graph &, void *work, const std::atomic<bool> *stop);
    // The name of the variant that run would choose for this node. Null if there is none: such a node must
    // not be run. If a node has a variant, so has one of a smaller shape.
    const char *(*variant)(const backend *, const node &);
};

struct backend {
    const backend_fns *fn;
};

struct backend_deleter {
    void operator()(backend *b) const { b->fn->free(b); }
};
using backend_ptr = std::unique_ptr<backend, backend_deleter>;

// Owned memory of a backend, or host memory for its copies.
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
