// The gradient part of a graph: added after the forward part, node by node from the last to the first. Each
// operation's gradient lies beside its forward (ops/<name>.cpp, <name>_grad).
// Invariant: gradients of weights are added in place to sums that the caller owns, row by row in the order
// of rows, so that they do not depend on how a batch is cut into graphs. A sum over other things has one
// order too (numerics.h, "Gradients").
#pragma once

#include "op.h"

#include <unordered_map>

namespace ds {

// A weight, and the sum of its gradients: f32, contiguous, of the weight's shape.
struct gradient_sum {
    const tensor *weight, *sum;
};

class backward {
public:
    graph &g;

    // The nodes that `graph` has now are the forward part. A fused operation without a gradient of its own
    // must have been added as its primitives (ops_to_expand). `again`: for each node of the forward part,
    // whether its result is computed again where a gradient needs it, so that it need not be retained until
    // then; empty: none. Results that are computed again are made of others that are, or are retained.
    // `stored`: what values are rounded to for gradients, f32, bf16 or f16. In 16 bits, norms, gates and
    // rotations are always made of rounded values, whatever `again` says, so that it changes no bit.
    backward(graph &graph, std::span<const gradient_sum> sums, std::vector<bool> again = {},
             format stored = format::f32);

    // Adds the gradient part, from the gradients given so far (of the loss by results). With `until`, a
    // node's result, that node's gradient is returned and not passed on to its sources. Throws
    // status::internal, naming it, for an operation without a gradient.
    const tensor *run(const tensor *until = nullptr);
    // By nodes of the forward part, those that graph::narrow added not counted: whose results were needed in
    // 16 bits. A graph that is made again with these narrowed need not retain them in f32.
    std::vector<bool> needed() const;

    // ---- For gradients of operations

    // Whether a gradient of t serves any weight.
    bool wanted(const tensor *t) const;
    // A gradient of t, or of some of its views, each of the shape of what it belongs to; several are added.
    // The gradient of pages, as kv_write returns them, are those of the keys and values that were written,
    // [n, heads, key + value].
    void give(const tensor *t, const tensor *gradient);
    // t's value for use in the gradient part: as the forward part has it; rounded to what is stored, in f32;
    // and the same in the format that is stored, as a factor of matmul_back_w's.
    const tensor *exact(const tensor *t);
    const tensor *value(const tensor *t);
    const tensor *factor(const tensor *t);
    // What was made of values, in the format that is stored.
    const tensor *narrowed(const tensor *t);
    // The sum of w's gradients, or null: none is asked for.
    const tensor *sum_of(const tensor *w);

private:
    const tensor *origin(const tensor *t) const;  // the node's result or input that t is, or is a view of
    const tensor *total(const tensor *t);         // of the gradients of a node's result; null: there is none
    const tensor *joined(const tensor *t, std::span<const std::pair<const tensor *, const tensor *>> parts);

    using tensors = std::unordered_map<const tensor *, const tensor *>;
    // The node again, of sources that `of` gives.
    const tensor *clone(const node &n, const tensor *(backward::*of)(const tensor *));
    bool is_exact(const tensor *o) const;   // whether value() is exact()
    const tensor *stored(const tensor *o);  // a node's result in the format that is stored

    size_t forward_nodes_;
    format stored_;
    std::vector<bool> again_, wanted_, needed_;
    std::unordered_map<const tensor *, size_t> node_of_;
    tensors sums_, exact_, value_, factor_, in_forward_;
    // by origin: what the gradient belongs to, and the gradient
    std::unordered_map<const tensor *, std::vector<std::pair<const tensor *, const tensor *>>> given_;
};

// Gradients that operations share: of a norm's x and w, and of the x and w of matmul and head_matmul.
void give_norm_gradients(backward &b, const tensor *x, const tensor *w, const rms_norm_params &p,
                         const tensor *dy);
void product_grad(backward &b, const node &n, const tensor *dy);
// And of routed_add and routed_spread, whose rows have so many parts.
void give_routed_gradients(backward &b, const node &n, const tensor *dy, int32_t parts);

// Operations whose results cost little to compute again.
bool is_cheap(op k);
// Fused operations that a graph with gradients is made without.
op_set ops_to_expand();

}  // namespace ds
