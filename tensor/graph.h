// A graph: operations in the order in which they run, each with its sources and its result. It is rebuilt for
// a step of another size, in storage that was reserved once. A plan refers to nodes by their index, not by
// their address.
#pragma once

#include "tensor.h"

#include <bitset>
#include <cassert>
#include <cstring>
#include <type_traits>
#include <vector>

namespace ds {

struct no_params {};

class graph;
class backward;

enum class op : uint8_t {
#define DS_OP(name, ...) name,
#include "ops.def"
#undef DS_OP
    count
};

using op_set = std::bitset<static_cast<size_t>(op::count)>;

constexpr int max_sources = 16;
constexpr size_t max_params_bytes = 64;

struct node {
    op kind;
    tensor out;
    const tensor *src[max_sources];  // null where an optional source is absent
    alignas(8) unsigned char params[max_params_bytes];

    template <class P> const P &as() const {
        static_assert(std::is_trivially_copyable_v<P> && sizeof(P) <= max_params_bytes);
        return *reinterpret_cast<const P *>(params);
    }
};

// What the one row of ops.def says of an operation.
struct op_info {
    const char *name;
    int sources;
    // checks the sources and sets out's format and shape; throws status::internal
    void (*shape)(node &);
    void (*reference)(const node &);  // slow and obvious, any strides, any format
    bool cpu, cuda;
    // Adds the nodes that compute the sources' gradients from the result's, and gives them (backward.h);
    // null: there is none.
    void (*grad)(backward &, const node &n, const tensor *dy);
    // Of a fused operation: adds the primitive operations that it equals, over n's sources, and returns the
    // last one's result; null where this node equals none. A primitive has no such function.
    tensor *(*expand)(graph &, const node &n);
};
const op_info &info(op k);

class graph {
public:
    explicit graph(size_t max_nodes);  // throws status::internal when more are added
    graph(const graph &) = delete;
    void reset();  // forgets everything, keeps the storage

    // If not 0: every graph of this identity has the same nodes over the same memory, so a backend may keep
    // what it compiled for it. The contents of the memory may differ.
    uint64_t identity = 0;

    // A tensor over the caller's bytes (inputs of a step).
    tensor *input(format type, std::initializer_list<int64_t> ne, void *data, const char *name);
    // The same bytes in another shape; `t` must be contiguous, or be rows apart that stay rows. Rows that
    // have scales keep their length.
    tensor *reshape(const tensor *t, std::span<const int64_t> ne);
    tensor *reshape(const tensor *t, std::initializer_list<int64_t> ne) {
        return reshape(t, std::span(ne.begin(), ne.size()));
    }
    // The view of `base` that `view` is of its own base; base is contiguous and of the same shape as that.
    tensor *view_like(const tensor *view, const tensor *base);
    // Elements [first, first + count) of every row, as a view.
    tensor *slice(const tensor *t, int64_t first, int64_t count);
    // Heads [first, first + count) of t[n, heads, d], as a view.
    tensor *heads(const tensor *t, int64_t first, int64_t count);
    // Adds a node, applies the shape rule, and returns its result.
    template <class P> tensor *add(op k, std::span<const tensor *const> src, const P &p) {
        node &n = append(k, src);
        std::memcpy(n.params, &p, sizeof p);
        return complete(n);
    }
    template <class P> tensor *add(op k, std::initializer_list<const tensor *> src, const P &p) {
        return add(k, std::span(src.begin(), src.size()), p);
    }
    // From now on these operations, which are fused, are added as what they expand into.
    void expand(op_set fused) { expanded_ = fused; }
    // From now on the results of these nodes, by number, are also narrowed to 16 bits, by a node right after
    // theirs that does not count.
    void narrow(std::vector<bool> results, format to) {
        narrowed_ = std::move(results);
        narrow_to_ = to;
    }
    // Begins a block, or ends the last one: the results of a block's nodes may be computed again from t and
    // from what comes before all blocks (backward.h).
    void mark(const tensor *t);
    struct block_start {
        const tensor *t;
        size_t nodes;  // so far
    };
    // Retains t's bytes until the end of the run.
    void keep(const tensor *t);

    std::span<node> nodes() { return nodes_; }
    std::span<const node> nodes() const { return nodes_; }
    std::span<tensor> views() { return views_; }
    std::span<const tensor *const> kept() const { return kept_; }
    std::span<const block_start> blocks() const { return blocks_; }

private:
    node &append(op k, std::span<const tensor *const> src);
    tensor *part(const tensor *t, int dim, int64_t first, int64_t count, const char *what);
    tensor *complete(node &n);
    size_t max_nodes_;
    std::vector<node> nodes_;    // never grows past its reserve: addresses are stable until reset
    std::vector<tensor> views_;  // inputs and views
    std::vector<const tensor *> kept_;
    std::vector<block_start> blocks_;
    op_set expanded_;
    std::vector<bool> narrowed_;
    format narrow_to_ = format::f32;
    size_t narrows_ = 0;  // nodes that were added so
};

}  // namespace ds
